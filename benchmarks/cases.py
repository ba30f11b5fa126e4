"""Sizes of a training step, and a synthetic batch for all frameworks."""

import dataclasses

import numpy as np

# Settings of configs/etcl.py that all frameworks use.
EMBEDDING_DIM = 640
STOCHASTIC_DEPTH, DROPOUT = 0.2, 0.1


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes of a step on triples (image, text A, text B).

    Attributes:
        name: name of the case.
        image: image tower, a key of `models.EFFICIENTNETS`.
        text: text tower, a key of `models.BERTS`.
        image_size: height and width in pixels.
        batch: triples per step.
        tokens: tokens per text, without padding.
        vocabulary: number of token embeddings.
        matmul: number of rows of the square matrices whose product is timed as the peak rate.
    """

    name: str
    image: str
    text: str
    image_size: int
    batch: int
    tokens: int = 64
    vocabulary: int = 30_000
    matmul: int = 4096


CASES = {
    "b7": Case("b7", "b7", "base", image_size=289, batch=8),
    "b0": Case("b0", "b0", "base", image_size=224, batch=16),
    # The case "tiny" takes seconds and shows only that a benchmark works. The speed of larger
    # models cannot be derived from the results of the case "tiny".
    "tiny": Case(
        "tiny", "tiny", "nano", image_size=64, batch=4, tokens=8, vocabulary=500, matmul=512
    ),
}


def synthetic_batch(case, seed=0):
    """Returns random pixels and tokens.

    Returns:
        {"image": uint8 (n, size, size, 3), "text_a": int32 (n, tokens), "text_b": int32
        (n, tokens)}.
    """
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (case.batch, case.image_size, case.image_size, 3), np.uint8)
    # The token id 0 is padding and is not drawn.
    texts = rng.integers(1, case.vocabulary, (2, case.batch, case.tokens), np.int32)
    return {"image": images, "text_a": texts[0], "text_b": texts[1]}
