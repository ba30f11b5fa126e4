"""The dual encoder: two towers into one space, with the temperature of its loss."""

import contextlib

import keras
from keras import ops

from tf_mural.errors import lookup
from tf_mural.models.ghost_batch_norm import (
    ALL_REPLICAS,
    GroupedBatchNormalization,
    at_least_float32,
    batch_norm_of,
)
from tf_mural.models.model_configs import (
    BERTS,
    EFFICIENTNETS,
    bert_sizes,
    block_shapes,
    efficientnet_blocks,
    rate_factors,
)
from tf_mural.models.towers import blocks_of, image_tower, text_tower

__all__ = [
    "ALL_REPLICAS",
    "BERTS",
    "EFFICIENTNETS",
    "DualEncoder",
    "GroupedBatchNormalization",
    "at_least_float32",
    "batch_norm_of",
    "bert_sizes",
    "block_shapes",
    "blocks_of",
    "dual_encoder",
    "efficientnet_blocks",
    "image_tower",
    "rate_factors",
    "text_tower",
]

MAX_TEMPERATURE, MIN_TEMPERATURE = 2.0, 0.005


class DualEncoder(keras.Model):
    """Two towers into one space, and the temperature(s) of the loss.

    Args:
        towers: {kind: keras.Model}, one encoder a kind of field ("image", "text").
        temperatures: {name: starting value}; "shared" alone is the paper.
        freeze: kinds whose tower is not trained.
    """

    def __init__(self, towers, temperatures=None, freeze=(), name="dual_encoder"):
        super().__init__(name=name)
        self.towers = dict(towers)
        for kind in freeze:
            lookup(self.towers, kind, "tower").trainable = False
        self.temperatures = {
            key: self.add_weight(
                shape=(),
                name=f"temperature_{key}",
                initializer=keras.initializers.Constant(value),
                dtype=at_least_float32(keras.config.floatx()),
                autocast=False,
            )
            for key, value in (temperatures or {"shared": 1.0}).items()
        }
        self.built = True

    @property
    def blocks(self):
        """The parts of the towers that hold most of their activations, see `towers.blocks_of`."""
        return [block for tower in self.towers.values() for block in blocks_of(tower)]

    def encode(self, kind, inputs, training=False):
        """Unit rows (n, d), float32 also where the towers compute in half precision."""
        tower = lookup(self.towers, kind, "tower")
        # A frozen tower gives the same rows for the same input: no dropout, no stochastic depth.
        x = tower(inputs, training=training and tower.trainable)
        x = ops.cast(x, at_least_float32(x.dtype))
        return ops.normalize(x, axis=-1, order=2, epsilon=1e-12)

    def call(self, inputs, training=False):
        """{kind: input} to {kind: (n, d)}."""
        return {kind: self.encode(kind, x, training) for kind, x in inputs.items()}

    def clamp_temperatures(self):
        """Puts every temperature back into [0.005, 2]; returns how many had left it (int32)."""
        hits = 0
        for variable in self.temperatures.values():
            clamped = ops.clip(variable, MIN_TEMPERATURE, MAX_TEMPERATURE)
            hits = hits + ops.cast(ops.not_equal(clamped, variable), "int32")
            variable.assign(clamped)
        return hits


@contextlib.contextmanager
def _layers_in(precision):
    """Inside, layers are built with this dtype policy of Keras; None leaves the one that is set."""
    # KerasHub's EfficientNet v1 blocks take no policy but that.
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def dual_encoder(
    image, text, embedding_dim, temperatures=None, freeze=(), precision=None, average=list
):
    """The model of a plain description; `model.json` of a run holds its arguments but the last.

    Args:
        image: keyword arguments of `image_tower`.
        text: keyword arguments of `text_tower`.
        embedding_dim: width of the shared space.
        temperatures, freeze: see `DualEncoder`.
        precision: dtype policy of the towers: "float32", "mixed_bfloat16" or "mixed_float16", which
            compute in half precision with float32 weights; None is Keras' global one.
        average: see `GroupedBatchNormalization`.
    """
    with _layers_in(precision):
        towers = {
            "image": image_tower(embedding_dim=embedding_dim, average=average, **image),
            "text": text_tower(embedding_dim=embedding_dim, **text),
        }
    return DualEncoder(towers, temperatures, freeze)
