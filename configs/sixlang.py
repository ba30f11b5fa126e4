"""Ablation of the paper's Table 7: image-text pairs in six languages, without triples."""

from . import base, etcl


def get_config(size="tiny"):
    """Returns a config with L_image-caption on ETCL's images and captions in all its languages."""
    config = etcl.follow_up(base.base_config("sixlang", size), size)
    # min_languages=2 selects the images of ETCL, because ETCL needs two texts per image.
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
