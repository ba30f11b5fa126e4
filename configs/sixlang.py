"""Ablation of the paper's Table 7: six languages of image-text pairs, no triples."""

from configs import base, etcl


def get_config(size="tiny"):
    """L_image-caption on the images of ETCL with a caption in any of its languages."""
    config = etcl.follow_up(base.base_config("sixlang", size), size)
    # min_languages: the same images as ETCL, which needs two texts of each.
    config.sources.captions = base.source(
        size,
        "triples",
        dict(image="image", caption="text"),
        base.TRIPLE_LANGUAGES,
        walk="combinations",
        min_languages=2,
    )
    config.terms.image_caption = base.term("image", "caption", weight=1.0)
    if size == "tiny":
        config.report.beside, config.report.control = ("mural", "etcl", "control"), "control"
    return config
