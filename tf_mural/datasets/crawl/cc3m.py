"""`cc3m`: Conceptual Captions, 3.3 million links with alt-texts, and 15,840 to validate on.

The captions are those of the official lists, caption TAB url. The images are what img2dataset
downloaded of their links, in any of its formats, or tars that others host with a url in each .json.
An image is found by its url; an image of no row and a row of no image are dropped and counted.
Without a list, `crawl` takes the captions that lie beside the images.
"""

from tf_mural.datasets.crawl import conceptual, join_captions

SPLITS = ("train", "val")
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # A caption may say left or right.
_LISTS = {
    "train": ("Train_GCC-training.tsv", "GCC-training.tsv", "Train%2FGCC-training.tsv"),
    "val": (
        "Validation_GCC-1.1.0-Validation.tsv",
        "GCC-1.1.0-Validation.tsv",
        "Validation%2FGCC-1.1.0-Validation.tsv",
    ),
}
_FORM = "cc3m"

read = join_captions.read


def plan(
    raw_dir: str,
    split: str,
    images: tuple[str, ...] = (),
    captions: str | None = None,
    by_number: bool = False,
):
    """Finds the images and the list; reads none of either.

    Args:
        raw_dir: folder of Train_GCC-training.tsv and Validation_GCC-1.1.0-Validation.tsv, and of
            what img2dataset wrote, at any depth. Files whose path names another split are left out.
        split: train or val.
        images: folders of the images, relative to raw_dir, to search in its place.
        captions: the list of captions, relative to raw_dir, where it is called otherwise.
        by_number: takes the key of an image for the number of its row, from 0, where there are no
            urls; so does img2dataset with shards of 10,000.

    Returns:
        List of units.

    Raises:
        UserError: no images, no list, or a list of another form.
    """
    return join_captions.plan(
        *conceptual.sources(raw_dir, split, _LISTS, _FORM, images, captions, by_number)
    )


def splits(raw_dir, images=(), captions=None, **_):
    """The splits that have a list and images."""
    return conceptual.splits(raw_dir, _LISTS, images, captions)


def fingerprint(raw_dir, split, images=(), captions=None, by_number=False):
    """A hash of the list's size and ends, and of which files of images there are."""
    found = conceptual.sources(raw_dir, split, _LISTS, _FORM, images, captions, by_number)
    return conceptual.fingerprint(*found)
