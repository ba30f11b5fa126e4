"""Variables, gradients and settings of the LAMB trajectories: the recorder and the test share them.

Drawn with `numpy.random.RandomState`, whose stream is the same in every version of numpy.
"""

import numpy as np

STEPS = 50
RECORDED_STEPS = (1, 2, 20, 50)
EXCLUDE_FROM_DECAY = ("_bn/", "/bias$", "layer_norm/", "temperature")
EXCLUDE_FROM_ADAPTATION = ("_bn/",)

# Settings by case. With a decay of 1e-5, as in the recipes, 50 steps could not tell it from none.
CASES = {
    "constant": dict(peak=1e-2, warmup_steps=None, decay=0.1),
    "warm-up": dict(peak=2e-2, warmup_steps=10, decay=0.01),
    "falling": dict(peak=2e-2, warmup_steps=0, decay=0.01),
}

EMBEDDING = "token_embedding/embeddings"
_ROWS, _TOKENS = 12, 20
_SHAPES = {  # name: (shape, scale of the gradient)
    "image_projection/kernel": ((6, 5), 1.0),
    "image_projection/bias": ((5,), 0.1),
    "block1a_project/kernel": ((3, 3, 2, 4), 1e-6),  # as small as epsilon
    "block1a_project_bn/gamma": ((4,), 3.0),
    "block1a_project_bn/beta": ((4,), 3.0),
    "embeddings_layer_norm/gamma": ((5,), 1e-3),
    "dual_encoder/temperature_shared": ((), 50.0),
    "text_projection/kernel": ((4, 3), 1.0),
    EMBEDDING: ((_ROWS, 4), 0.01),
}
_STARTS = {
    "image_projection/bias": lambda draw: 0.0 * draw,
    "block1a_project_bn/gamma": lambda draw: 1.0 + 0.1 * draw,
    "block1a_project_bn/beta": lambda draw: 0.0 * draw,
    "embeddings_layer_norm/gamma": lambda draw: 1.0 + 0.1 * draw,
    "dual_encoder/temperature_shared": lambda draw: 0.07 + 0.0 * draw,
    "text_projection/kernel": lambda draw: 0.0 * draw,  # the trust ratio of its first step is 1
}


def starts():
    """{name: float32 array}, the variables before the first step."""
    random = np.random.RandomState(0)
    draws = {name: random.standard_normal(shape) for name, (shape, _) in _SHAPES.items()}
    return {name: np.float32(_STARTS.get(name, lambda x: x)(x)) for name, x in draws.items()}


def gradients():
    """STEPS dicts {name: float32 array}; of the embedding, a pair (rows, token ids).

    Each has a direction that stays and noise that does not. The ids of a step repeat, the first
    three are always the same token, and the last two rows of the table are never asked for.
    """
    random = np.random.RandomState(1)
    steady = {name: random.standard_normal(shape) for name, (shape, _) in _SHAPES.items()}
    for _ in range(STEPS):
        step = {}
        for name, (shape, scale) in _SHAPES.items():
            if name == EMBEDDING:
                ids = random.randint(_ROWS - 2, size=_TOKENS)
                ids[:3] = ids[0]
                rows = steady[name][ids] + random.standard_normal((_TOKENS, shape[1]))
                step[name] = np.float32(scale * rows), ids
            else:
                step[name] = np.float32(scale * (steady[name] + random.standard_normal(shape)))
        yield step
