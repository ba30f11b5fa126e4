"""Blocks and normalization layers of towers that are neither an EfficientNet nor a BERT."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from helpers import trainers
from helpers.comparison import largest_error

from tf_mural import experiment, models, optimizers
from tf_mural.backends import backend_module
from tf_mural.backends.tensorflow import make_strategy
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading
from tf_mural.experiment.trainer import _tower_multipliers
from tf_mural.models import blocks
from tf_mural.objective import Term

SIZE, WIDTH = 16, 8


def vit_tower(dropout=0.0):
    """Creates an image tower with the ViT of KerasHub, whose layers have no argument `training`."""
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(SIZE, SIZE, 3),
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=12,
        mlp_dim=24,
        dropout_rate=dropout,
    )
    pixels = keras.Input((SIZE, SIZE, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    x = keras.layers.Dense(WIDTH, name="image_projection")(backbone(x)[:, 0])
    return keras.Model(pixels, x, name="image_tower")


def plain_tower():
    """Creates an image tower of plain Keras layers, whose batch norm has Keras' default name."""
    pixels = keras.Input((SIZE, SIZE, 3), name="pixels")
    x = keras.layers.Conv2D(4, 3, strides=2)(pixels)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(x))
    return keras.Model(pixels, keras.layers.Dense(WIDTH)(x), name="plain")


def text_tower():
    return models.text_tower(20, "test", max_tokens=6, embedding_dim=WIDTH, dropout=0.0)


def make_encoder(image, adapt=None):
    return models.DualEncoder(image, text_tower(), adapt=adapt)


def make_trainer(encoder, **options):
    term = Term("image_text", "image", "text_a", 1.0)
    fields = {"image": "image", "text_a": "text"}
    trainer = backend_module().Trainer(encoder, [term], fields, ("en",), seed=5, **options)
    optimizer = optimizers.LAMB(1e-2)
    optimizer.build(encoder.trainable_variables)
    trainer.compile(optimizer=optimizer)
    return trainer


def make_batch():
    rng = np.random.default_rng(0)
    image = {"id": np.arange(4), "pixels": rng.integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)}
    tokens = rng.integers(5, 20, (4, 6)).astype(np.int32)
    text = {"id": np.arange(4), "tokens": tokens, "language": np.zeros(4, np.int32)}
    return trainers.to_tensors({"image": image, "text_a": text})


# --- gradient checkpointing -----------------------------------------------------------------------


@pytest.mark.parametrize("graph", [pytest.param(False, marks=pytest.mark.slow), True])
def test_remat_of_a_vit_recomputes_its_blocks_with_the_same_masks(graph):
    """Uses dropout, because the recomputed blocks must apply the same dropout masks again."""
    results, softmaxes = [], []
    for remat in (False, True):
        trainer = make_trainer(make_encoder(vit_tower(dropout=0.3)), remat=remat)
        step = tf.function(trainer.core.compute_gradients, autograph=False)
        batch = make_batch()
        types = [op.type for op in step.get_concrete_function(batch).graph.get_operations()]
        softmaxes.append(types.count("Softmax"))
        gradients = (step if graph else trainer.core.compute_gradients)(batch)[0]
        results.append(trainers.gradients_by_path(trainer, gradients))
    # Two blocks of the ViT and one layer of the BERT run twice. Each of them has one softmax.
    assert softmaxes[1] == softmaxes[0] + 3
    assert largest_error(*results)[0] < 1e-4
    without_dropout = make_trainer(make_encoder(vit_tower()))
    gradients = without_dropout.core.compute_gradients(make_batch())[0]
    other = trainers.gradients_by_path(without_dropout, gradients)
    assert largest_error(results[0], other)[0] > 1e-2


def test_remat_of_a_tower_without_blocks_is_refused():
    with pytest.raises(
        UserError, match="remat: the tower 'image' .*'plain'. has no blocks .*micro"
    ):
        make_trainer(make_encoder(plain_tower()), remat=True)
    # A tower that is not trained stores no activations, and needs no blocks.
    trainer = make_trainer(make_encoder(plain_tower(), {"image": "frozen"}), remat=True)
    assert [block.name for block in trainer.encoder.remat_blocks] == ["transformer_layer_0"]


def test_remat_of_a_block_with_several_outputs_is_refused():
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.attention = keras.layers.MultiHeadAttention(1, 4)

        def call(self, x):
            y = self.attention(x, x)
            return y, x

    block = Block()
    assert blocks.is_block(block) and not blocks.is_block(block.attention)
    with pytest.raises(UserError, match="returns 2 values, expected one tensor"):
        models.call_in_training(block, block.call, np.ones((1, 2, 4), "float32"))


# --- learning rates -------------------------------------------------------------------------------


