"""Public interface of a trained model, which embeds texts and images as NumPy arrays."""

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tf_mural import experiment, file_io
from tf_mural.backends import backend_module
from tf_mural.data import image_headers, image_normalization
from tf_mural.data.encoder_inputs import KerasHubTokenizer
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.text_notes import TextNotes
from tf_mural.data.tokenizers import Tokenizer
from tf_mural.errors import StorageError, UserError
from tf_mural.evaluation.batch_embedder import BadImage, BatchEmbedder
from tf_mural.experiment import sentence_encoding
from tf_mural.models import DualEncoder
from tf_mural.progress import Progress, is_terminal
from tf_mural.truncation import check_dim, size_note, truncate_array

_PROGRESS_SECONDS = 5.0  # seconds until the first line of progress, and between two lines
# Numbers of rows of the batches of small inputs, see `BatchEmbedder.small_batches`.
_SMALL_BATCHES = (1, 8)
_BAR_DELAY = 1.0  # seconds until a terminal shows a progress bar


class Embedder:
    """Embeds images, and texts in any language, into one common vector space.

        embedder = tf_mural.Embedder.load("runs/tiny/etcl-s0")
        scores = embedder.embed_texts(["ein Hund"]) @ embedder.embed_images(["dog.jpg"]).T

    Args:
        embed: `BatchEmbedder`.
        encoder: `models.DualEncoder`.
        tokenizer: `tokenizers.Tokenizer`.
        preprocessing: `preprocessing.Preprocessing`, the preprocessing of images.
        languages: codes of the training languages; None: unknown.
        dim: size of the embeddings, which are the first `dim` values of the embeddings of the
            model, scaled to length 1 again; None: the whole embeddings.
        dims: sizes of the embeddings in the terms of the training, see `objective.Term`; (): none.

    Attributes:
        width: number of dimensions of an embedding: `dim`, or the width of the model.
        preprocessing, dim, dims: the arguments of these names.

    Raises:
        UserError: `dim` is not a size from 1 to the width of the model.
    """

    def __init__(
        self,
        embed: BatchEmbedder,
        encoder: DualEncoder,
        tokenizer: Tokenizer | KerasHubTokenizer,
        preprocessing: Preprocessing,
        languages: Sequence[str] | None = None,
        dim: int | None = None,
        dims: Sequence[int] = (),
    ):
        self._embed, self._encoder, self._tokenizer = embed, encoder, tokenizer
        self.preprocessing = preprocessing
        self._notes = TextNotes(tokenizer, languages)
        self.width = next(iter(encoder.towers.values())).output.shape[-1]
        self.dim, self.dims, self._languages = dim, tuple(dims), languages
        if dim is not None:
            check_dim(dim, self.width)
            self.width = dim

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        strategy: Any = None,
        batch_size: int = 64,
        dim: int | None = None,
    ) -> "Embedder":
        """Loads a model.

        Args:
            path: workdir of a finished run, the folder of a preset (see tools/export.py), or a
                preset on a hub: "hf://user/name", "kaggle://user/name/keras/variant"; or a public
                model: "hf:google/siglip2-base-patch16-224", "keras_hub:<preset or folder>".
            strategy: "one", "mirrored", "tpu" or a result of `make_strategy`: the devices that
                share the work. None means one device.
            batch_size: number of texts or images per batch, which all devices share. Without
                `strategy`, at most 8 items are embedded in a batch of 1 or 8.
            dim: size of the embeddings, see `Embedder`. A warning names the sizes that the model
                was trained with (`Term.dims`) if `dim` is not one of them.

        Raises:
            UserError: the model does not exist or is incomplete, or `dim` is not a size from 1 to
                its width.
        """
        path = os.fspath(path)
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected at least 1")
        if isinstance(strategy, str):
            strategy = backend_module().make_strategy(strategy)
        model = experiment.load(path, strategy, batch_size)
        if strategy is None:
            model.embed.small_batches = _SMALL_BATCHES
        parts = model.encoder, model.tokenizer, model.preprocessing, model.languages
        embedder = cls(model.embed, *parts, dim, model.dims)
        if note := size_note(dim, model.dims):
            warnings.warn(note, stacklevel=2)
        return embedder

    def truncated(self, dim: int | None) -> "Embedder":
        """Returns an embedder of the same model with embeddings of another size.

        Args:
            dim: see `Embedder`.
        """
        parts = self._embed, self._encoder, self._tokenizer, self.preprocessing
        return Embedder(*parts, self._languages, dim, self.dims)

    @classmethod
    def from_model(
        cls, model: DualEncoder, batch_size: int = 64, dim: int | None = None
    ) -> "Embedder":
        """Returns an embedder that uses the current weights of a model.

        Args:
            model: `models.DualEncoder`.
            batch_size: number of texts or images per batch.
            dim: see `Embedder`.

        Raises:
            UserError: a tower of the model has no tokenizer or no preprocessing.
        """
        missing = {
            "text": ("tokenizer", "TextEncoder(backbone, tokenizer=...)"),
            "image": ("preprocessing", "ImageEncoder(backbone)"),
        }
        for modality, (name, advice) in missing.items():
            if modality in model.modalities.values() and getattr(model, name) is None:
                raise UserError(
                    f"the first {modality} tower of the model has no {name}: build it as "
                    f"tf_mural.{advice}, or set model.{name}"
                )
        parts = model.tokenizer, model.preprocessing
        embed = experiment.batch_embedder(model, *parts, batch_size)
        embed.small_batches = _SMALL_BATCHES
        return cls(embed, model, *parts, model.languages, dim)

    @property
    def model(self) -> DualEncoder:
        """The `DualEncoder`."""
        return self._encoder

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of weights, vocabulary, preprocessing and poolings, 32 hexadecimal digits."""
        return experiment.fingerprint(self._encoder, self._tokenizer, self.preprocessing)

    def embed_texts(
        self, texts: Iterable[str], progress: bool | None = None, warn: bool = True
    ) -> np.ndarray:
        """Embeds strings.

        Args:
            texts: iterable of str. A single str is an error, because each letter would be a text.
            progress: whether to show the rate and the remaining time on stderr, as a bar if stderr
                is a terminal, and otherwise as lines. None: only if stderr is a terminal.
            warn: whether to issue a `UserWarning` with the number of texts that may be embedded
                badly, for example because they are too long, see `text_notes`.

        Returns:
            float32 (n, width), one row of norm 1 per text, in the order of the texts.

        Raises:
            UserError: an item is not a string.
        """
        self._check_modality("text")
        if isinstance(texts, str | bytes):
            raise UserError(
                f"texts is {texts[:40]!r}, expected a list of strings: [{texts[:40]!r}]"
            )
        with self._progress(texts, "texts", progress):
            if not warn:
                return self._cut(self._embed.embed_texts(_check_strings(texts)))
            notes = []
            embeddings = self._embed.embed_texts(
                _check_strings(texts),
                lambda window, tokens: notes.extend(filter(None, self._notes(window, tokens))),
            )
        if notes:
            warnings.warn(
                f"{len(notes):,} of {len(embeddings):,} texts, such as: {notes[0]}", stacklevel=2
            )
        return self._cut(embeddings)

    def embed_images(
        self, images: Iterable[Any], progress: bool | None = None, background: str | None = None
    ) -> np.ndarray:
        """Embeds images of any size.

        Image files may be PNG, JPEG, BMP, GIF or WebP. Only the first frame of an animated image is
        embedded. The EXIF orientation of files and of Pillow images is applied. Transparent pixels,
        also in arrays with four channels, get the color `preprocessing.background`.

        Args:
            images: iterable of images. Each image is the path or the bytes of an image file, a
                Pillow image, or a uint8 array (h, w) or (h, w, c) with c = 1, 3 or 4.
            progress: see `embed_texts`.
            background: color of transparent pixels, such as "black" or "#ffcc00". Defaults to
                `preprocessing.background`.

        Returns:
            float32 (n, width), one row of norm 1 per image, in the order of the images.

        Raises:
            BadImage: an image cannot be read or has too many pixels. BadImage is a UserError with
                the attribute `position`, the index of the image.
        """
        self._check_modality("image")
        if isinstance(images, str | bytes | os.PathLike):
            raise UserError("images is a single image, expected a list of images: [image]")
        paths, background = {}, background or self.preprocessing.background
        image_normalization.parse_color(background)
        try:
            with self._progress(images, "images", progress):
                return self._cut(self._embed.embed_images(_encode(images, paths, background)))
        except BadImage as error:
            if error.position in paths and paths[error.position] not in str(error):
                raise BadImage(
                    error.position, f"{paths[error.position]}: {error.reason}"
                ) from error
            raise

    # The interface of sentence-transformers.
    encode = encode_query = encode_document = sentence_encoding.encode
    similarity = sentence_encoding.similarity
    similarity_pairwise = sentence_encoding.similarity_pairwise
    get_embedding_dimension = sentence_encoding.get_embedding_dimension
    get_sentence_embedding_dimension = sentence_encoding.get_embedding_dimension
    similarity_fn_name = "cosine"

    def text_notes(self, texts: Iterable[str]) -> list[str]:
        """Returns a note for each text that the model truncates, or may not understand.

        A text gets a note if it has more tokens than the model reads, if most of its letters belong
        to scripts in which no training language is written, or if the vocabulary lacks letters of
        one of its words. Languages with the same alphabet are not distinguished. If the training
        languages of the model are unknown, no text gets a note about its language.

        Args:
            texts: iterable of str.

        Returns:
            List of str with one note per text; "" means that a text has no note.
        """
        return self._notes(_check_strings(texts))

    def has_known_tokens(self, texts: Iterable[str]) -> np.ndarray:
        """Returns a bool array (n,): for each text, whether it has a token other than [UNK]."""
        texts = list(_check_strings(texts))
        if not texts:
            return np.zeros(0, bool)
        return np.asarray(self._tokenizer.has_known_tokens(self._tokenizer(texts)))

    def _cut(self, embeddings):
        return truncate_array(embeddings, self.dim)

    def _check_modality(self, modality):
        known = set(self._encoder.modalities.values())
        if modality not in known:
            raise UserError(
                f"the model has no encoder of modality {modality!r}, only of "
                f"{' and '.join(sorted(known))}: choose another model"
            )

    @contextlib.contextmanager
    def _progress(self, items, noun, enabled):
        """Context manager that shows the progress of the embedding on stderr."""
        if enabled is None:
            enabled = is_terminal(sys.stderr)
        if not enabled:
            yield
            return
        total = len(items) if hasattr(items, "__len__") else None
        options = {"stream": sys.stderr, "seconds": _PROGRESS_SECONDS, "delay": _BAR_DELAY}
        with Progress("", total, noun, **options, print_end=False) as progress:
            self._embed.progress = lambda _, done: progress.update(done)
            try:
                yield
            finally:
                self._embed.progress = None


def _check_strings(texts):
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(
                f"text at position {position} is of type {type(text).__name__}, expected a string"
            )
        # TensorFlow rejects lone surrogates, which Python uses for file names that are not UTF-8.
        yield text.encode("utf-8", "replace").decode("utf-8")


def _encode(images, paths, background="white"):
    """Yields the bytes of a normalized file for each image.

    Args:
        images: see `Embedder.embed_images`.
        paths: dict, to which the position and the path of each image that is a path are added.
        background: color of transparent pixels.
    """
    for position, image in enumerate(images):
        if isinstance(image, str | os.PathLike):
            paths[position] = os.fspath(image)
            try:
                image = file_io.read_bytes(paths[position])
            except StorageError:
                raise
            except OSError as error:
                reason = error.strerror or str(error)
                raise BadImage(position, f"{paths[position]}: {reason}") from error
        elif not isinstance(image, bytes):
            image = _encode_png(image, position, background)
        size = image_headers.header_size(image)
        if size and size[0] * size[1] > image_headers.MAX_PIXELS:
            raise BadImage(
                position,
                f"{size[0]} x {size[1]} pixels, above {image_headers.MAX_PIXELS:,}: "
                "shrink it first",
            )
        try:
            # Rotated JPEGs are encoded without loss, so that a path gives the same pixels as the
            # Pillow image of the file.
            yield image_normalization.normalize(image, background, lossless=True).data
        except image_normalization.UnreadableImage as error:
            raise BadImage(position, str(error)) from error


def _encode_png(image, position, background):
    import tensorflow as tf

    if hasattr(image, "convert"):
        image = _pillow_pixels(image, position, background)
    array = np.asarray(image)
    array = array[..., np.newaxis] if array.ndim == 2 else array
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        message = f"an array {array.shape} of {array.dtype}, expected uint8 (h, w, 3)"
        if np.issubdtype(array.dtype, np.floating):
            message += " with values from 0 to 255; multiply values from 0 to 1 by 255, and convert"
        raise BadImage(position, message)
    # `normalize` composites the pixels of arrays with an alpha channel.
    return tf.io.encode_png(array, compression=1).numpy()


def _pillow_pixels(image, position, background):
    """Returns the pixels of a Pillow image as uint8, as if the file of the image were decoded."""
    try:
        image.load()  # Pillow reads the file here, and raises an error if the file is damaged.
        return np.asarray(image_normalization.to_rgb(image, background)[0])
    except (*image_normalization.DECODE_ERRORS, AssertionError) as error:
        raise BadImage(position, str(error) or "the image is closed") from error
