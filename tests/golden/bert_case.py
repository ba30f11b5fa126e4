"""A small BERT with wide weights and a padded batch: the recorder and the test share them.

Drawn with `numpy.random.RandomState`, whose stream is the same in every version of numpy. Weights
have the names and shapes of Hugging Face's `BertModel`; those of the layers are so large that
attention is peaked and the activations bend.
"""

import numpy as np

LAYERS, WIDTH, HEADS, VOCABULARY, POSITIONS, EMBEDDING = 3, 32, 4, 100, 64, 24
CLS, SEP = 2, 3
LENGTHS = (1, 2, 5, 17, 40, 64)


def _shapes():
    """Yields (name, shape); linear layers are (out, in)."""
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
    """{name: float32 array}, the projection of [CLS] included."""
    random = np.random.RandomState(0)
    found = {}
    for name, shape in _shapes():
        draw = random.standard_normal(shape)
        if name.startswith("embeddings.") and name.endswith(".weight"):
            found[name] = 0.02 * draw  # as BERT begins; the epsilon of layer norm shows here
        elif name.endswith("LayerNorm"):
            found[f"{name}.weight"] = 1.0 + 0.3 * draw
            found[f"{name}.bias"] = 0.3 * random.standard_normal(shape)
        else:
            found[f"{name}.weight"] = 1.5 / np.sqrt(shape[1]) * draw
            found[f"{name}.bias"] = 0.3 * random.standard_normal(shape[0])
    return {name: np.float32(value) for name, value in found.items()}


def tokens():
    """int32 (texts, POSITIONS): a text of each of LENGTHS, then one with a hole; 0 is padding."""
    random = np.random.RandomState(1)
    rows = np.zeros((len(LENGTHS) + 1, POSITIONS), np.int32)
    for row, length in zip(rows, (*LENGTHS, 9), strict=True):
        row[:length] = random.randint(SEP + 1, VOCABULARY, size=length)
        row[length - 1] = SEP
        row[0] = CLS
    rows[-1, 4] = 0
    return rows
