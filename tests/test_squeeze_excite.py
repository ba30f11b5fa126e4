"""The fused squeeze and excite: gradients equal to KerasHub's blocks, and less memory traffic."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from helpers.small_models import (
    TINY_IMAGE,
    clone_without_fusing,
    layers_by_name,
    random_images,
)

from tf_mural import models


def test_the_gradient_of_the_tower_equals_that_of_the_blocks_of_kerashub(monkeypatch):
    """Compares the fused layers with the separate layers of KerasHub, in float64."""

    def gradients():
        keras.utils.set_random_seed(3)
        tower = models.image_tower(
            **TINY_IMAGE, embedding_dim=16, virtual_batch_size=2, batch_norm_momentum=0.9
        )
        with tf.GradientTape() as tape:
            y = tower(random_images(4), training=True)
            loss = tf.reduce_sum(y * np.random.default_rng(1).normal(size=y.shape))
        norms = layers_by_name(tower, models.GhostBatchNormalization).values()
        weights = tower.trainable_weights
        values = tape.gradient(loss, [w.value for w in weights])
        moving = [np.array(w) for w in tower.non_trainable_weights if "moving" in w.path]
        return sum(x.fuse_squeeze for x in norms), [w.path for w in weights], values, moving

    keras.config.set_dtype_policy("float64")
    try:
        fused, paths, actual, moving = gradients()
        monkeypatch.setattr(
            "tf_mural.models.image_encoder.fuse_squeeze_excite", clone_without_fusing
        )
        plain, plain_paths, expected, expected_moving = gradients()
    finally:
        keras.config.set_dtype_policy("float32")
    assert (fused, plain) == (5, 0) and paths == plain_paths
    for result, reference in zip([*actual, *moving], [*expected, *expected_moving], strict=True):
        np.testing.assert_allclose(result, reference, rtol=1e-8, atol=1e-10)


# This script compiles the gradient of a stage of two blocks for a TPU chip; no TPU is needed.
SCRIPT = """
import json, sys
import jax, keras
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from helpers.small_models import clone_without_fusing
from tf_mural import models
from tf_mural.models import image_encoder

if sys.argv[1] == "plain":
    image_encoder.fuse_squeeze_excite = clone_without_fusing
keras.config.set_dtype_policy("mixed_bfloat16")
tower = models.image_tower("b0", 145, 320, stochastic_depth=0.0, virtual_batch_size=16)
stage = models.remat_blocks(tower)[1]

def loss(weights, other_variables, x):
    y, other_variables = stage.stateless_call(weights, other_variables, x, training=True)
    return y.astype("float32").sum(), other_variables

[device, *_] = topologies.get_topology_desc("v6e:2x2", platform="tpu").devices
sharding = SingleDeviceSharding(device)
weights, other_variables = (
    [jax.ShapeDtypeStruct(v.value.shape, v.value.dtype, sharding=sharding) for v in variables]
    for variables in (stage.trainable_variables, stage.non_trainable_variables)
)
x = jax.ShapeDtypeStruct((256, *stage.input_shape[1:]), "bfloat16", sharding=sharding)
gradient = jax.jit(jax.grad(loss, argnums=(0, 2), has_aux=True))
print(json.dumps(gradient.lower(weights, other_variables, x).compile().cost_analysis()))
"""


def bytes_accessed(variant):
    """Returns the number of bytes that the compiled gradient reads and writes, counted by XLA."""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    environment |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, variant],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": os.pathsep.join([ROOT, os.path.join(ROOT, "tests")])},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads(process.stdout.splitlines()[-1])["bytes accessed"]


@pytest.mark.slow
def test_fusing_the_squeeze_saves_8_percent_of_the_memory_traffic_on_a_tpu():
    pytest.importorskip("libtpu")
    fused, plain = bytes_accessed("fused"), bytes_accessed("plain")
    print(f"fused layers: {fused / 1e9:.2f} GB; KerasHub's layers: {plain / 1e9:.2f} GB")
    assert fused < 0.92 * plain
