"""Features of the recorded CLIP losses: the recorder and the test share them.

Drawn with `numpy.random.RandomState`, whose stream is the same in every version of numpy.
"""

import numpy as np

# Pairs, width, how much a text resembles its image, and the scale of the logits.
CASES = {
    "one pair": dict(pairs=1, width=3, likeness=1.0, scale=10.0),
    "chance": dict(pairs=7, width=5, likeness=0.0, scale=1.0),
    "trained": dict(pairs=48, width=16, likeness=1.0, scale=1 / 0.07),
    "sharp": dict(pairs=24, width=8, likeness=1.0, scale=100.0),
}


def features(pairs, width, likeness):
    """(images, texts), unit rows (pairs, width) in float64."""
    random = np.random.RandomState(pairs)
    images = random.standard_normal((pairs, width))
    texts = likeness * images + random.standard_normal((pairs, width))
    return tuple(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
