"""The config of MURAL and ETCL with the sigmoid loss: its terms, scalars and weight decay."""

import os
import re
import types

import numpy as np
import pytest
from conftest import ROOT
from helpers import trainers  # noqa: F401  registers the encoders "test"

from tf_mural import experiment, losses
from tf_mural.backends import tensorflow as tf_backend
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading, trainer
from tf_mural.experiment.fields import field_modalities
from tf_mural.objective import objective

CONFIG = os.path.join(ROOT, "configs", "sweeps", "sigmoid.py")


@pytest.mark.parametrize("stage", ["mural", "control", "etcl"])
def test_the_terms_of_the_stage_have_the_sigmoid_loss(stage):
    config = config_loading.load_config(stage, "tiny", CONFIG)
    experiment.check_config(config, replicas=1)
    paper = config_loading.load_config(stage, "tiny")
    assert [(t.x, t.y, t.weight) for t in config.terms.values()] == [
        (t.x, t.y, t.weight) for t in paper.terms.values()
    ]
    scalars = config.model.scalars.to_dict()
    assert scalars == {"temperature": {"shared": 0.1}, "bias": {"shared": -10.0}}
    embeddings, batch = {}, {}
    for i, field in enumerate(field_modalities(config)):
        x = np.random.default_rng(i).normal(size=(5, 4))
        embeddings[field] = x / np.linalg.norm(x, axis=1, keepdims=True)
        batch[field] = {"id": np.arange(5)}
    terms = trainer.make_terms(config)
    _, logs = objective(embeddings, batch, terms, scalars, lambda x: x, 0, 1)
    for name, term in config.terms.items():
        pair = (embeddings[term.x], embeddings[term.y])
        expected = np.mean(losses.sigmoid(pair, pair, 0, 0.1, -10.0))
        assert float(logs[f"loss/{name}"]) == pytest.approx(expected, rel=1e-12)
    # The sigmoid loss does not accept the options of the contrastive loss.
    name = next(iter(config.terms))
    with config.terms[name].unlocked():
        config.terms[name].margin = 0.3
    message = f"terms.{name}: unknown option of the loss 'sigmoid': 'margin'; known: (none)"
    with pytest.raises(UserError, match=re.escape(message)):
        experiment.check_config(config, replicas=1)


def test_weight_decay_never_applies_to_the_scalars():
    config = config_loading.load_config("etcl", "tiny", CONFIG)
    # Weight decay excludes the scalars even if the config excludes no variables.
    config.optimizer.exclude_from_weight_decay = ()
    config.model.image.backbone = config.model.text.backbone = "test"
    tokenizer = types.SimpleNamespace(size=50, hash="", max_tokens=config.model.text.max_tokens)
    model = trainer.make_trainer(
        config,
        experiment.describe(config, tokenizer),
        ("de", "en"),
        tf_backend.make_strategy("one"),
    )
    paths = [variable.path for variable in model.encoder.trainable_variables]
    flags = dict(zip(paths, model.optimizer.uses_weight_decay, strict=True))
    without_decay = {path for path, uses_decay in flags.items() if not uses_decay}
    assert without_decay == {"dual_encoder/temperature_shared", "dual_encoder/bias_shared"}
