"""Selects images and captions of a record set for a contact sheet."""

import collections
import io
import warnings

import numpy as np

from tf_mural.data.records import deserialize

_MAX_SIDE = 256  # maximum width and height of an image on a sheet, in pixels

# Number of records that are drawn for each image to show. More than one record is drawn, because
# some images cannot be decoded.
_CANDIDATES_PER_IMAGE = 4


def sample_captioned_images(record_set, count, captions=8, languages=None, seed=0):
    """Selects images at random, with captions that are balanced over the languages.

    Args:
        record_set: `data.records.RecordSet`.
        count: Number of images.
        captions: Maximum number of texts per image. Records without texts show their label.
        languages: Codes of the languages to show; images without a text in these languages are
            left out. Default: all languages.
        seed: Seed of the random draw.

    Returns:
        Tuple (images, captions). images: list of uint8 (h, w, 3) arrays, reduced to at most 256
        pixels per side. captions: list of the (language, text) pairs of each image. Images that
        cannot be decoded are skipped.

    Raises:
        UserError: A record is damaged.
    """
    is_candidate = record_set.image_counts > 0
    if languages is not None:
        columns = [i for i, code in enumerate(record_set.languages) if code in languages]
        is_candidate = is_candidate & record_set.has_language[:, columns].any(axis=1)
    candidates = np.flatnonzero(is_candidate)
    num_drawn = min(len(candidates), count * _CANDIDATES_PER_IMAGE)
    drawn = np.random.default_rng(seed).choice(candidates, num_drawn, replace=False)
    class_names = record_set.manifest.get("classes") or []
    num_shown = collections.Counter()  # number of selected captions by language
    images, texts = [], []
    for index in drawn:
        if len(images) == count:
            break
        record = deserialize(record_set.read([index], verify=True)[0])
        image = _decode(record.images[0])
        if image is None:
            continue
        images.append(image)
        pairs = _select_captions(record, captions, languages, num_shown)
        texts.append(pairs or _label_caption(record, class_names))
    return images, texts


def _decode(data):
    """Returns the pixels of an image, or None if it cannot be decoded."""
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (_MAX_SIDE, _MAX_SIDE))  # decodes a large JPEG at a reduced size
            image = image.convert("RGBA" if "transparency" in image.info else image.mode)
            if image.mode in ("RGBA", "LA", "PA"):
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            image = image.convert("RGB")
            image.thumbnail((_MAX_SIDE, _MAX_SIDE))
            return np.asarray(image)
    except Exception:  # the type of the error depends on the image format
        return None


def _select_captions(record, count, languages, num_shown):
    """Selects texts of a record, in order, and prefers the languages with the fewest captions."""
    num_in_record, ranked = collections.Counter(), []
    for index, (code, _) in enumerate(record.texts):
        if languages is None or code in languages:
            ranked.append((num_in_record[code], num_shown[code], index))
            num_in_record[code] += 1
    selected = sorted(index for _, _, index in sorted(ranked)[:count])
    texts = [record.texts[index] for index in selected]
    num_shown.update(code for code, _ in texts)
    return texts


def _label_caption(record, class_names):
    if record.label is None:
        return []
    has_name = record.label < len(class_names)
    return [(str(record.label), class_names[record.label] if has_name else "(no name)")]
