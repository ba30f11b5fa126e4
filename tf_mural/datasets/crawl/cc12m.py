"""`cc12m`: Conceptual 12M, 12.4 million links with alt-texts.

The captions come from the official list, whose lines are url TAB caption; `cc3m` has the opposite
order. The module `cc3m` describes how images and list are joined. 36 to 38 % of the links
are dead; published tars of the images, such as cc12m-train-0000.tar, contain more images than can
still be downloaded.
"""

from tf_mural.datasets.crawl import conceptual, join_captions

SPLITS = ("train",)
AUGMENTATIONS = ("crop", "flip")
USUAL_AUGMENTATIONS = ("crop",)  # Flipped images may contradict captions.
_LISTS = {"train": ("cc12m.tsv",)}
_FORMAT = "cc12m"

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
        raw_dir: folder that contains cc12m.tsv and, at any depth, the output of img2dataset.
        split: "train".
        images: folders of the images, relative to raw_dir. Default: raw_dir.
        captions: path of the list of captions, relative to raw_dir. Default: cc12m.tsv.
        by_number: interpret the key of an image as the number of its row, from 0, if there are no
            URLs. img2dataset uses such keys if its shards have 10,000 images.

    Returns:
        A list of units.

    Raises:
        UserError: there are no images or no list, or the list has another format.
    """
    sources = conceptual.find_sources(raw_dir, split, _LISTS, _FORMAT, images, captions, by_number)
    return join_captions.plan(raw_dir, images, *sources)


def fingerprint(raw_dir, split, images=(), captions=None, by_number=False):
    """Returns a hash of the list (size, start and end) and of the names of the image files."""
    return conceptual.fingerprint(
        *conceptual.find_sources(raw_dir, split, _LISTS, _FORMAT, images, captions, by_number)
    )
