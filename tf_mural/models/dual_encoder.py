"""The dual encoder: two towers that share one embedding space, and the temperatures of the loss."""

import re

import keras
from keras import ops

from tf_mural.errors import lookup
from tf_mural.models.ghost_batch_norm import at_least_float32
from tf_mural.models.image_encoder import image_tower
from tf_mural.models.keras_patches import dtype_policy_scope
from tf_mural.models.text_encoder import text_tower

MAX_TEMPERATURE, MIN_TEMPERATURE = 2.0, 0.005


class DualEncoder(keras.Model):
    """Two towers that share one embedding space, and the temperatures of the loss.

    Args:
        towers: dict from modality ("image", "text") to `keras.Model`.
        temperatures: dict from the name of a temperature to its initial value. Defaults to
            {"shared": 1.0}. The paper uses a single temperature.
        freeze: modalities whose towers are not trained.
    """

    def __init__(self, towers, temperatures=None, freeze=(), name="dual_encoder"):
        super().__init__(name=name)
        self.towers = dict(towers)
        for modality in freeze:
            lookup(self.towers, modality, "tower").trainable = False
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
    def remat_blocks(self):
        """The blocks of both towers that support gradient checkpointing."""
        return [block for tower in self.towers.values() for block in remat_blocks(tower)]

    def encode(self, modality, inputs, training=False):
        """Returns L2-normalized embeddings, (n, embedding_dim).

        The embeddings are float32 or float64, even if the towers compute in half precision.
        """
        tower = lookup(self.towers, modality, "tower")
        # A frozen tower runs in inference mode, without dropout and stochastic depth.
        x = tower(inputs, training=training and tower.trainable)
        x = ops.cast(x, at_least_float32(x.dtype))
        return ops.normalize(x, axis=-1, order=2, epsilon=1e-12)

    def call(self, inputs, training=False):
        """Encodes a dict from modality to inputs; returns a dict from modality to embeddings."""
        return {modality: self.encode(modality, x, training) for modality, x in inputs.items()}

    def clamp_temperatures(self):
        """Clips the temperatures to [0.005, 2]; returns the number of changed ones (int32)."""
        count = 0
        for variable in self.temperatures.values():
            clipped = ops.clip(variable, MIN_TEMPERATURE, MAX_TEMPERATURE)
            count = count + ops.cast(ops.not_equal(clipped, variable), "int32")
            variable.assign(clipped)
        return count


def dual_encoder(
    image,
    text,
    embedding_dim,
    temperatures=None,
    freeze=(),
    precision=None,
    all_reduce_mean=list,
):
    """Builds a `DualEncoder` from plain data, which the model.json of a run stores.

    Args:
        image: keyword arguments of `image_tower`.
        text: keyword arguments of `text_tower`.
        embedding_dim: width of the shared embedding space.
        temperatures: see `DualEncoder`.
        freeze: see `DualEncoder`.
        precision: dtype policy of the towers, one of "float32", "mixed_bfloat16" and
            "mixed_float16". The mixed policies compute in half precision and keep float32 weights.
            Defaults to the global dtype policy of Keras.
        all_reduce_mean: see `GhostBatchNormalization`. model.json does not store this argument.
    """
    with dtype_policy_scope(precision):
        towers = {
            "image": image_tower(
                embedding_dim=embedding_dim, all_reduce_mean=all_reduce_mean, **image
            ),
            "text": text_tower(embedding_dim=embedding_dim, **text),
        }
    return DualEncoder(towers, temperatures, freeze)


def remat_blocks(tower):
    """Returns the blocks of a tower that hold most of its activations.

    These blocks are the stages of an EfficientNet or the transformer layers of a BERT. Each block
    has one differentiable input and one output, as gradient checkpointing requires.
    """
    pattern = re.compile(r"stage_\d+|transformer_layer_\d+")
    return [layer for layer in tower._flatten_layers() if pattern.fullmatch(layer.name)]
