"""Adaptation of towers: frozen parts, LoRA adapters, and plain weights after merging.

Gradients of a partly trained tower are compared with those of a fully trained one in float64.
"""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from helpers import encoders, trainers
from helpers.comparison import largest_error
from helpers.small_models import NANO_TEXT, TINY_IMAGE, TOKENS, random_images

import tf_mural
from benchmarks import flops
from tf_mural import models
from tf_mural.errors import UserError
from tf_mural.training import checkpoints

# {name: argument `adapt` of `helpers.trainers.make_trainer`}.
CASES = {
    "full": {},
    "frozen image": {"image": "frozen"},
    "last stage": {"image": "last:1", "text": "last:0"},
    "adapters": {"image": "frozen", "text": "lora:2"},
    "all frozen": {"image": "frozen", "text": "frozen"},
}


def make_encoder(adapt=None, **text):
    keras.utils.set_random_seed(0)
    adapt = {"image": "full", "text": "full", **(adapt or {})}
    image = {**TINY_IMAGE, "stochastic_depth": 0.5, "adapt": adapt["image"]}
    text = {**NANO_TEXT, "dropout": 0.5, "adapt": adapt["text"], **text}
    return models.dual_encoder(image, text, embedding_dim=16)


def trained(tower):
    return [v.path for v in tower.trainable_variables]


def train_adapters(model):
    """Gives all adapters random values, as training does."""
    rng = np.random.default_rng(0)
    for variable in models.adapter_variables(model):
        variable.assign(rng.normal(0, 0.3, variable.shape))


# --- which weights are trained --------------------------------------------------------------------


@pytest.mark.parametrize("value", ["last", "lora:", "last:-1", "lora:1.5", "Full", "", None, 3])
def test_values_of_another_form_are_refused(value):
    with pytest.raises(UserError, match=r"expected full, frozen, last:k .* or lora:r"):
        models.parse_adapt(value)


def test_a_rank_of_0_is_refused():
    with pytest.raises(UserError, match="adapt of the tower 'text' is 'lora:0'.*at least 1"):
        make_encoder({"text": "lora:0"})


def test_the_last_layers_of_both_towers_and_their_projections_are_trained():
    encoder = make_encoder({"image": "last:1", "text": "last:1"})
    stages = {path.split("_")[0] for path in trained(encoder.towers["image"])}
    assert stages == {"block4a", "image"}
    layers = {path.split("/")[0] for path in trained(encoder.towers["text"])}
    assert layers == {"transformer_layer_1", "text_projection"}
    paths, full = checkpoints.variables_by_path(encoder), make_encoder()
    assert paths.keys() == checkpoints.variables_by_path(full).keys()
    for tower, path in (("image", "image_projection"), ("text", "text_projection")):
        encoder = make_encoder({tower: "last:0"})
        assert trained(encoder.towers[tower]) == [f"{path}/kernel", f"{path}/bias"]


def test_too_many_layers_and_missing_projections_are_refused():
    with pytest.raises(UserError, match="'last:3', but the tower 'text' .* has 2 transformer .*:2"):
        make_encoder({"text": "last:3"})
    pixels = keras.Input((8, 8, 3))
    plain = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels))
    tower = tf_mural.ImageEncoder(plain, dim=None)
    with pytest.raises(UserError, match="'last:0', but the tower 'image' .* has no projection"):
        tf_mural.DualEncoder(tower, adapt={"image": "last:0"})
    with pytest.raises(UserError, match="unknown tower 'txt'"):
        tf_mural.DualEncoder(tower, adapt={"txt": "frozen"})


