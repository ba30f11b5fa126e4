"""Model and inputs of a preset of an earlier version, for the recorder and the test."""

import os

import numpy as np

ARCHIVE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "old_preset.zip")
# Name in `models.EFFICIENTNETS` of an EfficientNet with two stages of one block each. The
# recorder and the test add this EfficientNet to the table.
NAME = "two_blocks"
EFFICIENTNET = {
    "stackwise_kernel_sizes": [3, 3],
    "stackwise_num_repeats": [1, 1],
    "stackwise_input_filters": [8, 8],
    "stackwise_output_filters": [8, 16],
    "stackwise_expansion_ratios": [1, 2],
    "stackwise_strides": [1, 2],
    "stackwise_squeeze_and_excite_ratios": [0.25] * 2,
    "stackwise_block_types": ["v1"] * 2,
    "stackwise_width_coefficients": [1.0] * 2,
    "stackwise_depth_coefficients": [1.0] * 2,
}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##c"]
TEXTS = ["a b", "ac", ""]
RESIZE, CROP = 12, 8


def images(count=3):
    """Returns images, uint8 (count, CROP, CROP, 3)."""
    shape = (count, CROP, CROP, 3)
    return np.random.RandomState(7).randint(0, 256, shape).astype(np.uint8)
