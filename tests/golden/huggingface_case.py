"""Names, sizes and inputs of the recorded checkpoints, for the recorder and the test."""

import os

import numpy as np

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "huggingface")
OUTPUTS = FOLDER + ".npz"

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_LETTERS = "a b c d e f g h i l m n o r s t u A E ! , 中 文".split()
# The cased and the uncased checkpoints have the same vocabulary.
VOCABULARY = [*_SPECIAL, *_LETTERS, *(f"##{letter}" for letter in _LETTERS[:17]), "blue", "red"]
MAX_TOKENS = 12
TEXTS = [
    "a red circle",
    "A Blue Square, É!",
    "cafe\u0301 \u0130stanbul",
    "中文 Blue",
    "",
    "red blue red blue red blue red blue red blue red blue",
]

RESIZE, CROP = 40, 33
DEEP_CROP = 49
# These arguments of KerasHub's backbone describe the EfficientNet of the checkpoint "deep". The
# checkpoint has kernels of 5 x 5, and numbers of blocks that scaling rounds up.
DEEP = {
    "stackwise_kernel_sizes": [3, 5, 3],
    "stackwise_num_repeats": [1, 2, 1],
    "stackwise_input_filters": [32, 64, 96],
    "stackwise_output_filters": [64, 96, 128],
    "stackwise_expansion_ratios": [1, 3, 2],
    "stackwise_strides": [1, 2, 2],
    "stackwise_squeeze_and_excite_ratios": [0.25] * 3,
    "stackwise_block_types": ["v1"] * 3,
    "stackwise_width_coefficients": [0.25] * 3,
    "stackwise_depth_coefficients": [1.2] * 3,
}


def images(size, count=3):
    """Returns random images, uint8 (count, size, size, 3)."""
    shape = (count, size, size, 3)
    return np.random.RandomState(7).randint(0, 256, shape).astype(np.uint8)
