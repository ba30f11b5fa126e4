"""What is measured: the sizes of a step, and one synthetic batch of it for both frameworks."""

import dataclasses

import numpy as np

# One recipe for both frameworks, that of configs/etcl.py.
EMBEDDING_DIM = 640
STOCHASTIC_DEPTH, DROPOUT = 0.2, 0.1


@dataclasses.dataclass(frozen=True)
class Case:
    """A step of triples (image, text A, text B).

    Attributes:
        name: of the case.
        image, text: names of the towers, in `models.EFFICIENTNETS` and `models.BERTS`.
        image_size: pixels a side.
        batch: triples a step.
        tokens: of each text, none of them padding.
        vocabulary: rows of the token embedding.
        matmul: rows of the square matrices whose product is the peak to measure against.
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
    # Seconds instead of minutes: whether the benchmark works, not how fast anything is.
    "tiny": Case(
        "tiny", "tiny", "nano", image_size=64, batch=4, tokens=8, vocabulary=500, matmul=512
    ),
}


def synthetic_batch(case, seed=0):
    """Random pixels and tokens.

    Returns:
        {"image": uint8 (n, size, size, 3), "text_a": int32 (n, tokens), "text_b": likewise}.
    """
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (case.batch, case.image_size, case.image_size, 3), np.uint8)
    # Id 0 is padding.
    texts = rng.integers(1, case.vocabulary, (2, case.batch, case.tokens), np.int32)
    return {"image": images, "text_a": texts[0], "text_b": texts[1]}
