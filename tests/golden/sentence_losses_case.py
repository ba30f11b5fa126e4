"""Embeddings of the recorded losses of sentence-transformers, for the recorder and the test.

The embeddings are drawn with `numpy.random.RandomState`, whose stream is the same in all versions
of numpy.
"""

import numpy as np

ROWS, WIDTH, TEMPERATURE = 7, 12, 0.05
DIMS, WEIGHTS = (12, 6, 3), (1.0, 0.5, 2.0)


def embeddings():
    """Returns anchors, positives and negatives, each float64 (ROWS, WIDTH), not normalized."""
    random = np.random.RandomState(3)
    anchors = random.standard_normal((ROWS, WIDTH))
    positives = anchors + random.standard_normal((ROWS, WIDTH))
    return anchors, positives, anchors + 2 * random.standard_normal((ROWS, WIDTH))
