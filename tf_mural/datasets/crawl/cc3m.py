"""`cc3m`: Conceptual Captions, 3.3 million links with alt-texts, and 15,840 for validation.

The captions are those of the official lists, caption TAB url. The images are those that img2dataset
downloaded from their links, in any of its formats, or tars from other hosts with a url in each
.json. An image is found by its URL. Images without a row and rows without an image are skipped and
counted. Without a list, use `crawl`, which takes the captions next to the images.
"""

from tf_mural.datasets.crawl import conceptual, join_captions

SPLITS = ("train", "val")
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # A caption may mention left or right.
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
        raw_dir: folder of Train_GCC-training.tsv and Validation_GCC-1.1.0-Validation.tsv, which
            contains the output of img2dataset at any depth. Files whose path names another split
            are ignored.
        split: train or val.
        images: folders of the images, relative to raw_dir. Default: raw_dir.
        captions: the list of captions, relative to raw_dir, if it has another name.
        by_number: interpret the key of an image as the number of its row, from 0, if there are no
            URLs; img2dataset with shards of 10,000 names images this way.

    Returns:
        A list of units.

    Raises:
        UserError: no images, no list, or a list in another format.
    """
    return join_captions.plan(
        *conceptual.find_sources(raw_dir, split, _LISTS, _FORMAT, images, captions, by_number)
    )


def splits(raw_dir, images=(), captions=None, **_):
    """Returns the splits that have a list and images."""
    return conceptual.list_splits(raw_dir, _LISTS, images, captions)


def fingerprint(raw_dir, split, images=(), captions=None, by_number=False):
    """Returns a hash of the size and ends of the list, and of the names of the image files."""
    return conceptual.fingerprint(
        *conceptual.find_sources(raw_dir, split, _LISTS, _FORMAT, images, captions, by_number)
    )
