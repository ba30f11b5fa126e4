"""`coco`: the photographs of MS-COCO with captions in English and in any other language.

The splits are Karpathy's: train, val and test, and restval, which many add to train. The split
`texts` has what train says, without photographs, so that it needs none.

English is that of COCO's annotations, or where these are not there, of dataset_coco.json. Japanese
(STAIR) and Korean (AI Hub) come along where their files are there, what else by the option texts.
All are joined by the number of the image, so that a language may lack some images. A caption that
an image has twice stays twice: published results count it so.
"""

import dataclasses
import hashlib
import os

from tf_mural.data.records import Dropped, Record
from tf_mural.datasets.coco import captions, karpathy, photographs
from tf_mural.errors import UserError, lookup

SPLITS = ("train", "val", "test", "restval", "texts")
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # A caption may say left or right.
_WITHOUT_IMAGES = ("texts",)
_RECORDS_PER_UNIT = 2000


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some photographs: (file name, ((language, text), ...)). Without places, texts alone.

    `strays` are texts of images that are in no split, to be counted.
    """

    places: tuple[str, ...]
    rows: tuple
    strays: tuple[str, ...] = ()


def plan(
    raw_dir: str,
    split: str,
    restval: bool = False,
    texts: tuple[str, ...] = (),
    images: tuple[str, ...] = (),
    languages: tuple[str, ...] | None = None,
):
    """Reads the texts of a split, joined by the numbers of the images.

    Args:
        raw_dir: folder of dataset_coco.json, and of the other files that `--list` names.
        split: train, val, test, restval, or texts to do without the photographs of train.
        restval: adds the photographs of restval to train and texts.
        texts: more languages, such as it:translations_it.tsv: a language and a file of image
            numbers and texts, TSV, JSON or JSONL, relative to raw_dir. A language may come several
            times. What is named here is taken in place of what else there is in that language.
        images: folders, relative to raw_dir, of train2014 and val2014 or their zips, or of the
            photographs themselves. Default: raw_dir, and images, coco and coco/images in it.
        languages: codes to keep, such as ja. Default: all that have files.

    Returns:
        List of `Unit`.

    Raises:
        UserError: an unknown split or language, files that are missing or broken, or not one
            photograph.
    """
    everything = karpathy.read(raw_dir)
    chosen = _of_split(everything, split, restval)
    places = ()
    if split not in _WITHOUT_IMAGES:
        all_places = photographs.places(raw_dir, images)
        names = {one.name for one in chosen}
        places = photographs.holding(all_places, names)
        if not places:
            raise UserError(
                f"none of the {len(names):,} photographs of {split}, such as {chosen[0].name}, is "
                f"in {' or '.join(all_places)}; say with the option images where train2014 and "
                "val2014 or their zips are, or take the split texts"
            )
    by_language, strays = captions.read(raw_dir, everything, chosen, texts, languages)
    rows = []
    for one in chosen:
        own = [(code, text) for code, found in by_language for text in found.get(one.number, ())]
        rows.append((one.name, tuple(own)))
    starts = range(0, len(rows), _RECORDS_PER_UNIT)
    units = [Unit(places, tuple(rows[start : start + _RECORDS_PER_UNIT])) for start in starts]
    units[0] = dataclasses.replace(units[0], strays=strays)
    return units


def read(unit):
    """Yields a `Record` or `Dropped` for each row of a unit, and `Dropped` for single texts."""
    for stray in unit.strays:
        yield Dropped("text of no image", stray, text=True)
    with photographs.Photographs(unit.places) as opened:
        for name, found in unit.rows:
            images = ()
            if unit.places:
                data, reason = opened.load(name)
                if reason:
                    yield Dropped(reason, name)
                    continue
                images = (data,)
            texts = tuple((code, text) for code, text in found if text)
            for code, text in found:
                if not text:
                    yield Dropped("blank text", f"{name}, {code}", text=True)
            if texts:
                yield Record(os.path.splitext(name)[0], images, texts)
            else:
                yield Dropped("no text", name)


def splits(raw_dir, restval=False, images=(), **_):
    """The splits of which there are some photographs, and texts. restval once: alone or in train.

    All of them if the option images names folders, so that a wrong one is noticed.
    """
    usual = tuple(split for split in SPLITS if split != "restval" or not restval)
    if images:
        return usual
    everything, all_places = karpathy.read(raw_dir), photographs.places(raw_dir, ())
    names = {
        split: {one.name for one in everything if one.split == split}
        for split in SPLITS
        if split not in _WITHOUT_IMAGES
    }
    if restval:
        names["train"] |= names["restval"]
    there = {split for split, some in names.items() if photographs.holding(all_places, some)}
    return tuple(split for split in usual if split in there or split in _WITHOUT_IMAGES)


def fingerprint(raw_dir, split, **options):
    """A hash of the texts and of which photographs there are, the same for folders and zips."""
    digest = hashlib.sha256()
    units = plan(raw_dir, split, **options)
    with photographs.Photographs(units[0].places) as opened:  # as of every unit
        for unit in units:
            digest.update(repr((unit.rows, unit.strays)).encode())
            for name, _ in unit.rows:
                digest.update(b"%d," % opened.size(name))
    return digest.hexdigest()


def _of_split(everything, split, restval):
    lookup(dict.fromkeys(SPLITS), split, "split of coco")
    wanted = {"train" if split in _WITHOUT_IMAGES else split}
    if restval and "train" in wanted:
        wanted.add("restval")
    chosen = [one for one in everything if one.split in wanted]
    if not chosen:
        listed = " and ".join(sorted(wanted))
        raise UserError(f"{karpathy.LIST} names no image of {listed}; download it again")
    return chosen
