"""Exports a trained model to formats that do not need this package: SavedModel and ONNX.

Each export is loaded again, and its embeddings are compared with those of the model.
"""

from tf_mural.export.onnx import ONNX_TOLERANCES, export_onnx
from tf_mural.export.parity import embedding_differences
from tf_mural.export.saved_model import SAVED_MODEL_TOLERANCE, export_saved_model

__all__ = [
    "ONNX_TOLERANCES",
    "SAVED_MODEL_TOLERANCE",
    "embedding_differences",
    "export_onnx",
    "export_saved_model",
]
