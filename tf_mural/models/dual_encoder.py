"""The dual encoder: towers with one embedding space, and the learned scalars of the losses."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

import tf_mural
from tf_mural.errors import lookup
from tf_mural.losses import SCALARS
from tf_mural.modalities import MODALITIES
from tf_mural.models.adaptation import FROZEN, FULL, adapt_tower
from tf_mural.models.blocks import check_widths, require_remat_blocks
from tf_mural.models.ghost_batch_norm import at_least_float32, unit_rows
from tf_mural.models.image_encoder import image_tower
from tf_mural.models.keras_patches import dtype_policy_scope, make_names_unique, renumber_paths
from tf_mural.models.text_encoder import text_tower
from tf_mural.models.vectors_encoder import StoredVectors, VectorsEncoder


@keras.saving.register_keras_serializable(package="tf_mural")
class DualEncoder(keras.Model):
    """Two towers that share one embedding space, and the learned scalars of the losses.

    A model can have further towers, for example a frozen second text tower as the teacher of a
    distillation. A tower is an `ImageEncoder`, a `TextEncoder` or another `keras.Model` that maps
    the inputs of its modality, (n, ...), to vectors, (n, dim). `embed_texts` needs a tower with a
    tokenizer, and `embed_images` needs a tower with a preprocessing. Only the towers of this
    package have them.

        model = tf_mural.DualEncoder(
            image_encoder=tf_mural.ImageEncoder(image_backbone),
            text_encoder=tf_mural.TextEncoder(text_backbone, tokenizer="vocabulary.txt"),
        )
        embeddings = model.predict({"image": pixels, "text": tokens})
        scores = model.embed_texts(["ein Hund"]) @ model.embed_images(["dog.jpg"]).T

    Args:
        image_encoder: the tower "image". None: the model has no tower of this name, or `towers`
            contains it.
        text_encoder: the tower "text". None: the model has no tower of this name, or `towers`
            contains it.
        towers: {name: `keras.Model`}, further towers.
        scalars: {kind: {name: initial value}}, the learned scalars. A kind is a key of
            `losses.SCALARS`, which also defines the bounds of the scalars. Defaults to
            {"temperature": {"shared": 1.0}}, because the paper uses a single temperature.
        adapt: {name of a tower: "full", "frozen", "last:k" or "lora:r"}, which weights of the tower
            are trained, see `models.adaptation`. Defaults to "full" for each tower.
        modalities: {name of a tower: modality}, see `modalities.MODALITIES`. Defaults to the
            attribute `modality` of the tower; if the tower has no such attribute, to its name.
        languages: codes of the languages that the model is trained on. `embed_texts` warns about
            texts whose script none of these languages uses. None: the languages are unknown.
        name: name of the model.

    Attributes:
        towers: {name: `keras.Model`}, all towers.
        modalities: {name of a tower: modality}, the modalities of all towers.
        scalars: {kind: {name: variable}}, the learned scalars.
        stored: `StoredVectors`, the vectors of records that towers read in training.
        languages: tuple of the codes of the training languages, or None.
        adapt: {name of a tower: which weights of the tower are trained}, for all towers.

    Raises:
        UserError: a modality, a kind of scalar or the name of a tower in `adapt` is unknown, a
            tower does not have the layers that `adapt` names, or the towers have different widths.
    """

    def __init__(
        self,
        image_encoder: keras.Model | None = None,
        text_encoder: keras.Model | None = None,
        *,
        towers: Mapping[str, keras.Model] | None = None,
        scalars: Mapping[str, Mapping[str, float]] | None = None,
        adapt: Mapping[str, str] | None = None,
        modalities: Mapping[str, str] | None = None,
        languages: Sequence[str] | None = None,
        name: str = "dual_encoder",
    ):
        super().__init__(name=name)
        named = {"image": image_encoder, "text": text_encoder}
        towers = {key: tower for key, tower in named.items() if tower is not None} | dict(
            towers or {}
        )
        self.towers = towers
        self.modalities = {
            tower: (modalities or {}).get(tower) or getattr(model, "modality", tower)
            for tower, model in towers.items()
        }
        for modality in self.modalities.values():
            lookup(MODALITIES, modality, "modality")
        check_widths(towers)
        for tower in adapt or {}:
            lookup(towers, tower, "tower")
        scalars = scalars or {"temperature": {"shared": 1.0}}
        self._initial_scalars = {kind: dict(values) for kind, values in scalars.items()}
        self.scalars = {
            kind: {name: self._add_scalar(kind, name, value) for name, value in values.items()}
            for kind, values in scalars.items()
        }
        defaults = {self.default_tower(modality) for modality in self.modalities.values()}
        make_names_unique(towers, defaults)
        self.adapt = {tower: (adapt or {}).get(tower, FULL) for tower in towers}
        for name, value in self.adapt.items():
            adapt_tower(name, towers[name], value)
        self.languages = languages and tuple(languages)
        self._embedder = None
        self.use_stored_features({})
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

    def use_stored_features(self, vectors: Mapping[str, str]) -> None:
        """Makes a training step read the features of towers from records, see `StoredVectors`.

        Args:
            vectors: {name of a tower: name of the vectors}, which tools/extract.py --features adds.

        Raises:
            UserError: a tower is unknown, or cannot be split.
        """
        self.stored = StoredVectors(self.towers, self.modalities, vectors)

    @property
    def scalar_variables(self) -> list[keras.Variable]:
        """List of the variables of all learned scalars."""
        return [variable for named in self.scalars.values() for variable in named.values()]

    def scalar_values(self) -> dict[str, dict[str, Any]]:
        """Returns {kind: {name: value}} of the learned scalars."""
        return {
            kind: {name: variable.value for name, variable in named.items()}
            for kind, named in self.scalars.items()
        }

    @property
    def remat_blocks(self) -> list[keras.Layer]:
        """List of the blocks for gradient checkpointing in all towers; see `models.blocks`."""
        return [b for name, tower in self.towers.items() for b in require_remat_blocks(name, tower)]

    def encode(
        self,
        tower: str,
        inputs: Any,
        training: bool = False,
        normalize: bool = True,
        stored: bool = False,
    ) -> Any:
        """Returns the L2-normalized embeddings of a tower, (n, embedding_dim).

        With `normalize=False`, the embeddings are not normalized. They are float32 or float64, even
        if the towers compute in half precision. With `stored=True`, the inputs are the features of
        a tower of `use_stored_features`.
        """
        tower = lookup(self.stored.projections if stored else self.towers, tower, "tower")
        # A frozen tower runs in inference mode, without dropout and stochastic depth.
        x = tower(inputs, training=training and tower.trainable)
        x = ops.cast(x, at_least_float32(x.dtype))
        return unit_rows(x) if normalize else x

    def call(self, inputs, training=False):
        """Encodes a dict from tower to inputs; returns a dict from tower to embeddings."""
        return {tower: self.encode(tower, x, training) for tower, x in inputs.items()}

    def default_tower(self, modality: str) -> str:
        """Returns the name of the first tower of a modality."""
        towers = {value: tower for tower, value in reversed(self.modalities.items())}
        return lookup(towers, modality, "modality")

    # --- strings and images -----------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of the first text tower, or None. The tokenizer can be assigned."""
        return getattr(self._first_tower("text"), "tokenizer", None)

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any):
        """Replaces the tokenizer of the first text tower."""
        self._first_tower("text").tokenizer = tokenizer

    @property
    def preprocessing(self) -> Any:
        """`data.Preprocessing` of the first image tower, or None. It can be assigned."""
        return getattr(self._first_tower("image"), "preprocessing", None)

    @preprocessing.setter
    def preprocessing(self, preprocessing: Any):
        """Replaces the preprocessing of the first image tower."""
        self._first_tower("image").preprocessing = preprocessing

    def _first_tower(self, modality):
        towers = (tower for tower, value in self.modalities.items() if value == modality)
        return self.towers.get(next(towers, None))

    def embed_texts(self, texts: Iterable[str], batch_size: int = 64) -> np.ndarray:
        """Embeds strings, see `Embedder.embed_texts`.

        Args:
            texts: iterable of str.
            batch_size: number of texts per batch.

        Returns:
            float32 (n, dim), one row of norm 1 per text.

        Raises:
            UserError: an item is not a string, or the text tower has no tokenizer.
        """
        return self.embedder(batch_size).embed_texts(texts)

    def embed_images(self, images: Iterable[Any], batch_size: int = 64) -> np.ndarray:
        """Embeds images of any size, see `Embedder.embed_images`.

        Args:
            images: iterable of images: paths or bytes of image files, Pillow images or uint8
                arrays (h, w, c).
            batch_size: number of images per batch.

        Returns:
            float32 (n, dim), one row of norm 1 per image.

        Raises:
            UserError: an image cannot be read, or the image tower has no preprocessing.
        """
        return self.embedder(batch_size).embed_images(images)

    def embedder(self, batch_size: int = 64) -> Any:
        """Returns an `Embedder` that uses the current weights of this model.

        Args:
            batch_size: number of texts or images per batch.
        """
        parts = (batch_size, self.tokenizer, self.preprocessing, self.languages)
        if self._embedder is None or self._embedder.parts != parts:
            self._embedder = tf_mural.Embedder.from_model(self, batch_size)
            self._embedder.parts = parts
        return self._embedder

    # --- saving -----------------------------------------------------------------------------------

    @classmethod
    def from_preset(cls, path: str) -> "DualEncoder":
        """Loads a model from a preset, or from the workdir of a finished run.

        Args:
            path: folder that `save_to_preset` or tools/export.py wrote, handle of such a folder on
                a hub ("hf://user/name" or "kaggle://user/name/keras/variant"), workdir of a
                finished run, or public model ("hf:google/siglip2-base-patch16-224").

        Raises:
            UserError: the model does not exist or is incomplete.
        """
        return tf_mural.Embedder.load(path).model

    def save_to_preset(self, folder: str) -> None:
        """Writes the model, its tokenizer and its preprocessing as a preset of KerasHub.

        Args:
            folder: output folder; if it already exists, it must be empty.

        Raises:
            UserError: the folder is not empty, or the model has no tokenizer or preprocessing.
        """
        tf_mural.presets.save_model(folder, self)

    def get_config(self):
        """Returns the constructor arguments, with the initial values of the learned scalars."""
        return {
            "towers": {
                name: keras.saving.serialize_keras_object(tower)
                for name, tower in self.towers.items()
            },
            "scalars": {kind: dict(values) for kind, values in self._initial_scalars.items()},
            "adapt": {
                name: self.adapt[name] if tower.trainable else FROZEN
                for name, tower in self.towers.items()
            },
            "modalities": dict(self.modalities),
            "languages": self.languages and list(self.languages),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds a model with new weights from the result of `get_config`."""
        towers = {
            name: keras.saving.deserialize_keras_object(tower, custom_objects)
            for name, tower in config["towers"].items()
        }
        config = {**config, "towers": towers}
        # An earlier version of `tf_mural` stored the names of the frozen towers.
        if frozen := config.pop("freeze", ()):
            config["adapt"] = dict.fromkeys(frozen, FROZEN)
        return cls(**config)

    def clamp_scalars(self) -> dict[str, Any]:
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
    precision=None,
    towers=None,
    all_reduce_mean=list,
    batch_norm_kernel=None,
):
    """Builds a `DualEncoder` from plain data, which the model.json of a run stores.

    Args:
        image: keyword arguments of `image_tower`, and "adapt", see `DualEncoder`. "encoder", a
            `keras.Model` or its serialized form, may stand for the arguments of `image_tower`.
        text: keyword arguments of `text_tower`, and "adapt"; or "encoder", as in `image`.
        embedding_dim: width of the shared embedding space.
        scalars: see `DualEncoder`.
        precision: dtype policy of the towers, one of "float32", "mixed_bfloat16" and
            "mixed_float16". The mixed policies compute in half precision and keep float32 weights.
            Defaults to the global dtype policy of Keras.
        towers: {name: keyword arguments} of further towers. "modality" is "image", "text" or
            "vectors", and the other arguments are those of `image`, `text` or `VectorsEncoder`.
            The paths of the variables of a further tower start with its name.
        all_reduce_mean, batch_norm_kernel: see `image_tower`. model.json does not store these
            arguments.
    """
    make = {
        "image": functools.partial(
            image_tower,
            embedding_dim=embedding_dim,
            all_reduce_mean=all_reduce_mean,
            batch_norm_kernel=batch_norm_kernel,
        ),
        "text": functools.partial(text_tower, embedding_dim=embedding_dim),
        "vectors": VectorsEncoder,
    }
    modalities = {"image": "image", "text": "text"}
    described = {"image": image, "text": text, **(towers or {})}
    adapt = {name: arguments.get("adapt", FULL) for name, arguments in described.items()}
    described = {
        name: {key: value for key, value in arguments.items() if key != "adapt"}
        for name, arguments in described.items()
    }
    with dtype_policy_scope(precision):
        models = {name: _tower(make[name], **described.pop(name)) for name in ("image", "text")}
        for name, arguments in described.items():
            modalities[name] = arguments.pop("modality")
            with keras.name_scope(name):
                make_tower = lookup(make, modalities[name], "modality")
                models[name] = _tower(make_tower, **arguments)
            # A functional model that contains the towers needs distinct names.
            models[name].name = f"{name}_tower"
    return DualEncoder(towers=models, scalars=scalars, adapt=adapt, modalities=modalities)


def _tower(make, encoder=None, **arguments):
    """Returns `make(**arguments)`, or `encoder`, which may be serialized."""
    if encoder is None:
        return make(**arguments)
    if isinstance(encoder, dict):
        import keras_hub  # noqa: F401  registers the classes of its backbones

        encoder = keras.saving.deserialize_keras_object(encoder)
    renumber_paths(encoder.variables)
    return encoder
