"""Ablation of the paper's Tables 5, 6 and 13: image-text pairs of one language, after MURAL."""

from . import base, etcl


def get_config(size="tiny"):
    """Returns a config with L_image-caption on ETCL's images and captions in one language."""
    config = etcl.follow_up(base.base_config("one_language", size), size)
    config.language = ("de",)  # --config.language=ja
    config.sources.captions = base.source(size, "triples", dict(image="image", caption="text"))
    config.sources.captions.languages = config.get_ref("language")
    config.terms.image_caption = base.term("image", "caption", weight=1.0)
    if size == "tiny":
        config.report.compare_with, config.report.control = ("mural",), "mural"
    return config
