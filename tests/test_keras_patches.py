"""Tests that the changes of `keras_patches` to Keras and KerasHub are still necessary.

Each test runs the library without the change, and expects the fault of the version that the name of
the test contains. If a test fails after an update of the library, the change can be removed.
"""

import ast
import inspect
import pathlib

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from helpers.small_models import TINY_IMAGE, layers_by_name, random_images

from tf_mural import models
from tf_mural.errors import UserError
from tf_mural.models import keras_patches
from tf_mural.models.model_configs import efficientnet_config

BERT = dict(vocabulary_size=20, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16)


def efficientnet(**arguments):
    """Returns the smallest EfficientNet of the project as KerasHub builds it."""
    config = {**efficientnet_config("tiny"), "input_shape": (32, 32, 3), **arguments}
    return keras_hub.models.EfficientNetBackbone(**config)


def efficientnet_v2():
    """Returns an EfficientNetV2 of KerasHub with one stage of each type of block."""
    options = {"force_input_filters": [0] * 3, "nores_option": [False] * 3}
    options |= {"block_types": ["cba", "fused", "unfused"], "num_repeats": [1, 2, 2]}
    columns = {
        key: values[:3]
        for key, values in efficientnet_config("tiny").items()
        if key.startswith("stackwise_")
    }
    return efficientnet(**columns | {f"stackwise_{key}": value for key, value in options.items()})


def test_no_module_replaces_an_attribute_of_a_library():
    """An assignment such as `keras.layers.Dense = x` would change other models of the user."""
    libraries = {"keras", "keras_hub", "tf", "jax", "np"}
    for path in pathlib.Path(ROOT, "tf_mural").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
                names = [x.id for x in ast.walk(node) if isinstance(x, ast.Name)]
                assert not libraries & set(names), f"{path}:{node.lineno} changes {names[0]}"


# --- EfficientNet ---------------------------------------------------------------------------------


def test_keras_hub_0_32_ignores_the_dtype_of_a_backbone_in_the_blocks_of_efficientnet_v1():
    """The reason for `dtype_policy_scope`."""
    convolution = efficientnet(dtype="mixed_bfloat16").get_layer("block1a_dwconv")
    assert convolution.compute_dtype == "float32", "dtype_policy_scope is no longer needed"
    with keras_patches.dtype_policy_scope("mixed_bfloat16"):
        assert efficientnet().get_layer("block1a_dwconv").compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


def test_keras_hub_0_32_ignores_the_momentum_in_the_blocks_of_efficientnet_v1():
    """The reason for the momentum in `image_encoder._replace_layer`."""
    norms = layers_by_name(efficientnet(batch_norm_momentum=0.5), keras.layers.BatchNormalization)
    assert norms["stem_bn"].momentum == 0.5
    assert norms["block1a_dwconv_bn"].momentum == 0.99, "KerasHub's momentum can be used"
    tower = models.image_tower(**TINY_IMAGE, batch_norm_momentum=0.5)
    norms = layers_by_name(tower, keras.layers.BatchNormalization)
    assert {layer.momentum for layer in norms.values()} == {0.5}


def test_keras_3_15_refuses_to_replace_a_layer_of_a_built_layer():
    """The reason for the private method in `replace_inner_layers`."""
    block = efficientnet_v2().get_layer("block3a_")
    norm = models.GhostBatchNormalization(name=block.bn1.name)
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        block.bn1 = norm  # If this assignment succeeds, replace_inner_layers is no longer needed.


@pytest.fixture
def v2_preset(tmp_path):
    """Returns an EfficientNetV2 with random weights, and the folder of its preset."""
    backbone = efficientnet_v2()
    generator = np.random.default_rng(0)
    backbone.set_weights([generator.uniform(0.5, 1.0, x.shape) for x in backbone.get_weights()])
    backbone.save_to_preset(tmp_path)
    return backbone, str(tmp_path)


def test_the_batch_norms_inside_the_blocks_of_efficientnet_v2_become_ghost_batch_norms(v2_preset):
    backbone, preset = v2_preset
    tower = models.image_tower(
        image_size=32,
        embedding_dim=48,
        virtual_batch_size=2,
        batch_norm_momentum=0.5,
        padding="symmetric",
        backbone=f"keras_hub:{preset}",
    )
    norms = layers_by_name(tower, keras.layers.BatchNormalization)
    assert norms.keys() == layers_by_name(backbone, keras.layers.BatchNormalization).keys() - {
        "top_bn"
    }
    for layer in norms.values():
        assert type(layer) is models.GhostBatchNormalization
        assert (layer.virtual_batch_size, layer.momentum) == (2, 0.5)
    # The order of the weights is unchanged, so that each weight of the preset gets its own value.
    features = keras.Model(backbone.input, backbone.get_layer("top_conv").input)
    expected = np.asarray(features(random_images(2) / 127.5 - 1.0)).mean(axis=(1, 2))
    np.testing.assert_allclose(tower(random_images(2)), expected, rtol=1e-5)


