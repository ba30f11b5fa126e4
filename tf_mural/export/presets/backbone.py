"""The dual encoder as a backbone of KerasHub."""

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
    """Both towers and the learned scalars, built from the arguments of `models.dual_encoder`.

    The inputs are a dict: "pixels" are values in [0, 255], (n, size, size, 3), and "tokens" are
    int32, (n, t), padded with 0. The outputs are a dict: "image_embeddings", "text_embeddings" and
    "<tower>_embeddings" of each further tower are normalized embeddings, float32
    (n, embedding_dim).

    Args:
        image: see `models.dual_encoder`. Argument names of earlier versions are accepted.
        text: see `models.dual_encoder`. Argument names of earlier versions are accepted.
        embedding_dim: see `models.dual_encoder`.
        scalars: see `models.dual_encoder`.
        freeze: see `models.dual_encoder`.
        precision: dtype policy of the towers. Defaults to `dtype`, or to "float32" if `dtype` is
            None.
        towers: see `models.dual_encoder`.
        temperatures: {name: value}, the temperatures in a preset of an earlier version.
        dtype: dtype policy of the towers under the name that KerasHub uses. `dtype` has no effect
            if `precision` is given.
        **kwargs: see `keras_hub.models.Backbone`.

    Attributes:
        encoder: `models.DualEncoder`.
    """

    def __init__(
        self,
        image,
        text,
        embedding_dim,
        scalars=None,
        freeze=(),
        precision=None,
        towers=None,
        temperatures=None,
        dtype=None,
        **kwargs,
    ):
        stored = {"image": image, "text": text, "scalars": scalars, "towers": towers}
        if temperatures:
            stored["temperatures"] = temperatures
        self._arguments = {
            **upgrade_arguments(stored),
            "embedding_dim": embedding_dim,
            "freeze": list(freeze),
            "precision": precision or (dtype and keras.dtype_policies.get(dtype).name) or "float32",
        }
        encoder = dual_encoder(**self._arguments)
        size = encoder.towers["image"].input.shape[1]
        inputs = {
            "pixels": keras.Input((size, size, 3), name="pixels"),
            "tokens": keras.Input((None,), dtype="int32", name="tokens"),
        }
        outputs = {
            f"{tower}_embeddings": encoder.encode(tower, inputs[MODALITIES[modality].input_key])
            for tower, modality in encoder.modalities.items()
        }
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.encoder = encoder

    def get_config(self):
        """Returns the constructor arguments."""
        config = super().get_config()
        # `precision` already contains the dtype policy; the weights are always float32.
        config.pop("dtype", None)
        return {**config, **self._arguments}

    def load_weights(self, filepath, **kwargs):
        """Loads a weights file of this version or of an earlier version."""
        with _upgraded_weights(os.fspath(filepath)) as path:
            super().load_weights(path, **kwargs)


@contextlib.contextmanager
def _upgraded_weights(path):
    """Context manager: yields the path of a weights file with the current names of all layers.

    Keras names the groups of a weights file after the classes of the layers. In earlier versions
    `GhostBatchNormalization` was called `GroupedBatchNormalization`.
    """
    import h5py

    old_name, new_name = "grouped_batch_normalization", "ghost_batch_normalization"
    groups = []

    def collect(name):
        if re.fullmatch(rf"{old_name}(_\d+)?", name.rpartition("/")[2]):
            groups.append(name)

    if path.endswith(".h5"):
        with h5py.File(path) as file:
            file.visit(collect)
    if not groups:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(path, folder)
        with h5py.File(copy, "r+") as file:
            for name in groups:
                file.move(name, name.replace(old_name, new_name))
        yield copy
