"""Variables, gradients and settings of the LAMB trajectories, for the recorder and the test.

The arrays are drawn with `numpy.random.RandomState`, whose stream is the same in every version of
numpy.
"""

import numpy as np

STEPS = 50
RECORDED_STEPS = (1, 2, 20, 50)
EXCLUDE_FROM_WEIGHT_DECAY = ("_bn/", "/bias$", "layer_norm/", "temperature")
EXCLUDE_FROM_LAYER_ADAPTATION = ("_bn/",)

# The recipes have a weight decay of 1e-5, which would have no visible effect in 50 steps. Therefore
# the weight decay is larger here.
CASES = {
    "constant": dict(peak=1e-2, warmup_steps=None, weight_decay=0.1),
    "warm-up": dict(peak=2e-2, warmup_steps=10, weight_decay=0.01),
    "falling": dict(peak=2e-2, warmup_steps=0, weight_decay=0.01),
}

EMBEDDING = "token_embedding/embeddings"
_ROWS, _TOKENS = 12, 20
_SHAPES = {  # name: (shape, scale of the gradient)
    "image_projection/kernel": ((6, 5), 1.0),
    "image_projection/bias": ((5,), 0.1),
    "block1a_project/kernel": ((3, 3, 2, 4), 1e-6),  # the scale equals LAMB's epsilon
    "block1a_project_bn/gamma": ((4,), 3.0),
    "block1a_project_bn/beta": ((4,), 3.0),
    "embeddings_layer_norm/gamma": ((5,), 1e-3),
    "dual_encoder/temperature_shared": ((), 50.0),
    "text_projection/kernel": ((4, 3), 1.0),
    EMBEDDING: ((_ROWS, 4), 0.01),
}
_INITIALIZERS = {
    "image_projection/bias": lambda draw: 0.0 * draw,
    "block1a_project_bn/gamma": lambda draw: 1.0 + 0.1 * draw,
    "block1a_project_bn/beta": lambda draw: 0.0 * draw,
    "embeddings_layer_norm/gamma": lambda draw: 1.0 + 0.1 * draw,
    "dual_encoder/temperature_shared": lambda draw: 0.07 + 0.0 * draw,
    # With zero weights, the trust ratio of the first step is 1.
    "text_projection/kernel": lambda draw: 0.0 * draw,
}


def initial_values():
    """Returns the variables before the first step, {name: float32 array}."""
    random = np.random.RandomState(0)
    draws = {name: random.standard_normal(shape) for name, (shape, _) in _SHAPES.items()}
    return {name: np.float32(_INITIALIZERS.get(name, lambda x: x)(x)) for name, x in draws.items()}


def gradients():
    """Yields the gradients of each step, {name: float32 array}.

    Each gradient is the sum of a constant direction and noise. The gradient of the embedding is a
    pair (rows, token ids). Token ids repeat within a step, the first three ids are equal, and the
    last two rows of the table have no gradient.
    """
    random = np.random.RandomState(1)
    directions = {name: random.standard_normal(shape) for name, (shape, _) in _SHAPES.items()}
    for _ in range(STEPS):
        step = {}
        for name, (shape, scale) in _SHAPES.items():
            if name == EMBEDDING:
                ids = random.randint(_ROWS - 2, size=_TOKENS)
                ids[:3] = ids[0]
                rows = directions[name][ids] + random.standard_normal((_TOKENS, shape[1]))
                step[name] = np.float32(scale * rows), ids
            else:
                step[name] = np.float32(scale * (directions[name] + random.standard_normal(shape)))
        yield step
