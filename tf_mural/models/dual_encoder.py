"""The dual encoder: towers with one embedding space, and the learned scalars of the losses."""

import functools
import math

import keras
from keras import ops

from tf_mural.errors import lookup
from tf_mural.losses import SCALARS
from tf_mural.modalities import MODALITIES
from tf_mural.models.blocks import require_remat_blocks
from tf_mural.models.ghost_batch_norm import at_least_float32
from tf_mural.models.image_encoder import image_tower
from tf_mural.models.keras_patches import dtype_policy_scope
from tf_mural.models.text_encoder import text_tower


class DualEncoder(keras.Model):
    """Two towers that share one embedding space, and the learned scalars of the losses.

    Args:
        towers: {name: `keras.Model`}.
        scalars: {kind: {name: initial value}} of the learned scalars. A kind is a key of
            `losses.SCALARS`, which also contains the bounds of the kind. Defaults to
            {"temperature": {"shared": 1.0}}. The paper uses a single temperature.
        freeze: names of the towers that are not trained.
        modalities: {name of a tower: modality}, see `modalities.MODALITIES`. Defaults to the name
            of each tower.
    """

    def __init__(self, towers, scalars=None, freeze=(), modalities=None, name="dual_encoder"):
        super().__init__(name=name)
        self.towers = dict(towers)
        self.modalities = dict(modalities or {tower: tower for tower in towers})
        for modality in self.modalities.values():
            lookup(MODALITIES, modality, "modality")
        for tower in freeze:
            lookup(self.towers, tower, "tower").trainable = False
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

    def encode(self, tower, inputs, training=False):
        """Returns the L2-normalized embeddings of a tower, (n, embedding_dim).

        The embeddings are float32 or float64, even if the towers compute in half precision.
        """
        tower = lookup(self.towers, tower, "tower")
        # A frozen tower runs in inference mode, without dropout and stochastic depth.
        x = tower(inputs, training=training and tower.trainable)
        x = ops.cast(x, at_least_float32(x.dtype))
        return ops.normalize(x, axis=-1, order=2, epsilon=1e-12)

    def call(self, inputs, training=False):
        """Encodes a dict from tower to inputs; returns a dict from tower to embeddings."""
        return {tower: self.encode(tower, x, training) for tower, x in inputs.items()}

    def default_tower(self, modality):
        """Returns the name of the first tower of a modality."""
        towers = {value: tower for tower, value in reversed(self.modalities.items())}
        return lookup(towers, modality, "modality")

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
    towers=None,
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
        towers: {name: keyword arguments} of further towers. "modality" is "image" or "text", and
            the other arguments are those of `image_tower` or `text_tower`. The paths of the
            variables of a further tower start with its name.
        all_reduce_mean: see `GhostBatchNormalization`. model.json does not store this argument.
    """
    make = {
        "image": functools.partial(
            image_tower, embedding_dim=embedding_dim, all_reduce_mean=all_reduce_mean
        ),
        "text": functools.partial(text_tower, embedding_dim=embedding_dim),
    }
    modalities = {"image": "image", "text": "text"}
    with dtype_policy_scope(precision):
        models = {"image": make["image"](**image), "text": make["text"](**text)}
        for name, arguments in (towers or {}).items():
            arguments = dict(arguments)
            modalities[name] = arguments.pop("modality")
            with keras.name_scope(name):
                models[name] = lookup(make, modalities[name], "modality")(**arguments)
            # A functional model that contains the towers needs distinct names.
            models[name].name = f"{name}_tower"
    return DualEncoder(models, scalars, freeze, modalities)
