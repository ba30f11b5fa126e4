"""The method `encode` of an `Embedder`, with the signature of sentence-transformers.

Code that takes a SentenceTransformer and calls `encode` therefore also takes an `Embedder`. The
functions of this module are methods of `Embedder`; their first argument is the embedder.
"""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_mural.errors import UserError

_OUTPUTS, _PRECISIONS = ("sentence_embedding",), ("float32",)


def encode(
    self: Any,
    inputs: Any = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
    output_value: str = "sentence_embedding",
    precision: str = "float32",
    convert_to_numpy: bool = True,
    convert_to_tensor: bool = False,
    device: Any = None,
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    pool: Any = None,
    chunk_size: int | None = None,
    **kwargs: Any,
) -> Any:
    """Embeds texts and images, with the arguments of `SentenceTransformer.encode`.

    Args:
        inputs: a text, an image, or a list of texts and images. A str is always a text; an image is
            a Pillow image, a uint8 array, bytes, a `pathlib.Path`, or {"image": image or path}.
            A text may also be {"text": text}.
        prompt_name: must be None; the models of this package have no named prompts.
        prompt: string that is put before each text.
        batch_size: at least 1. The batch size is the one with which the embedder was loaded.
        show_progress_bar: see `progress` of `Embedder.embed_texts`.
        output_value, precision: only "sentence_embedding" and "float32".
        convert_to_numpy: whether to return an array; False: a list of `torch.Tensor`, or one.
        convert_to_tensor: whether to return one `torch.Tensor` instead; needs PyTorch.
        device: accepted for compatibility; the devices are those of `Embedder.load`.
        normalize_embeddings: whether embeddings that `truncate_dim` cuts get length 1 again. Whole
            embeddings always have length 1.
        truncate_dim: number of values to keep.
        pool, chunk_size: must be None; there are no further processes.
        **kwargs: `sentences`, the old name of `inputs`.

    Returns:
        float32 (n, width) for a list, and (width,) for a single text or image.

    Raises:
        UserError: an argument is unknown or unsupported, or an input is not a text or an image.
    """
    if "sentences" in kwargs:
        inputs = kwargs.pop("sentences")
    unsupported = {"prompt_name": prompt_name, "pool": pool, "chunk_size": chunk_size, **kwargs}
    _check_arguments(unsupported, batch_size, output_value, precision)
    if device not in (None, "cpu"):
        warnings.warn(
            f"device={device!r} is ignored: Embedder.load(strategy=...) selects the devices",
            stacklevel=2,
        )
    is_single = isinstance(inputs, str | bytes | Mapping | os.PathLike) or _is_image(inputs)
    items = [inputs] if is_single else list(inputs)
    rows = _embed(self, items, prompt or "", show_progress_bar)
    if truncate_dim is not None:
        if not 1 <= truncate_dim <= rows.shape[1]:
            raise UserError(f"truncate_dim={truncate_dim}: expected 1 to {rows.shape[1]}")
        rows = rows[:, :truncate_dim]
        if normalize_embeddings:
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    rows = rows[0] if is_single else rows
    if convert_to_numpy and not convert_to_tensor:
        return rows
    reason = "convert_to_tensor=True" if convert_to_tensor else "convert_to_numpy=False"
    tensor = _import_torch(reason).from_numpy(np.ascontiguousarray(rows))
    return tensor if convert_to_tensor or is_single else list(tensor)


def similarity(self: Any, embeddings1: Any, embeddings2: Any) -> np.ndarray:
    """Returns the cosine similarities of all pairs: float32 (n, m) for (n, d) and (m, d)."""
    first, second = _unit_rows(embeddings1), _unit_rows(embeddings2)
    return first @ second.T


def similarity_pairwise(self: Any, embeddings1: Any, embeddings2: Any) -> np.ndarray:
    """Returns the cosine similarities of corresponding rows: float32 (n,)."""
    first, second = _unit_rows(embeddings1), _unit_rows(embeddings2)
    return np.einsum("nd,nd->n", first, second)


def get_embedding_dimension(self: Any) -> int:
    """Returns the number of dimensions of an embedding."""
    return self.width


def _check_arguments(unsupported, batch_size, output_value, precision):
    for name, value in unsupported.items():
        if value is not None:
            raise UserError(f"encode does not support {name}={value!r:.60}: omit it")
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: expected at least 1")
    for name, value, known in (
        ("output_value", output_value, _OUTPUTS),
        ("precision", precision, _PRECISIONS),
    ):
        if value not in known:
            raise UserError(f"encode does not support {name}={value!r}: expected {known[0]!r}")


def _embed(embedder, items, prompt, progress):
    """Returns the embeddings of texts and images, float32 (n, width)."""
    texts, images = {}, {}
    for position, item in enumerate(items):
        if isinstance(item, Mapping):
            if set(item) not in ({"text"}, {"image"}):
                raise UserError(
                    f"input {position} has the keys {', '.join(map(str, item)) or '(none)'}: "
                    "expected either 'text' or 'image'"
                )
            (key,) = item
            (texts if key == "text" else images)[position] = item[key]
        elif isinstance(item, str):
            texts[position] = item
        elif isinstance(item, bytes | os.PathLike) or _is_image(item):
            images[position] = item
        else:
            raise UserError(
                f"input {position} is a {type(item).__name__}: expected a text or an image"
            )
    rows = np.empty((len(items), embedder.width), np.float32)
    if texts:
        prompted = [prompt + text for text in texts.values()]
        rows[list(texts)] = embedder.embed_texts(prompted, progress=progress)
    if images:
        rows[list(images)] = embedder.embed_images(list(images.values()), progress=progress)
    return rows


def _is_image(item):
    """Returns whether an item is a Pillow image or an array of pixels."""
    is_array = isinstance(item, np.ndarray) and item.ndim in (2, 3) and item.dtype != object
    return is_array or hasattr(item, "convert")


def _unit_rows(embeddings):
    rows = np.atleast_2d(np.asarray(embeddings, np.float32))
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _import_torch(reason):
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{reason} needs PyTorch: pip install torch") from error
    return torch