def test_frozen_layers_run_without_dropout_and_keep_their_statistics():
    encoder = make_encoder({"image": "last:0", "text": "last:0"})
    before = {v.path: v.numpy() for v in encoder.variables if "seed" not in v.path}
    for tower, inputs in (("image", random_images(4)), ("text", TOKENS)):
        training = encoder.encode(tower, inputs, training=True)
        np.testing.assert_array_equal(training, encoder.encode(tower, inputs))
    for variable in encoder.variables:
        if "seed" not in variable.path:
            np.testing.assert_array_equal(variable.numpy(), before[variable.path])
    # The layers above the frozen part train as before.
    encoder = make_encoder({"image": "last:1", "text": "last:1"})
    training, inference = (encoder.encode("text", TOKENS, mode) for mode in (True, False))
    assert np.abs(training - inference).max() > 1e-2
    before = {v.path: v.numpy() for v in encoder.variables if "/moving_" in v.path}
    encoder.encode("image", random_images(4), training=True)
    changed = {
        v.path.split("_")[0]
        for v in encoder.variables
        if v.path in before and not np.array_equal(v.numpy(), before[v.path])
    }
    assert changed == {"block4a"}


# --- LoRA -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "precision", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_new_adapters_do_not_change_outputs_and_are_used(precision):
    keras.config.set_dtype_policy(precision)
    try:
        encoder, plain = make_encoder({"text": "lora:3"}), make_encoder()
    finally:
        keras.config.set_dtype_policy("float32")
    values = {v.path: v.numpy() for v in plain.variables}
    for variable in encoder.variables:
        if variable.path in values:
            variable.assign(values[variable.path])
    expected = plain.encode("text", TOKENS)
    np.testing.assert_array_equal(encoder.encode("text", TOKENS), expected)
    adapters = models.adapter_variables(encoder)
    assert len({v.path for v in adapters}) == len(adapters) == 2 * 2 * 2
    projection = {"text_projection/kernel", "text_projection/bias"}
    assert set(trained(encoder.towers["text"])) == {v.path for v in adapters} | projection
    for variable in adapters:
        before = variable.numpy()
        train_adapters(encoder)
        changed = encoder.encode("text", TOKENS)
        variable.assign(before * 0)  # Every kernel has an effect.
        assert np.abs(encoder.encode("text", TOKENS) - changed).max() > 1e-4, variable.path


def test_merged_weights_embed_like_the_adapters():
    encoder = make_encoder({"text": "lora:3"})
    train_adapters(encoder)
    expected = encoder.encode("text", TOKENS)
    values = {path: v.numpy() for path, v in checkpoints.variables_by_path(encoder).items()}
    arrays, plain = models.merge_arrays(encoder, values), make_encoder()
    for path, variable in checkpoints.variables_by_path(plain).items():
        variable.assign(arrays.pop(path))
    assert not arrays
    np.testing.assert_allclose(plain.encode("text", TOKENS), expected, atol=1e-6)
    assert models.merge_adapters(encoder) is encoder
    np.testing.assert_allclose(encoder.encode("text", TOKENS), expected, atol=1e-6)
    assert [v.path for v in encoder.trainable_variables] == [
        v.path for v in plain.trainable_variables
    ]
    assert encoder.get_config()["adapt"] == {"image": "full", "text": "full"}


def test_two_models_of_one_seed_have_the_same_adapters():
    a, b = (models.adapter_variables(make_encoder({"text": "lora:3"})) for _ in range(2))
    for first, second in zip(a, b, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())
    assert np.abs(a[0].numpy()).max() > 0 and not b[1].numpy().any()


