"""Ablation of the paper's Table 7: six languages of image-text pairs, no triples."""

from . import base, etcl


def get_config(size="tiny"):
    """L_image-caption on the images of ETCL, with captions in all of its languages."""
    config = etcl.follow_up(base.base_config("sixlang", size), size)
    # min_languages=2 selects the images of ETCL, which needs two texts per image.
    config.sources.captions = base.source(
        size,
        "triples",
        dict(image="image", caption="text"),
        base.TRIPLE_LANGUAGES,
        epoch_unit="combinations",
        min_languages=2,
    )
    config.terms.image_caption = base.term("image", "caption", weight=1.0)
    if size == "tiny":
        config.report.compare_with, config.report.control = ("mural", "etcl", "control"), "control"
    return config
