"""A trained model for programs without this package: SavedModel, and ONNX of each tower.

Each export is compared with the model that it was made of before it counts as done.
"""

from tf_mural.export.onnx import TOLERANCES, export_onnx
from tf_mural.export.parity import differences
from tf_mural.export.saved_model import SAVED_MODEL_TOLERANCE, export_saved_model

__all__ = [
    "SAVED_MODEL_TOLERANCE",
    "TOLERANCES",
    "differences",
    "export_onnx",
    "export_saved_model",
]
