"""Features of the recorded CLIP losses, for the recorder and the test.

The features are drawn with `numpy.random.RandomState`, whose stream is the same in all versions of
numpy.
"""

import numpy as np

# pairs: number of image-text pairs. width: width of the features. likeness: weight of the
# image; a text is the sum of the weighted image and noise. scale: factor of the logits.
CASES = {
    "one pair": dict(pairs=1, width=3, likeness=1.0, scale=10.0),
    "chance": dict(pairs=7, width=5, likeness=0.0, scale=1.0),
    "trained": dict(pairs=48, width=16, likeness=1.0, scale=1 / 0.07),
    "sharp": dict(pairs=24, width=8, likeness=1.0, scale=100.0),
}


def features(pairs, width, likeness):
    """Returns (images, texts), each float64 (pairs, width) with rows of norm 1."""
    random = np.random.RandomState(pairs)
    images = random.standard_normal((pairs, width))
    texts = likeness * images + random.standard_normal((pairs, width))
    return tuple(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
