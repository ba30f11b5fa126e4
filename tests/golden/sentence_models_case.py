"""Path and seed of the recorded text encoders, for the recorder and the test."""

import os

OUTPUTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sentence_models.npz")
SEED = 5
E5_PREFIX = "query: "