def test_a_saved_model_keeps_its_adapters(tmp_path):
    encoder = make_encoder({"image": "last:1", "text": "lora:3"})
    train_adapters(encoder)
    encoder.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [v.path for v in loaded.trainable_variables] == [
        v.path for v in encoder.trainable_variables
    ]
    for a, b in zip(encoder.trainable_variables, loaded.trainable_variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    np.testing.assert_array_equal(loaded.encode("text", TOKENS), encoder.encode("text", TOKENS))


def test_a_config_of_an_earlier_version_freezes_the_same_towers():
    config = make_encoder().get_config()
    del config["adapt"]
    loaded = models.DualEncoder.from_config({**config, "freeze": ["image"]})
    assert loaded.get_config()["adapt"] == {"image": "frozen", "text": "full"}
    assert not loaded.towers["image"].trainable_variables


def test_towers_without_attention_have_no_adapters():
    with pytest.raises(UserError, match="'lora:4', but the tower 'image' .* no attention layers"):
        make_encoder({"image": "lora:4"})


def _vit():
    return keras_hub.models.ViTBackbone(
        image_shape=(16, 16, 3),
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=16,
        dropout_rate=0.5,
    )


def test_a_vit_whose_blocks_are_inside_of_a_layer_is_frozen_in_the_order_of_its_calls():
    tower = tf_mural.ImageEncoder(_vit(), dim=4)
    tf_mural.DualEncoder(tower, adapt={"image": "last:1"})
    blocks = [layer for layer in tower._flatten_layers() if "Block" in type(layer).__name__]
    blocks = sorted(blocks, key=lambda block: block.name)
    assert len(blocks) == 2
    assert [bool(block.trainable_variables) for block in blocks] == [False, True]
    # Keras lists the dropout before the first block after all blocks.
    image = random_images(1, 16)
    trained_paths = " ".join(trained(tower))
    assert "patch" not in trained_paths and "image_projection" in trained_paths
    model = tf_mural.DualEncoder(tf_mural.ImageEncoder(_vit(), dim=4), adapt={"image": "last:0"})
    training = model.encode("image", image, training=True)
    np.testing.assert_array_equal(training, model.encode("image", image))


def _dinov2():
    return keras_hub.models.DINOV2Backbone(
        patch_size=8,
        num_layers=2,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=16,
        image_shape=(16, 16, 3),
    )


def _swin():
    return keras_hub.models.SwinTransformerBackbone(
        image_shape=(32, 32, 3),
        patch_size=4,
        embed_dim=8,
        depths=(1, 1),
        num_heads=(2, 2),
        window_size=2,
    )


@pytest.mark.parametrize(
    "backbone, layers",
    [
        (_vit, 4),
        pytest.param(_dinov2, 4, marks=pytest.mark.slow),
        pytest.param(_swin, 2, marks=pytest.mark.slow),
        pytest.param(encoders.xlm_roberta, 2, marks=pytest.mark.slow),
    ],
)
def test_backbones_of_keras_hub_take_adapters_and_train_their_last_layer(backbone, layers):
    kind = "text" if backbone is encoders.xlm_roberta else "image"
    make = {"text": tf_mural.TextEncoder, "image": tf_mural.ImageEncoder}[kind]
    model = tf_mural.DualEncoder(towers={kind: make(backbone(), dim=4)}, adapt={kind: "lora:2"})
    tower = model.towers[kind]
    size = 0 if kind == "text" else tower.image_size
    inputs = TOKENS if kind == "text" else random_images(2, size)
    adapters = models.adapter_variables(model)
    assert len({v.path for v in adapters}) == len(adapters) == 2 * layers
    assert len(tower.trainable_variables) == 2 * layers + 2
    before = np.array(model.encode(kind, inputs))
    train_adapters(model)
    changed = np.array(model.encode(kind, inputs))
    assert np.abs(changed - before).max() > 1e-3
    models.merge_adapters(model)
    np.testing.assert_allclose(model.encode(kind, inputs), changed, atol=1e-6)
    last = tf_mural.DualEncoder(towers={kind: make(backbone(), dim=4)}, adapt={kind: "last:1"})
    count = len(last.towers[kind].trainable_variables)
    assert 2 < count < len(last.towers[kind].weights)


def test_a_preset_of_a_model_with_adapters_contains_plain_weights(tmp_path):
    text = tf_mural.TextEncoder(encoders.bert(), encoders.bert_tokenizer(), 4)
    image = tf_mural.ImageEncoder(encoders.vit(), dim=4)
    model = tf_mural.DualEncoder(image, text, adapt={"image": "lora:2", "text": "lora:2"})
    train_adapters(model)
    images = list(random_images(2).astype("uint8"))
    expected = model.embed_texts(encoders.TEXTS), model.embed_images(images)
    model.save_to_preset(str(tmp_path / "preset"))
    assert len(models.adapter_variables(model)) == 8
    loaded = tf_mural.DualEncoder.from_preset(str(tmp_path / "preset"))
    assert not models.adapter_variables(loaded)
    np.testing.assert_allclose(loaded.embed_texts(encoders.TEXTS), expected[0], atol=1e-6)
    np.testing.assert_allclose(loaded.embed_images(images), expected[1], atol=1e-6)


# --- gradients ------------------------------------------------------------------------------------


@pytest.fixture
def float64():
    trainers.set_precision("float64")
    yield
    trainers.set_precision("float32")


def gradients_of(case, graph=False, **options):
    trainer = trainers.make_trainer("etcl", adapt=CASES[case], **options)
    plain = trainers.make_trainer("etcl")
    values = {v.path: v.numpy() for v in plain.encoder.variables}
    for variable in trainer.encoder.variables:
        if variable.path in values and "seed" not in variable.path:
            variable.assign(values[variable.path])
    step = trainer.core.compute_gradients
    step = tf.function(step, autograph=False) if graph else step
    gradients, _ = step(trainers.to_tensors(trainers.make_batch("etcl")))
    return trainers.gradients_by_path(trainer, gradients), trainer


def test_adapters_get_the_gradients_of_the_kernels_that_they_change(float64):
    gradients, trainer = gradients_of("adapters")
    full, _ = gradients_of("frozen image")
    (layer, *_) = [x for x in trainer.encoder._flatten_layers() if getattr(x, "lora_rank", 0)]
    a = layer.lora_kernel_a.numpy()
    expected = np.einsum("chr,chd->rd", a, full[layer._kernel.path])
    # Keras stores adapters in float32.
    np.testing.assert_allclose(gradients[layer.lora_kernel_b.path], expected, rtol=1e-4, atol=1e-8)
    assert np.abs(expected).max() > 1e-6 and not gradients[layer.lora_kernel_a.path].any()
    assert (
        largest_error(
            {k: v for k, v in full.items() if "projection" in k},
            {k: v for k, v in gradients.items() if "projection" in k},
        )[0]
        < 1e-10
    )


def matmul_shapes(adapt):
    """Returns the shapes of the matrix products of a backward pass of a text tower."""
    tower = make_encoder({"text": adapt}, sizes=(1, 48, 2, 80)).towers["text"]
    weights = [variable._value for variable in tower.trainable_variables]

    def gradients(tokens):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            output = tower(tokens, training=True)
        return tape.gradient(output, weights)

    function = tf.function(gradients, autograph=False)
    graph = function.get_concrete_function(tf.ones((2, 5), tf.int32)).graph
    operations = flops._executed_operations(graph)
    return [tuple(x.outputs[0].shape) for x in operations if x.type == "MatMul"]


def test_a_step_with_adapters_computes_no_gradients_of_frozen_kernels():
    assert matmul_shapes("full").count((48, 48)) == 4  # query, key, value, output
    assert not {(48, 48), (48, 80), (80, 48)} & set(matmul_shapes("lora:2"))


@pytest.mark.parametrize(
    "case",
    [c if c == "adapters" else pytest.param(c, marks=pytest.mark.slow) for c in list(CASES)[1:]],
)
def test_micro_batches_and_remat_have_the_gradients_of_the_plain_step(case, float64):
    plain, trainer = gradients_of(case)
    assert len(plain) == len(trainer.encoder.trainable_variables)
    assert len(trainer.optimizer.variables) == 2 + 2 * len(plain)
    limit = 1e-6 if case == "adapters" else 1e-10  # Keras stores adapters in float32.
    for options in ({"microbatch": 2, "graph": True}, {"remat": True}):
        assert largest_error(plain, gradients_of(case, **options)[0])[0] < limit, options


def test_a_frozen_tower_has_the_gradients_of_the_other_tower_and_runs_once(float64):
    trainer = trainers.make_trainer("etcl", adapt={"text": "frozen"}, microbatch=2)
    calls, encode = [], trainer.encoder.encode
    trainer.encoder.encode = lambda tower, *args, **options: (
        calls.append(tower),
        encode(tower, *args, **options),
    )[1]
    batch = trainers.to_tensors(trainers.make_batch("etcl"))
    gradients = trainers.gradients_by_path(trainer, trainer.core.compute_gradients(batch)[0])
    assert calls.count("text") == 4 and calls.count("image") == 8
    full = gradients_of("full")[0]
    assert largest_error({path: full[path] for path in gradients}, gradients)[0] < 1e-10
