"""Draws records of a record set for a page with their images and captions."""

import collections
import dataclasses
import io
import warnings

import numpy as np

from tf_mural.data.records import deserialize

_MAX_SIDE = 256  # maximum width and height of an image on a page, in pixels


@dataclasses.dataclass
class Caption:
    """A text of a record.

    Attributes:
        language: language code.
        text: the text.
        num_tokens: number of tokens without [CLS] and [SEP]; None: unknown.
        is_cut: whether the text has more tokens than a model reads.
    """

    language: str
    text: str
    num_tokens: int | None = None
    is_cut: bool = False


@dataclasses.dataclass
class SampledRecord:
    """A record of a page.

    Attributes:
        index: number of the record in the record set, from 0.
        id: `Record.id`.
        image: first image as PNG or JPEG, reduced to at most 256 pixels per side; None: the image
            cannot be decoded.
        size: (width, height) in pixels of the first image; None: the header cannot be read.
        num_images: number of images of the record.
        captions: list of `Caption`.
        omitted: {language: number of texts of the record that are not in `captions`}.
        label: number and name of the class, such as "7 (dog)"; None: the record has no label.
    """

    index: int
    id: str
    image: bytes | None
    size: tuple | None
    num_images: int
    captions: list
    omitted: dict
    label: str | None = None


def sample_records(record_set, count, captions=8, languages=None, seed=0, tokenizer=None):
    """Draws records with images at random, with captions that are balanced over the languages.

    Args:
        record_set: `data.records.RecordSet`.
        count: Number of records.
        captions: Maximum number of texts per record.
        languages: Codes of the languages to show; records without a text in these languages are
            left out. Default: all languages.
        seed: Seed of the random draw.
        tokenizer: `data.tokenizers.Tokenizer` that counts tokens; None: they are not counted.

    Returns:
        List of `SampledRecord`.

    Raises:
        UserError: A record is damaged.
    """
    is_candidate = record_set.image_counts > 0
    if languages is not None:
        columns = [i for i, code in enumerate(record_set.languages) if code in languages]
        is_candidate = is_candidate & record_set.has_language[:, columns].any(axis=1)
    candidates = np.flatnonzero(is_candidate)
    num_drawn = min(len(candidates), count)
    drawn = np.random.default_rng(seed).choice(candidates, num_drawn, replace=False)
    class_names = record_set.manifest.get("classes") or []
    num_shown = collections.Counter()  # number of selected captions by language
    samples = []
    for index in drawn.tolist():
        record = deserialize(record_set.read([index], verify=True)[0])
        selected = _select_captions(record, captions, languages, num_shown)
        omitted = collections.Counter(code for code, _ in record.texts)
        omitted.subtract(caption.language for caption in selected)
        image, size = _thumbnail(record.images[0])
        samples.append(
            SampledRecord(
                index,
                record.id,
                image,
                size,
                len(record.images),
                selected,
                {code: number for code, number in omitted.items() if number},
                _label(record, class_names),
            )
        )
    if tokenizer:
        _count_tokens([c for sample in samples for c in sample.captions], tokenizer)
    return samples


def _thumbnail(data):
    """Returns (image file of a reduced image or None, (width, height) of the image or None)."""
    from PIL import Image

    size = None
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            size, is_jpeg = image.size, image.format == "JPEG"
            image.draft("RGB", (_MAX_SIDE, _MAX_SIDE))  # decodes a large JPEG at a reduced size
            image = image.convert("RGBA" if "transparency" in image.info else image.mode)
            if image.mode in ("RGBA", "LA", "PA"):
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            image = image.convert("RGB")
            image.thumbnail((_MAX_SIDE, _MAX_SIDE))
            file = io.BytesIO()
            image.save(file, **dict(format="JPEG", quality=90) if is_jpeg else dict(format="PNG"))
            return file.getvalue(), size
    except Exception:  # the type of the error depends on the image format
        return None, size


def _select_captions(record, count, languages, num_shown):
    """Selects texts of a record, in order, and prefers the languages with the fewest captions."""
    num_in_record, ranked = collections.Counter(), []
    for index, (code, _) in enumerate(record.texts):
        if languages is None or code in languages:
            ranked.append((num_in_record[code], num_shown[code], index))
            num_in_record[code] += 1
    selected = sorted(index for _, _, index in sorted(ranked)[:count])
    captions = [Caption(*record.texts[index]) for index in selected]
    num_shown.update(caption.language for caption in captions)
    return captions


def _label(record, class_names):
    if record.label is None:
        return None
    has_name = record.label < len(class_names)
    return f"{record.label} ({class_names[record.label] if has_name else 'no name'})"


def _count_tokens(captions, tokenizer):
    texts = [caption.text for caption in captions]
    lengths = tokenizer.pieces(texts).row_lengths().numpy().tolist() if texts else []
    for caption, length in zip(captions, lengths, strict=True):
        caption.num_tokens = length
        caption.is_cut = length > tokenizer.max_tokens - 2  # without [CLS] and [SEP]
