"""MURAL and ETCL with the sigmoid loss of SigLIP in the place of the contrastive loss.

    python tools/train.py --config=configs/sweeps/sigmoid.py --stage=etcl

The sigmoid loss classifies each pair of two examples of a batch as matching or not. The model
learns a temperature and a bias.
"""

from .. import base, control, etcl, mural

STAGES = {"mural": mural, "control": control, "etcl": etcl}


def get_config(stage):
    """Returns the config of a stage at size tiny; the scalars start at SigLIP's initial values.

    Raises:
        ValueError: the stage is unknown.
    """
    if stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r}; known: {', '.join(STAGES)}")
    config = STAGES[stage].get_config()
    config.size = "sigmoid"  # runs are written to runs/sigmoid/
    config.model.scalars = dict(temperature=dict(shared=0.1), bias=dict(shared=-10.0))
    scalars = dict(temperature="shared", bias="shared")
    for name, term in list(config.terms.items()):
        with config.terms.unlocked():
            config.terms[name] = base.term(term.x, term.y, term.weight, "sigmoid", **scalars)
    return config
