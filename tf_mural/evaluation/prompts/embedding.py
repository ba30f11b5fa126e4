"""One vector for each class: the mean of its prompts' unit embeddings, of length 1 again."""

import hashlib
import os
import uuid

import numpy as np

from tf_mural.errors import UserError

_FORMAT = "class embeddings 1"  # changes whenever the same prompts would give other vectors
_UNIT = 2e-3  # lengths may be off by as much as half precision makes them
_AT_ONCE = 8192  # prompts


def class_embeddings(embed, prompts, cache=None, model_id=None):
    """Embeds the classes of one language.

    Args:
        embed: has `texts(iterable of str)` to float32 (n, d) unit rows in order.
        prompts: sequence, by label, of sequences of strings; classes without any are left out.
        cache: a folder to keep the vectors in, by a hash of `model_id` and all strings, or None.
        model_id: says which weights `embed` has; has to be given with a cache.

    Returns:
        (vectors float32 (c, d), unit rows; labels int64 (c,)).

    Raises:
        UserError: no class has a prompt, an embedding is not finite or not of length 1, prompts of
            a class cancel each other out, a cache without a `model_id`.
    """
    labels = np.array([label for label, of_class in enumerate(prompts) if of_class], np.int64)
    if not labels.size:
        raise UserError("none of the classes has a prompt")
    path = None
    if cache is not None:
        if not model_id:
            raise UserError("a cache of class embeddings needs model_id, to tell models apart")
        path = os.path.join(cache, f"{_digest(model_id, prompts)}.npy")
        if (vectors := _load(path, len(labels))) is not None:
            return vectors, labels
    vectors = np.concatenate([_means(embed, prompts, part) for part in _parts(prompts, labels)])
    if path is not None:
        _save(path, vectors)
    return vectors, labels


def _parts(prompts, labels):
    """Yields lists of labels with about `_AT_ONCE` prompts together."""
    part, count = [], 0
    for label in labels:
        part.append(label)
        count += len(prompts[label])
        if count >= _AT_ONCE:
            yield part
            part, count = [], 0
    if part:
        yield part


def _means(embed, prompts, labels):
    """Vectors of some classes: float32 (c, d)."""
    classes = [list(prompts[label]) for label in labels]
    # Each string once: translations of several templates are often the same.
    row_of = {}
    for of_class in classes:
        for text in of_class:
            row_of.setdefault(text, len(row_of))
    rows = np.asarray(embed.texts(list(row_of)), np.float32)
    if rows.ndim != 2 or len(rows) != len(row_of):
        raise ValueError(f"embed.texts gave shape {rows.shape} for {len(row_of)} texts")
    lengths = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) <= _UNIT))  # NaN compares as bad
    if bad.size:
        raise UserError(
            f"the embedding of {list(row_of)[bad[0]]!r} has length {lengths[bad[0]]}: expected "
            "finite rows of length 1"
        )
    vectors = np.empty((len(classes), rows.shape[1]), np.float32)
    for place, of_class in enumerate(classes):
        mean = rows[[row_of[text] for text in of_class]].mean(axis=0, dtype=np.float64)
        length = np.linalg.norm(mean)
        if length < 1e-6:
            raise UserError(
                f"the prompts of class {labels[place]} cancel each other out, such as "
                f"{of_class[0]!r}: their mean has length {length:.1g}"
            )
        vectors[place] = mean / length
    return vectors


def _digest(model_id, prompts):
    """A hash of the model and of all strings with their labels."""
    digest = hashlib.sha256()
    for text in (_FORMAT, str(model_id)):
        digest.update(text.encode() + b"\0")
    for of_class in prompts:
        parts = [text.encode() for text in of_class]
        # With their lengths, so that no two lists of strings write the same bytes.
        digest.update(repr([len(part) for part in parts]).encode() + b"".join(parts))
    return digest.hexdigest()


def _load(path, count):
    """The vectors that were kept, or None if there are none or the file is damaged."""
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == count
    return vectors if fits and np.isfinite(vectors).all() else None


def _save(path, vectors):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}"
    with open(temporary, "wb") as file:
        np.save(file, vectors)
    os.replace(temporary, path)
