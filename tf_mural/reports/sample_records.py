"""Which records of a set a contact sheet shows, and which of their texts."""

import collections
import io
import warnings

import numpy as np

from tf_mural.data.records import deserialize

_SIDE = 256  # pixels: images are made no larger than a sheet shows them
_TRIES = 4  # candidates a wanted image, since some do not decode


def sheet_sample(record_set, count, captions=8, languages=None, seed=0):
    """Draws images at random, with captions so that each language has its turn.

    Args:
        record_set: `records.RecordSet`.
        count: images wanted.
        captions: texts an image, at most. Records without a text show their label.
        languages: codes of the texts to show, or None for all. Only images with one of them.
        seed: of the draw.

    Returns:
        (images, captions): uint8 (h, w, 3) arrays of 256 pixels a side at most, none enlarged, and
        (language, text) pairs for each. Images that do not decode are passed over.

    Raises:
        UserError: a record is damaged.
    """
    wanted = record_set.image_counts > 0
    if languages is not None:
        columns = [i for i, code in enumerate(record_set.languages) if code in languages]
        wanted = wanted & record_set.has_language[:, columns].any(axis=1)
    candidates = np.flatnonzero(wanted)
    few = min(len(candidates), count * _TRIES)
    chosen = np.random.default_rng(seed).choice(candidates, few, replace=False)
    names, shown = record_set.manifest.get("classes") or [], collections.Counter()
    images, texts = [], []
    for index in chosen:
        if len(images) == count:
            break
        record = deserialize(record_set.read([index], verify=True)[0])
        image = _decoded(record.images[0])
        if image is None:
            continue
        images.append(image)
        texts.append(_captions(record, captions, languages, shown) or _label(record, names))
    return images, texts


def _decoded(data):
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (_SIDE, _SIDE))  # a large JPEG is decoded small
            image = image.convert("RGBA" if "transparency" in image.info else image.mode)
            if image.mode in ("RGBA", "LA", "PA"):
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            image = image.convert("RGB")
            image.thumbnail((_SIDE, _SIDE))
            return np.asarray(image)
    except Exception:  # of what kind, Pillow leaves to each format
        return None


def _captions(record, count, languages, shown):
    """Some texts of a record, in its order: first those of languages that were shown least."""
    here, ranked = collections.Counter(), []
    for place, (code, _) in enumerate(record.texts):
        if languages is None or code in languages:
            ranked.append((here[code], shown[code], place))
            here[code] += 1
    places = sorted(place for _, _, place in sorted(ranked)[:count])
    texts = [record.texts[place] for place in places]
    shown.update(code for code, _ in texts)
    return texts


def _label(record, names):
    if record.label is None:
        return []
    name = names[record.label] if record.label < len(names) else "(no name)"
    return [(str(record.label), name)]
