"""What a block of the image tower moves on a TPU, counted by XLA's own compiler for TPUs."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

# The gradient of a stage whose second block is a plain one, for one chip that is not there.
SCRIPT = """
import json, sys
import jax, keras
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from tf_mural import models
from tf_mural.models import image_encoder

if sys.argv[1] == "plain":
    def as_it_is(backbone, average):
        return backbone, {x.name: x.input for x in backbone.layers[1:]}
    image_encoder.fuse_squeeze_excite = as_it_is
keras.config.set_dtype_policy("mixed_bfloat16")
tower = models.image_tower("b0", 145, 320, stochastic_depth=0.0, virtual_batch_size=16)
stage = models.remat_blocks(tower)[1]

def loss(weights, others, x):
    y, others = stage.stateless_call(weights, others, x, training=True)
    return y.astype("float32").sum(), others

[device, *_] = topologies.get_topology_desc("v6e:2x2", platform="tpu").devices
there = SingleDeviceSharding(device)
shaped = lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=there)
weights, others = (
    [shaped(v.value) for v in some]
    for some in (stage.trainable_variables, stage.non_trainable_variables)
)
x = jax.ShapeDtypeStruct((256, *stage.input_shape[1:]), "bfloat16", sharding=there)
found = jax.grad(loss, argnums=(0, 2), has_aux=True)
print(json.dumps(jax.jit(found).lower(weights, others, x).compile().cost_analysis()))
"""


def accessed(kind):
    """Bytes, by the compiler."""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    environment |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])["bytes accessed"]


@pytest.mark.slow
def test_a_squeeze_taken_in_by_batch_norm_spares_nearly_a_tenth():
    pytest.importorskip("libtpu")
    ours, plain = accessed("ours"), accessed("plain")
    print(f"{ours / 1e9:.2f} GB, with KerasHub's own layers {plain / 1e9:.2f}")
    assert ours < 0.92 * plain
