"""The dual encoder as a backbone of KerasHub."""

import keras
import keras_hub

from tf_mural.models import dual_encoder


@keras.saving.register_keras_serializable(package="tf_mural")
class MuralBackbone(keras_hub.models.Backbone):
    """Both towers and the temperature, by the arguments of `models.dual_encoder`.

    It maps {"pixels": uint8-range (n, size, size, 3), "tokens": int32 (n, t) padded with 0} to
    {"image_embeddings": (n, embedding_dim), "text_embeddings": likewise}, unit rows in float32.

    Args:
        image, text, embedding_dim, temperatures, freeze: see `models.dual_encoder`.
        precision: dtype policy of the towers; None is that of `dtype`, else float32.
        dtype: what KerasHub calls the policy.
        **kwargs: of `keras_hub.models.Backbone`.

    Attributes:
        encoder: the `models.DualEncoder`.
    """

    def __init__(
        self,
        image,
        text,
        embedding_dim,
        temperatures=None,
        freeze=(),
        precision=None,
        dtype=None,
        **kwargs,
    ):
        self._arguments = {
            "image": dict(image),
            "text": dict(text),
            "embedding_dim": embedding_dim,
            "temperatures": dict(temperatures or {"shared": 1.0}),
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
            "image_embeddings": encoder.encode("image", inputs["pixels"]),
            "text_embeddings": encoder.encode("text", inputs["tokens"]),
        }
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.encoder = encoder

    def get_config(self):
        """Constructor arguments."""
        config = super().get_config()
        config.pop("dtype", None)  # `precision` says it, and weights are float32 in any case
        return {**config, **self._arguments}
