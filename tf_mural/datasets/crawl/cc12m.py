"""`cc12m`: Conceptual 12M, 12.4 million links with alt-texts.

The captions are those of the official list, url TAB caption: the other way round than in `cc3m`,
which tells how images and list are joined. Of the links 36 to 38 % are dead by now; tars that
others host (cc12m-train-0000.tar) hold more images than one can still download.
"""

from tf_mural.datasets.crawl import conceptual, join_captions

SPLITS = ("train",)
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # A caption may say left or right.
_LISTS = {"train": ("cc12m.tsv",)}
_FORM = "cc12m"

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
        raw_dir: folder of cc12m.tsv and of what img2dataset wrote, at any depth.
        split: "train".
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


def fingerprint(raw_dir, split, images=(), captions=None, by_number=False):
    """A hash of the list's size and ends, and of which files of images there are."""
    found = conceptual.sources(raw_dir, split, _LISTS, _FORM, images, captions, by_number)
    return conceptual.fingerprint(*found)
