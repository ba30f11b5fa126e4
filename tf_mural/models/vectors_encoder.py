"""Towers whose inputs are stored vectors, and the split of a tower into features and projection."""

from collections.abc import Sequence

import keras

from tf_mural.errors import UserError, lookup


@keras.saving.register_keras_serializable(package="tf_mural")
class VectorsEncoder(keras.Model):
    """Maps vectors that are stored in records, such as the embeddings of a teacher, to embeddings.

        vectors (n, width) -> linear layers with an activation between them -> embeddings (n, dim)

        teacher = tf_mural.VectorsEncoder(512, vectors="teacher")             # the identity
        sentence = tf_mural.VectorsEncoder(384, (512, 640), vectors="e5")     # trained layers

    Args:
        width: width of the stored vectors.
        layers: widths of the linear layers; the last one is the width of the embeddings. (): the
            embeddings are the vectors, and the tower has no variables.
        activation: activation between two layers, a name of `keras.activations`.
        dropout: dropout rate of the input of each layer.
        vectors: name of the vectors in the records, see `data.records.Record`. Only the training
            data need this name.
        name: name of the model.

    Attributes:
        vectors: the argument `vectors`.

    Raises:
        UserError: a width is less than 1, or the dropout rate is not in [0, 1).
    """

    modality = "vectors"

    def __init__(
        self,
        width: int,
        layers: Sequence[int] = (),
        *,
        activation: str = "gelu",
        dropout: float = 0.0,
        vectors: str | None = None,
        name: str = "vectors_tower",
    ):
        if min(width, *layers, 1) < 1 or not 0 <= dropout < 1:
            raise UserError(
                f"VectorsEncoder(width={width}, layers={tuple(layers)}, dropout={dropout}): "
                "expected widths from 1, and a dropout rate from 0 to below 1"
            )
        inputs = keras.Input((width,), dtype="float32", name="vectors")
        # Half precision would round the vectors of a teacher.
        x = keras.layers.Identity(dtype=keras.config.dtype_policy().variable_dtype)(inputs)
        for number, units in enumerate(layers):
            if number:
                x = keras.layers.Activation(activation, name=f"activation_{number}")(x)
            if dropout:
                x = keras.layers.Dropout(dropout, name=f"dropout_{number}")(x)
            x = keras.layers.Dense(units, name=f"vectors_dense_{number}")(x)
        super().__init__(inputs, x, name=name)
        self.vectors = vectors
        self._arguments = {
            "width": width,
            "layers": list(layers),
            "activation": activation,
            "dropout": dropout,
            "vectors": vectors,
        }

    def get_config(self):
        """Returns the constructor arguments."""
        return {**self._arguments, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds an encoder with new weights from the result of `get_config`."""
        return cls(**config)


def features_of(tower, projection):
    """Returns the tensor (n, c) that the projection of a new tower projects.

    Args:
        tower: functional `keras.Model`. Its projection must not have been called elsewhere.
        projection: name of the layer that projects the features. If the tower has no such layer,
            its features are its output.
    """
    layers = [layer for layer in tower.layers if layer.name == projection]
    return layers[0].input if layers else tower.output


def split_tower(tower, features, projection):
    """Returns a tower as two models that share its layers.

    Args:
        tower: functional `keras.Model`.
        features: tensor of the tower, the pooled features (n, c).
        projection: name of the layer that projects the features to the embeddings. If the tower has
            no such layer, the projection is the identity.

    Returns:
        A tuple: the features, a model from the input of the tower to the pooled features (n, c),
        and the projection, a model from (n, c) to embeddings (n, dim).
    """
    model = keras.Model(tower.input, features, name=f"{tower.name}_features")
    x = keras.Input(features.shape[1:], name="features", dtype=features.dtype)
    layers = [layer for layer in tower.layers if layer.name == projection]
    y = layers[0](x) if layers else keras.layers.Identity(dtype=x.dtype)(x)
    return model, keras.Model(x, y, name=projection)


class StoredVectors:
    """The vectors of records that the towers of a model read in training.

    A tower with the modality "vectors" reads its input. A tower of images or texts may read its
    features: a training step then runs only the projection of the tower (see `split_tower`), and
    the layers before the projection are frozen. Evaluation and export use the whole tower.

    Args:
        towers: {name: `keras.Model`}.
        modalities: {name of a tower: modality}.
        features: {name of a tower of images or texts: name of its features in the records}.

    Attributes:
        vectors: {tower: (name in the records, width)}.
        projections: {tower: projection} of the towers in `features`.
        modalities: {tower: modality of its fields in training}.

    Raises:
        UserError: a tower is unknown, or cannot be split.
    """

    def __init__(self, towers, modalities, features):
        self.projections, self.vectors = {}, {}
        self.modalities = {**modalities, **dict.fromkeys(features, "vectors")}
        for name, tower in towers.items():
            if modalities[name] == "vectors":
                stored = getattr(tower, "vectors", None) or name
                self.vectors[name] = (stored, tower.input.shape[-1])
        for name, stored in features.items():
            tower = lookup(towers, name, "tower")
            if not hasattr(tower, "split"):
                raise UserError(
                    f"the features of the tower {name!r} ({type(tower).__name__}) cannot be stored:"
                    " expected an ImageEncoder, a TextEncoder or a tower of `dual_encoder`"
                )
            model, self.projections[name] = tower.split()
            model.trainable = False
            self.vectors[name] = (stored, model.output.shape[-1])
