"""Smaller sizes of embeddings: the first values of each row, scaled to length 1 again.

A model that is trained with `Term.dims` (Matryoshka representation learning, Kusupati et al. 2022)
keeps most of its accuracy at the sizes in `dims`. The rows of any other model may be truncated too.
"""

from tf_mural.errors import UserError


def truncate(rows, dim):
    """Returns the first `dim` values of each row, scaled to length 1.

    Args:
        rows: (n, width), an array or a tensor of the backend of Keras.
        dim: number of values that are kept; None: `rows` is returned unchanged.

    Returns:
        (n, dim), a tensor of the backend. A row whose first `dim` values are 0 remains 0.

    Raises:
        UserError: `dim` is not a number from 1 to the width.
    """
    if dim is None:
        return rows
    from keras import ops

    check_dim(dim, rows.shape[-1])
    return ops.normalize(rows[:, :dim], axis=-1, order=2, epsilon=1e-12)


def check_dim(dim, width, argument="dim"):
    """Raises UserError if a size is not an int from 1 to the width of the embeddings.

    `argument` is the name of the argument that contains the size, for the error message.
    """
    if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= width:
        raise UserError(
            f"`{argument}={dim!r}`: expected a size from 1 to {width}, the width of the model"
        )


def size_note(dim, trained):
    """Returns a sentence about a size that a model was not trained for, or "".

    Args:
        dim: size of the embeddings; None: the whole embeddings.
        trained: sizes in the terms of the training, see `Term.dims`; (): none, or unknown.
    """
    if dim is None or not trained or dim in trained:
        return ""
    sizes = ", ".join(map(str, trained))
    return f"the model was trained with embeddings of the sizes {sizes}, but the size is {dim}"


class TruncatedEmbedder:
    """An embedder that returns truncated rows of another embedder.

    Args:
        embed: object with the methods `embed_texts` and `embed_images`, see
            `evaluation.batch_embedder.BatchEmbedder`.
        dim: see `truncate`.
    """

    def __init__(self, embed, dim):
        self._embed, self._dim = embed, dim

    def embed_images(self, *args, **kwargs):
        """Embeds images, given as the bytes of image files; returns float32 (n, dim)."""
        return truncate_array(self._embed.embed_images(*args, **kwargs), self._dim)

    def embed_texts(self, *args, **kwargs):
        """Embeds strings; returns float32 (n, dim)."""
        return truncate_array(self._embed.embed_texts(*args, **kwargs), self._dim)


class RepeatedEmbedder:
    """An embedder that computes each embedding once, for several runs of one evaluation.

    The first run stores the results of all calls. Each further run receives the stored results, and
    must call the same methods in the same order.

    Args:
        embed: see `TruncatedEmbedder`.
    """

    def __init__(self, embed):
        self._embed, self._results, self._next = embed, [], 0

    def rewind(self):
        """Starts the next run."""
        self._next = 0

    def embed_images(self, encoded):
        """Embeds images, or returns the stored result of this call."""
        return self._result("embed_images", encoded)

    def embed_texts(self, texts):
        """Embeds strings, or returns the stored result of this call."""
        return self._result("embed_texts", texts)

    def _result(self, method, items):
        if self._next == len(self._results):
            self._results.append((method, getattr(self._embed, method)(items)))
        else:
            # A task may collect texts while its images are read, so the items are read again.
            count = sum(1 for _ in items)
            stored, rows = self._results[self._next]
            if (stored, len(rows)) != (method, count):
                raise ValueError(
                    f"the first run called {stored} with {len(rows)} items, but this run calls "
                    f"{method} with {count}"
                )
        self._next += 1
        return self._results[self._next - 1][1]


def truncate_array(rows, dim):
    """Returns truncated rows as a NumPy array, (n, dim).

    Args:
        rows: float32 (n, width), rows of length 1.
        dim: see `truncate`; with the whole width, `rows` is returned unchanged.
    """
    from keras import ops

    if dim is None or dim == rows.shape[-1]:
        return rows
    return ops.convert_to_numpy(truncate(rows, dim))