def test_layer_decay_of_a_vit_follows_its_blocks():
    towers = {"image": vit_tower(), "text": text_tower()}
    variables = [v for tower in towers.values() for v in tower.trainable_variables]
    optimizer = optimizers.LAMB(lr_multipliers=_tower_multipliers(towers, 0.5))
    optimizer.build(variables)
    multipliers = dict(zip([v.path for v in variables], optimizer.multipliers, strict=True))

    def multiplier(part):
        (value,) = {m for path, m in multipliers.items() if part in path}
        return value

    assert multiplier("transformer_block_2/") == 0.5 and multiplier("transformer_block_1/") == 0.25
    assert multiplier("vit_patching_and_embedding") == 0.125
    assert multiplier("vit_encoder/ln/") == multiplier("image_projection") == 1.0
    # The multipliers of the text tower, a BERT with one layer, depend on the names of its layers.
    assert multiplier("transformer_layer_0/") == 0.5 and multiplier("token_embedding") == 0.25


def test_layer_decay_of_a_tower_without_blocks_is_refused():
    towers = {"image": plain_tower(), "text": text_tower()}
    with pytest.raises(
        UserError, match="layer_decay is 0.5, but the order of .* 'image' .*unknown"
    ):
        _tower_multipliers(towers, 0.5)
    assert _tower_multipliers(towers, 1.0) == ()
    towers["image"].trainable = False
    assert len(_tower_multipliers(towers, 0.5)) > 0


# --- exclusions -----------------------------------------------------------------------------------


def excluded_paths(model):
    """Returns two sets of variable paths: without weight decay, and without layer adaptation."""
    optimizer = optimizers.LAMB(exclude_from_weight_decay=("/bias$",))
    models.exclude_norms(optimizer, model)
    optimizer.build(model.trainable_variables)
    paths = [v.path for v in model.trainable_variables]
    flags = (optimizer.uses_weight_decay, optimizer.uses_layer_adaptation)
    return tuple({p for p, use in zip(paths, uses, strict=True) if not use} for uses in flags)


def test_norms_of_a_vit_have_no_weight_decay():
    no_decay, no_adaptation = excluded_paths(vit_tower())
    norms = {path for path in no_decay if not path.endswith("/bias")}
    # There are five norms: two in each of two blocks, and the last norm. Each norm has a scale and
    # a shift.
    assert len(norms) == 10 and all("/ln" in path for path in norms)
    assert no_adaptation == set()


def test_batch_norms_of_any_name_have_no_layer_adaptation():
    no_decay, no_adaptation = excluded_paths(plain_tower())
    assert no_decay >= no_adaptation
    assert {path.split("/")[-1] for path in no_adaptation} == {"gamma", "beta"}


def test_the_patterns_of_the_recipes_already_exclude_the_norms_of_the_named_encoders():
    encoder = models.dual_encoder(
        dict(backbone="test", image_size=32),
        dict(backbone="test", vocabulary_size=20, max_tokens=6),
        embedding_dim=WIDTH,
    )
    norms = {v.path for v in blocks.norm_variables(encoder)}
    by_name = {
        v.path for v in encoder.trainable_variables if "_bn/" in v.path or "layer_norm/" in v.path
    }
    assert norms == by_name and len(norms) > 10


def test_the_optimizer_of_a_config_excludes_the_norms_of_any_encoder(monkeypatch):
    encoder = make_encoder(vit_tower())
    monkeypatch.setattr(models, "dual_encoder", lambda **_: encoder)
    config = config_loading.load_config("align", "tiny")
    tokenizer = type("T", (), {"size": 20, "hash": "x", "max_tokens": 6})
    trainer = experiment.make_trainer(
        config, experiment.describe(config, tokenizer), ("en",), make_strategy("one")
    )
    norms = {id(v) for v in blocks.norm_variables(encoder)}
    pairs = zip(encoder.trainable_variables, trainer.optimizer.uses_weight_decay, strict=True)
    decays = [decays for variable, decays in pairs if id(variable) in norms]
    assert len(decays) > 10 and not any(decays)
    # Without the pattern "layer_norm/", weight decay applies to the norms.
    config.optimizer.exclude_from_weight_decay = ("/bias$",)
    trainer = experiment.make_trainer(
        config, experiment.describe(config, tokenizer), ("en",), make_strategy("one")
    )
    pairs = zip(encoder.trainable_variables, trainer.optimizer.uses_weight_decay, strict=True)
    assert all(decays for variable, decays in pairs if id(variable) in norms)


def test_variables_cannot_be_excluded_after_the_slots_are_built():
    tower = plain_tower()
    optimizer = optimizers.LAMB()
    optimizer.build(tower.trainable_variables)
    with pytest.raises(ValueError, match="must be called before `build`"):
        models.exclude_norms(optimizer, tower, weight_decay=False)
