"""Example: ETCL, the contrastive loss of translations, and distillation in one table of terms.

    python tools/train.py --stage=mural
    python tools/extract.py --model=runs/tiny/mural-s0 --name=teacher --of=texts --languages=en \\
        --records=data/scenes/train,data/scenes/bitext --out_dir=data/taught
    python tools/train.py --config=configs/examples/mixture.py --stage=distil

A step reads one batch of each source: images with captions in two languages (ETCL), translations in
any two languages (MURAL), and texts in any language with the vector of their English version.
"""

from .. import base, distil, etcl, mural


def get_config(stage):
    """Returns the config of the stage `distil`, or of `mural`, from which it starts.

    Raises:
        ValueError: the stage is unknown.
    """
    if stage == "mural":
        return mural.get_config()
    if stage != "distil":
        raise ValueError(f"unknown stage {stage!r}; known: mural, distil")
    config = etcl.get_config()
    config.stage, config.size = stage, "mixture"  # runs are written to runs/mixture/
    config.sources.bitext = base.source("tiny", "bitext", dict(source="text", target="text"))
    for term in config.terms.values():  # the three terms of ETCL
        term.weight = 1 / 6
    config.terms.source_target = base.term("source", "target", weight=1 / 4)
    distil.add_distillation(config, "tiny", weight=1 / 4)
    config.report.compare_with, config.report.control = ("mural",), "mural"
    return config
