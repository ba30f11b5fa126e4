"""`coco`: the photographs of MS-COCO with captions in English and in any other language.

The splits are those of Karpathy: `train`, `val`, `test` and `restval`; `restval` is often added to
`train`. The split `texts` has only the captions of `train` and does not need the photographs.

English captions come from COCO's annotations or, if these are missing, from dataset_coco.json.
Japanese (STAIR) and Korean (AI Hub) captions are added if their files exist; other languages can be
added with the option `texts`. Captions are joined by image id, so a language may lack some images.
If an image has the same caption twice, both copies are kept, as in published results.
"""

import dataclasses
import hashlib
import os

from tf_mural.data.records import Record, Skipped
from tf_mural.datasets.coco import image_store, karpathy
from tf_mural.datasets.coco.captions import load_captions
from tf_mural.errors import UserError, lookup

SPLITS = ("train", "val", "test", "restval", "texts")
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # Flipped images may contradict captions.
_WITHOUT_IMAGES = ("texts",)
_RECORDS_PER_UNIT = 2000


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit: images and their captions.

    Attributes:
        locations: folders and zips of the images; () for records without images.
        rows: tuples (file name, ((language, text), ...)).
        unmatched: descriptions of captions whose image is in no split; they are counted as dropped.
    """

    locations: tuple[str, ...]
    rows: tuple
    unmatched: tuple[str, ...] = ()


def plan(
    raw_dir: str,
    split: str,
    restval: bool = False,
    texts: tuple[str, ...] = (),
    images: tuple[str, ...] = (),
    languages: tuple[str, ...] | None = None,
):
    """Loads the captions of a split and joins them by image id.

    Args:
        raw_dir: folder of dataset_coco.json and the other files that `--list` shows.
        split: "train", "val", "test", "restval", or "texts" for the captions of the split `train`
            without photographs.
        restval: whether to add the images of the split `restval` to `train` and `texts`.
        texts: additional captions as language:file, such as it:translations_it.tsv. The file,
            relative to raw_dir, has image ids and texts as TSV, JSON or JSONL. A language may have
            several files. These captions replace other captions of the same language.
        images: folders, relative to raw_dir, that contain train2014 and val2014, their zips, or the
            photographs themselves. Default: raw_dir and its folders images, coco and coco/images.
        languages: language codes to keep, such as ja. Default: all languages that have files.

    Returns:
        List of `Unit`.

    Raises:
        UserError: the split or a language is unknown, files are missing or corrupt, or no
            photograph exists.
    """
    all_images = karpathy.load_images(raw_dir)
    split_images = _select_split(all_images, split, restval)
    locations = ()
    if split not in _WITHOUT_IMAGES:
        candidates = image_store.find_locations(raw_dir, images)
        names = {image.file_name for image in split_images}
        locations = image_store.select_locations(candidates, names)
        if not locations:
            raise UserError(
                f"none of the {len(names):,} photographs of {split}, such as "
                f"{split_images[0].file_name}, is in {' or '.join(candidates)}; set the option "
                "images to the folder of train2014 and val2014 or their zips, or take the split "
                "texts"
            )
    by_language, unmatched = load_captions(raw_dir, all_images, split_images, texts, languages)
    rows = []
    for image in split_images:
        row_texts = [
            (code, text)
            for code, captions in by_language
            for text in captions.get(image.image_id, ())
        ]
        rows.append((image.file_name, tuple(row_texts)))
    starts = range(0, len(rows), _RECORDS_PER_UNIT)
    units = [Unit(locations, tuple(rows[start : start + _RECORDS_PER_UNIT])) for start in starts]
    units[0] = dataclasses.replace(units[0], unmatched=unmatched)
    return units


def read(unit):
    """Yields a `Record` or `Skipped` for each row of a unit, and `Skipped` for dropped texts."""
    for description in unit.unmatched:
        yield Skipped("text of no image", description, text_only=True)
    with image_store.ImageStore(unit.locations) as store:
        for name, row_texts in unit.rows:
            images = ()
            if unit.locations:
                data, reason = store.load(name)
                if reason:
                    yield Skipped(reason, name)
                    continue
                images = (data,)
            texts = tuple((code, text) for code, text in row_texts if text)
            for code, text in row_texts:
                if not text:
                    yield Skipped("blank text", f"{name}, {code}", text_only=True)
            if texts:
                yield Record(os.path.splitext(name)[0], images, texts)
            else:
                yield Skipped("no text", name)


def splits(raw_dir, restval=False, images=(), **_):
    """Returns the splits of which some photographs exist, and the split `texts`.

    With the option `restval`, the split `restval` is omitted, because `train` then includes it.
    If the option `images` is given, all splits are returned; `plan` then reports a wrong folder.
    """
    candidates = tuple(split for split in SPLITS if split != "restval" or not restval)
    if images:
        return candidates
    all_images, locations = karpathy.load_images(raw_dir), image_store.find_locations(raw_dir, ())
    names = {
        split: {image.file_name for image in all_images if image.split == split}
        for split in SPLITS
        if split not in _WITHOUT_IMAGES
    }
    if restval:
        names["train"] |= names["restval"]
    with_images = {
        split
        for split, split_names in names.items()
        if image_store.select_locations(locations, split_names)
    }
    return tuple(s for s in candidates if s in with_images or s in _WITHOUT_IMAGES)


def fingerprint(raw_dir, split, **options):
    """Returns a hash of the texts and the image sizes; folders and zips give the same hash."""
    digest = hashlib.sha256()
    units = plan(raw_dir, split, **options)
    with image_store.ImageStore(units[0].locations) as store:  # All units have the same locations.
        for unit in units:
            digest.update(repr((unit.rows, unit.unmatched)).encode())
            for name, _ in unit.rows:
                digest.update(b"%d," % store.size(name))
    return digest.hexdigest()


def _select_split(all_images, split, restval):
    lookup(dict.fromkeys(SPLITS), split, "split of coco")
    selected = {"train" if split in _WITHOUT_IMAGES else split}
    if restval and "train" in selected:
        selected.add("restval")
    images = [image for image in all_images if image.split in selected]
    if not images:
        listed = " and ".join(sorted(selected))
        raise UserError(f"{karpathy.LIST} contains no image of {listed}; download it again")
    return images
