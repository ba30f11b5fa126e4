"""Class embeddings: the normalized mean of the unit embeddings of a class's prompts."""

import hashlib
import os

import numpy as np

from tf_mural import file_io
from tf_mural.errors import UserError

# The digest in the names of cached files includes this string. Change the string whenever the code
# computes other embeddings from the same prompts.
_FORMAT = "class embeddings 1"
_LENGTH_TOLERANCE = 2e-3  # The tolerance is the rounding error of half precision.
_CHUNK_SIZE = 8192  # The approximate number of prompts that are embedded per call.


def class_embeddings(embedder, prompts, cache_dir=None, model_id=None):
    """Embeds the classes of one language.

    Args:
        embedder: Object with `embed_texts(iterable of str)`, which returns unit rows in order,
            float32 (n, d).
        prompts: Sequence with the prompts of each class, in the order of the labels. The prompts of
            a class are a sequence of strings. Classes without prompts are left out.
        cache_dir: Folder in which embeddings are cached, in files named by a hash of `model_id` and
            all prompts; None: no cache.
        model_id: String that identifies the weights of `embedder`; required with `cache_dir`.

    Returns:
        Tuple (embeddings float32 (c, d), unit rows; labels int64 (c,)).

    Raises:
        UserError: No class has a prompt, an embedding is not finite or does not have length 1,
            the prompts of a class cancel each other out, or `cache_dir` is given without
            `model_id`.
    """
    labels = np.array([label for label, texts in enumerate(prompts) if texts], np.int64)
    if not labels.size:
        raise UserError("none of the classes has a prompt")
    path = None
    if cache_dir is not None:
        if not model_id:
            raise UserError(
                "a cache of class embeddings needs model_id, which identifies the model"
            )
        path = os.path.join(cache_dir, f"{_digest(model_id, prompts)}.npy")
        if (embeddings := _load(path, len(labels))) is not None:
            return embeddings, labels
    chunks = _chunk_labels(prompts, labels)
    embeddings = np.concatenate([_embed_classes(embedder, prompts, chunk) for chunk in chunks])
    if path is not None:
        _save(path, embeddings)
    return embeddings, labels


def _chunk_labels(prompts, labels):
    """Yields lists of labels; the classes of a list have about `_CHUNK_SIZE` prompts in total."""
    chunk, num_prompts = [], 0
    for label in labels:
        chunk.append(label)
        num_prompts += len(prompts[label])
        if num_prompts >= _CHUNK_SIZE:
            yield chunk
            chunk, num_prompts = [], 0
    if chunk:
        yield chunk


def _embed_classes(embedder, prompts, labels):
    """Returns the embeddings of some classes: float32 (c, d)."""
    classes = [list(prompts[label]) for label in labels]
    # Each string is embedded once: translations of several templates are often equal.
    row_of_text = {}
    for class_prompts in classes:
        for text in class_prompts:
            row_of_text.setdefault(text, len(row_of_text))
    rows = np.asarray(embedder.embed_texts(list(row_of_text)), np.float32)
    if rows.ndim != 2 or len(rows) != len(row_of_text):
        raise ValueError(f"embed_texts returned shape {rows.shape} for {len(row_of_text)} texts")
    lengths = np.linalg.norm(rows, axis=1)
    # The condition is negated, because it must also find NaN.
    bad = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE))
    if bad.size:
        raise UserError(
            f"the embedding of {list(row_of_text)[bad[0]]!r} has length {lengths[bad[0]]}: "
            "expected finite rows of length 1"
        )
    embeddings = np.empty((len(classes), rows.shape[1]), np.float32)
    for index, class_prompts in enumerate(classes):
        mean = rows[[row_of_text[text] for text in class_prompts]].mean(axis=0, dtype=np.float64)
        length = np.linalg.norm(mean)
        if length < 1e-6:
            raise UserError(
                f"the prompts of class {labels[index]} cancel each other out, such as "
                f"{class_prompts[0]!r}: their mean has length {length:.1g}"
            )
        embeddings[index] = mean / length
    return embeddings


def _digest(model_id, prompts):
    """Returns a hash of the model and of all strings with their labels."""
    digest = hashlib.sha256()
    for text in (_FORMAT, str(model_id)):
        digest.update(text.encode() + b"\0")
    for class_prompts in prompts:
        parts = [text.encode() for text in class_prompts]
        # The lengths are included so that different lists of strings never give the same bytes.
        digest.update(repr([len(part) for part in parts]).encode() + b"".join(parts))
    return digest.hexdigest()


def _load(path, count):
    """Returns the cached embeddings, or None if they do not exist or are damaged."""
    try:
        embeddings = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    is_valid = embeddings.dtype == np.float32 and embeddings.ndim == 2 and len(embeddings) == count
    return embeddings if is_valid and np.isfinite(embeddings).all() else None


def _save(path, embeddings):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with file_io.atomic_write(path, sync=False) as temporary, open(temporary, "wb") as file:
        np.save(file, embeddings)
