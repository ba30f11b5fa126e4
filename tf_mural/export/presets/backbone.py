"""The dual encoder as a backbone of KerasHub."""

import collections
import contextlib
import os
import re
import shutil
import tempfile

import keras
import keras_hub

from tf_mural.modalities import MODALITIES
from tf_mural.models import dual_encoder, upgrade_arguments


@keras.saving.register_keras_serializable(package="tf_mural")
class MuralBackbone(keras_hub.models.Backbone):
    """A KerasHub backbone that contains a `DualEncoder`.

    The backbone has either the argument `encoder`, or the arguments of `models.dual_encoder`, from
    which it builds the `DualEncoder` of the paper.

    The input is a dict: "pixels", values in [0, 255], (n, size, size, 3), and "tokens", int32
    (n, t). The output is a dict of normalized embeddings, float32 (n, embedding_dim):
    "image_embeddings", "text_embeddings", and "<tower>_embeddings" of each further tower.

    Args:
        image: see `models.dual_encoder`. The dict may contain argument names of earlier versions of
            `tf_mural`.
        text: see `models.dual_encoder`. The dict may contain argument names of earlier versions of
            `tf_mural`.
        embedding_dim: see `models.dual_encoder`.
        scalars: see `models.dual_encoder`.
        precision: dtype policy of the towers. Defaults to `dtype`, or to "float32" if `dtype` is
            None.
        towers: see `models.dual_encoder`.
        temperatures: {name: initial value} of the learned temperatures. Only presets that an
            earlier version of `tf_mural` wrote contain this argument.
        freeze: names of the frozen towers. Only presets that an earlier version of `tf_mural` wrote
            contain this argument.
        encoder: `models.DualEncoder`, or its serialized form; the arguments above are then omitted.
        dtype: KerasHub's name of the argument `precision`. `dtype` has no effect if `precision` or
            `encoder` is given.
        **kwargs: see `keras_hub.models.Backbone`.

    Attributes:
        encoder: `models.DualEncoder`.
    """

    def __init__(
        self,
        image=None,
        text=None,
        embedding_dim=None,
        scalars=None,
        precision=None,
        towers=None,
        temperatures=None,
        freeze=None,
        encoder=None,
        dtype=None,
        **kwargs,
    ):
        if encoder is not None:
            if isinstance(encoder, dict):
                encoder = keras.saving.deserialize_keras_object(encoder)
            self._arguments = {"encoder": keras.saving.serialize_keras_object(encoder)}
            self._build(encoder, kwargs)
            return
        stored = {"image": image, "text": text, "scalars": scalars, "towers": towers}
        if temperatures:
            stored["temperatures"] = temperatures
        if freeze:
            stored["freeze"] = freeze
        self._arguments = {
            **upgrade_arguments(stored),
            "embedding_dim": embedding_dim,
            "precision": precision or (dtype and keras.dtype_policies.get(dtype).name) or "float32",
        }
        self._build(dual_encoder(**self._arguments), kwargs)

    def _build(self, encoder, kwargs):
        """Builds the functional model around an encoder."""
        inputs, outputs = {}, {}
        for tower, modality in encoder.modalities.items():
            key, tensor = MODALITIES[modality].input_key, encoder.towers[tower].input
            if modality == "vectors":  # each tower of stored vectors has its own width
                key = f"{tower}_{key}"
            if key not in inputs:
                inputs[key] = keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=key)
            outputs[f"{tower}_embeddings"] = encoder.encode(tower, inputs[key])
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.encoder = encoder

    def get_config(self):
        """Returns the constructor arguments."""
        config = super().get_config()
        # `dtype` is omitted, because `precision` already contains the dtype policy.
        config.pop("dtype", None)
        return {**config, **self._arguments}

    def load_weights(self, filepath, **kwargs):
        """Loads a weights file that this or an earlier version of `tf_mural` wrote."""
        towers = [layer for layer in self.layers if layer in self.encoder.towers.values()]
        with _upgraded_weights(os.fspath(filepath), towers) as path:
            super().load_weights(path, **kwargs)


@contextlib.contextmanager
def _upgraded_weights(path, towers):
    """Context manager that yields a weights file with the layer names of this version.

    Keras names the groups of a weights file after the classes of the layers. In earlier versions of
    `tf_mural`, `GhostBatchNormalization` was called `GroupedBatchNormalization`, and the towers
    were of the class `keras.Model`, whose groups are called "functional".

    Args:
        path: path of the file.
        towers: the towers of the model, in the order of its layers.
    """
    import h5py

    old_name, new_name = "grouped_batch_normalization", "ghost_batch_normalization"
    moves = []

    def collect(name):
        if re.fullmatch(rf"{old_name}(_\d+)?", name.rpartition("/")[2]):
            moves.append((name, name.replace(old_name, new_name)))

    if path.endswith(".h5"):
        with h5py.File(path) as file:
            file.visit(collect)
            moves += [pair for pair in _tower_groups(towers) if pair[0] in file]
    if not moves:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(path, folder)
        with h5py.File(copy, "r+") as file:
            for source, target in moves:
                file.move(source, target)
        yield copy


def _tower_groups(towers):
    """Yields (group in files of earlier versions, group in files of this version) of each tower."""
    counts = collections.Counter()
    for number, tower in enumerate(towers):
        # Keras converts the name of a class to snake case, such as "efficient_net_encoder".
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(tower).__name__).lower()
        suffixes = [f"_{index}" if index else "" for index in (number, counts[name])]
        counts[name] += 1
        if name != "functional":
            yield f"layers/functional{suffixes[0]}", f"layers/{name}{suffixes[1]}"
