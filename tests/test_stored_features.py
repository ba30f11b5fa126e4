"""Gradients of a step that reads stored vectors, and the checks of their configs."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import ROOT
from helpers.backends import backend_environment
from helpers.comparison import largest_error, select_prefix

from tf_mural import experiment
from tf_mural.backends.tensorflow import make_strategy
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading, dry_run


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """A function that returns the output of vectors_script.py, {name: array}, on a backend."""
    folder, arrays = tmp_path_factory.mktemp("steps"), {}

    def run(backend):
        if backend not in arrays:
            out = folder / f"{backend}.npz"
            command = [sys.executable, os.path.join(ROOT, "tests", "vectors_script.py"), str(out)]
            environment = backend_environment(backend)
            done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            with np.load(out) as file:
                arrays[backend] = {name: file[name] for name in file.files}
        return arrays[backend]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("case", ["microbatch", "tokens", "replicas"])
def test_gradients_equal_those_of_the_plain_step(steps, case):
    arrays = steps("tensorflow")
    expected, actual = (select_prefix(arrays, f"float64/{k}/") for k in ("plain", case))
    layers = {path.rpartition("/")[0] for path in expected}
    assert {"image_projection", "text_projection"} <= layers and len(expected) == 9
    assert largest_error(expected, actual)[0] < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plain", "microbatch"])
def test_jax_computes_the_gradients_of_tensorflow(steps, case):
    pytest.importorskip("jax", reason="JAX is not installed")
    expected, actual = (
        select_prefix(steps(backend), f"float32/{case}/") for backend in ("tensorflow", "jax")
    )
    assert largest_error(expected, actual)[0] < 1e-4


# --- configs --------------------------------------------------------------------------------------


def make_config(*changes):
    config = config_loading.load_config("etcl", "tiny")
    config.batch_size, config.evaluation.retrieval.languages = 8, ("en",)
    config_loading.apply_overrides(config, [f"--config.{change}" for change in changes])
    return config


def with_teacher(**tower):
    """Returns the config of ETCL whose second text is replaced by vectors."""
    config = make_config()
    config.model.towers.teacher = {"modality": "vectors", **tower}
    config.sources.triples.fields.text_b = "teacher"
    return config


@pytest.mark.parametrize(
    "tower, message",
    [
        ({}, "model.towers.teacher has no width: give the width of the vectors"),
        (
            {"width": 32},
            "embeddings of model.towers.teacher have the width 32, but model.embedding",
        ),
        ({"width": 128, "layers": (64,)}, "have the width 64, but model.embedding_dim is 128"),
    ],
)
def test_a_tower_of_vectors_that_does_not_fit_is_refused(data_dir, tower, message):
    with pytest.raises(UserError, match=message):
        experiment.build(with_teacher(**tower), str(data_dir), make_strategy("one"))


def test_a_tower_that_reads_its_features_must_not_be_trained(data_dir):
    config = make_config("model.image.vectors=lite0")
    with pytest.raises(UserError, match="'image' reads its features .* but adapt is 'full': set"):
        experiment.build(config, str(data_dir), make_strategy("one"))


def test_records_without_the_vectors_of_a_config_are_refused(data_dir):
    for config in (
        with_teacher(width=128),
        make_config("model.image.vectors=lite0", "model.image.adapt=last:0"),
    ):
        with pytest.raises(
            UserError, match=r"scenes/train has no vectors '(teacher|lite0)', which"
        ):
            experiment.build(config, str(data_dir), make_strategy("one"))


def test_batches_without_data_have_the_languages_of_stored_features_of_texts():
    """As batches of records do, so that a plan and a trial step compute the same losses."""
    config = make_config("model.text.vectors=bert", "model.text.adapt=last:0")
    stored = types.SimpleNamespace(vectors={"text": ("bert", 16)})
    shapes = dry_run._batch_shapes(config, stored)
    arrays = dry_run._random_batch(config, None, stored)
    for field in ("text_a", "text_b"):
        assert shapes[field]["vectors"] == ((8, 16), "float32")
        assert shapes[field]["language"] == ((8,), "int32")
        assert {k: (v.shape, v.dtype) for k, v in arrays[field].items() if k != "id"} == {
            k: v for k, v in shapes[field].items() if k != "id"
        }
    assert set(shapes["image"]) == set(arrays["image"]) == {"id", "pixels"}


def test_a_step_on_random_vectors_runs():
    config = with_teacher(width=16, layers=(128,))
    config.model.image.vectors, config.model.image.adapt = "lite0", "last:0"
    _, loss = dry_run.trial_step(config)
    assert 0 < loss < 20