def test_end_padding_is_refused_for_blocks_without_padding_layers(v2_preset):
    with pytest.raises(UserError, match='type "v1", but the backbone has blocks of .* cba, fused'):
        models.image_tower(image_size=32, padding="end", backbone=f"keras_hub:{v2_preset[1]}")


def test_keras_hub_0_32_drops_blocks_more_often_than_its_argument_says():
    """The reason for the factor of the drop rate in `image_tower`."""
    backbone = efficientnet(**efficientnet_config("b1"), dropout=0.2)
    drops = layers_by_name(backbone, keras.layers.Dropout)
    assert drops["block7b_drop"].rate == pytest.approx(0.2 * 22 / 16), "the factor must be removed"


# --- BERT -----------------------------------------------------------------------------------------


def test_keras_hub_0_32_has_no_argument_for_the_activation_of_a_bert():
    """The reason for the activation in `patch_bert`."""
    backbone = keras_hub.models.BertBackbone(**BERT)
    assert not [x for x in inspect.signature(type(backbone)).parameters if "activation" in x]
    x = np.linspace(-3.0, 3.0, 7, dtype="float32")
    dense = backbone.transformer_layers[0]._feedforward_intermediate_dense
    approximate, exact = (keras.activations.gelu(x, approximate=a) for a in (True, False))
    assert np.abs(approximate - exact).max() > 1e-4
    np.testing.assert_allclose(dense.activation(x), approximate, atol=1e-7)
    keras_patches.patch_bert(backbone, "gelu")
    np.testing.assert_allclose(dense.activation(x), exact, atol=1e-7)


def matmuls(backbone):
    """Returns the types of the matrix products of the query layer of the first attention."""
    query = backbone.transformer_layers[0]._self_attention_layer._query_dense
    function = tf.function(query.__call__).get_concrete_function(tf.TensorSpec((4, 3, 8)))
    return [op.type for op in function.graph.get_operations() if "MatMul" in op.type]


def test_tensorflow_2_21_multiplies_in_an_einsum_one_text_at_a_time():
    """The reason for `_use_tensordot`: a batch of small products is slower than one product."""
    backbone = keras_hub.models.BertBackbone(**BERT)
    assert matmuls(backbone) == ["BatchMatMulV2"], "_use_tensordot is no longer needed"
    keras_patches.patch_bert(backbone, "gelu")
    assert matmuls(backbone) == ["MatMul"]


def position_gradient(backbone, count):
    """Returns the first gradient of the position embeddings; each of `count` texts adds 1."""
    layer = backbone.position_embedding
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(
            tf.cast(layer(tf.zeros((count, 4, 8), layer.compute_dtype)), "float32")
        )
    return float(tape.gradient(total, layer.position_embeddings.value)[0, 0])


def test_keras_hub_0_32_sums_gradients_of_position_embeddings_in_half_precision():
    """The reason for the dtype policy in `patch_bert`."""
    with keras_patches.dtype_policy_scope("mixed_float16"):
        backbone = keras_hub.models.BertBackbone(**BERT, max_sequence_length=4)
        assert position_gradient(backbone, 20_000) == 8192.0, "the policy is no longer needed"
        keras_patches.patch_bert(backbone, "gelu")
        assert position_gradient(backbone, 20_000) == 20_000.0


def test_keras_3_15_gives_two_models_of_one_class_the_same_variable_paths():
    """The reason for `prefix_paths`: weights are stored by path, so that paths must be unique."""
    first, second = (keras_hub.models.BertBackbone(**BERT) for _ in range(2))
    paths = [variable.path for variable in second.trainable_variables]
    assert paths == [variable.path for variable in first.trainable_variables], (
        "prefix_paths is not needed"
    )
    for _ in range(2):  # The second call changes nothing, because the paths have the prefix.
        keras_patches.prefix_paths(second.trainable_variables, "teacher")
        assert [variable.path for variable in second.trainable_variables] == [
            f"teacher/{x}" for x in paths
        ]
