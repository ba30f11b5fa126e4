"""The dual encoder: towers with one embedding space, and the learned scalars of the losses."""

import math

import keras
from keras import ops

from tf_mural.errors import lookup
from tf_mural.losses import SCALARS
from tf_mural.models.blocks import require_remat_blocks
from tf_mural.models.ghost_batch_norm import at_least_float32
from tf_mural.models.image_encoder import image_tower
from tf_mural.models.keras_patches import dtype_policy_scope
from tf_mural.models.text_encoder import text_tower


class DualEncoder(keras.Model):
    """Two towers that share one embedding space, and the learned scalars of the losses.

    Args:
        towers: dict from modality ("image", "text") to `keras.Model`.
        scalars: {kind: {name: initial value}} of the learned scalars. A kind is a key of
            `losses.SCALARS`, which also contains the bounds of the kind. Defaults to
            {"temperature": {"shared": 1.0}}. The paper uses a single temperature.
        freeze: modalities whose towers are not trained.
    """

    def __init__(self, towers, scalars=None, freeze=(), name="dual_encoder"):
        super().__init__(name=name)
        self.towers = dict(towers)
        for modality in freeze:
            lookup(self.towers, modality, "tower").trainable = False
        self.scalars = {
            kind: {name: self._add_scalar(kind, name, value) for name, value in values.items()}
            for kind, values in (scalars or {"temperature": {"shared": 1.0}}).items()
        }
        self.built = True

    def _add_scalar(self, kind, name, value):
        lookup(SCALARS, kind, "kind of learned scalar")
        return self.add_weight(
            shape=(),
            name=f"{kind}_{name}",
            initializer=keras.initializers.Constant(value),
            dtype=at_least_float32(keras.config.floatx()),
            autocast=False,
        )

    @property
    def scalar_variables(self):
        """List of the variables of all learned scalars."""
        return [variable for named in self.scalars.values() for variable in named.values()]

    def scalar_values(self):
        """Returns {kind: {name: value}} of the learned scalars."""
        return {
            kind: {name: variable.value for name, variable in named.items()}
            for kind, named in self.scalars.items()
        }

    @property
    def remat_blocks(self):
        """List of the blocks for gradient checkpointing in all towers; see `models.blocks`."""
        return [b for name, tower in self.towers.items() for b in require_remat_blocks(name, tower)]

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

    def clamp_scalars(self):
        """Clips the scalars to the bounds of their kind in `losses.SCALARS`.

        Returns:
            {kind: number (int32) of clipped scalars}, only for the kinds that have bounds.
        """
        counts = {}
        for kind, named in self.scalars.items():
            minimum, maximum = SCALARS[kind].minimum, SCALARS[kind].maximum
            if minimum is None and maximum is None:
                continue
            counts[kind] = 0
            for variable in named.values():
                clipped = ops.clip(
                    variable,
                    -math.inf if minimum is None else minimum,
                    math.inf if maximum is None else maximum,
                )
                changed = ops.cast(ops.not_equal(clipped, variable), "int32")
                counts[kind] = counts[kind] + changed
                variable.assign(clipped)
        return counts


def dual_encoder(
    image,
    text,
    embedding_dim,
    scalars=None,
    freeze=(),
    precision=None,
    all_reduce_mean=list,
):
    """Builds a `DualEncoder` from plain data, which the model.json of a run stores.

    Args:
        image: keyword arguments of `image_tower`.
        text: keyword arguments of `text_tower`.
        embedding_dim: width of the shared embedding space.
        scalars: see `DualEncoder`.
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
    return DualEncoder(towers, scalars, freeze)
