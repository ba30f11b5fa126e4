"""Weights of a small BERT and a padded batch, for the recorder and the test.

The weights are drawn with `numpy.random.RandomState`, whose stream is the same in every version of
numpy. The names and shapes are those of Hugging Face's `BertModel`. The weights of the layers are
so large that attention is far from uniform and the activations are far from linear.
"""

import numpy as np

LAYERS, WIDTH, HEADS, VOCABULARY, POSITIONS, EMBEDDING = 3, 32, 4, 100, 64, 24
CLS, SEP = 2, 3
LENGTHS = (1, 2, 5, 17, 40, 64)


def _shapes():
    """Yields (name, shape) of each weight. Weights of linear layers have the shape (out, in)."""
    for name, rows in (("word", VOCABULARY), ("position", POSITIONS), ("token_type", 2)):
        yield f"embeddings.{name}_embeddings.weight", (rows, WIDTH)
    yield "embeddings.LayerNorm", (WIDTH,)
    for i in range(LAYERS):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield f"encoder.layer.{i}.attention.{part}", (WIDTH, WIDTH)
        yield f"encoder.layer.{i}.attention.output.LayerNorm", (WIDTH,)
        yield f"encoder.layer.{i}.intermediate.dense", (4 * WIDTH, WIDTH)
        yield f"encoder.layer.{i}.output.dense", (WIDTH, 4 * WIDTH)
        yield f"encoder.layer.{i}.output.LayerNorm", (WIDTH,)
    yield "pooler.dense", (WIDTH, WIDTH)
    yield "text_projection", (EMBEDDING, WIDTH)


def weights():
    """Returns the weights, {name: float32 array}, including the projection of [CLS]."""
    random = np.random.RandomState(0)
    arrays = {}
    for name, shape in _shapes():
        draw = random.standard_normal(shape)
        if name.startswith("embeddings.") and name.endswith(".weight"):
            # BERT's initializer has the scale 0.02, at which the epsilon of layer norm matters.
            arrays[name] = 0.02 * draw
        elif name.endswith("LayerNorm"):
            arrays[f"{name}.weight"] = 1.0 + 0.3 * draw
            arrays[f"{name}.bias"] = 0.3 * random.standard_normal(shape)
        else:
            arrays[f"{name}.weight"] = 1.5 / np.sqrt(shape[1]) * draw
            arrays[f"{name}.bias"] = 0.3 * random.standard_normal(shape[0])
    return {name: np.float32(value) for name, value in arrays.items()}


def tokens():
    """Returns int32 (texts, POSITIONS): texts of all lengths, and one with padding inside."""
    random = np.random.RandomState(1)
    rows = np.zeros((len(LENGTHS) + 1, POSITIONS), np.int32)
    for row, length in zip(rows, (*LENGTHS, 9), strict=True):
        row[:length] = random.randint(SEP + 1, VOCABULARY, size=length)
        row[length - 1] = SEP
        row[0] = CLS
    rows[-1, 4] = 0
    return rows
