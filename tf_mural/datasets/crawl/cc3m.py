"""`cc3m`: Conceptual Captions, 3.3 million links with alt-texts, and 15,840 for validation.

The captions come from the official lists, whose lines are caption TAB url. The images come from
img2dataset, in any of its formats, or from other tars in which each .json file contains a url. The
row of an image is found by the URL. Images without a row and rows without an image are skipped and
counted. Without a list, use `crawl`, which reads the captions from the files next to the images.
"""

from tf_mural.datasets.crawl import conceptual, join_captions

SPLITS = ("train", "val")
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # Flipped images may contradict captions.
_LISTS = {
    "train": ("Train_GCC-training.tsv", "GCC-training.tsv", "Train%2FGCC-training.tsv"),
    "val": (
        "Validation_GCC-1.1.0-Validation.tsv",
        "GCC-1.1.0-Validation.tsv",
        "Validation%2FGCC-1.1.0-Validation.tsv",
    ),
}
_FORMAT = "cc3m"

read = join_captions.read


def plan(
    raw_dir: str,
    split: str,
    images: tuple[str, ...] = (),
    captions: str | None = None,
    by_number: bool = False,
):
    """Finds the images and the list without reading them.

    Args:
        raw_dir: folder that contains Train_GCC-training.tsv and Validation_GCC-1.1.0-Validation.tsv
            and, at any depth, the output of img2dataset. Files whose path names another split
            are ignored.
        split: train or val.
        images: folders of the images, relative to raw_dir. Default: raw_dir.
        captions: path of the list of captions, relative to raw_dir. Default: official file name.
        by_number: interpret the key of an image as the number of its row, from 0, if there are no
            URLs; img2dataset with shards of 10,000 names images this way.

    Returns:
        A list of units.

    Raises:
        UserError: there are no images or no list, or the list has another format.
    """
    sources = conceptual.find_sources(raw_dir, split, _LISTS, _FORMAT, images, captions, by_number)
    return join_captions.plan(raw_dir, images, *sources)


def splits(raw_dir, images=(), captions=None, **_):
    """Returns the splits that have a list and images."""
    return conceptual.list_splits(raw_dir, _LISTS, images, captions)


def fingerprint(raw_dir, split, images=(), captions=None, by_number=False):
    """Returns a hash of the list (size, start and end) and of the names of the image files."""
    return conceptual.fingerprint(
        *conceptual.find_sources(raw_dir, split, _LISTS, _FORMAT, images, captions, by_number)
    )
