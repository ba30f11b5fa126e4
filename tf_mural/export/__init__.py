"""Exports a trained model to formats that do not need this package: SavedModel and ONNX.

Each export is loaded again, and its embeddings are compared with those of the model.
"""

from tf_mural.export.onnx import ONNX_TOLERANCES, export_onnx, onnx_embedder, write_onnx_card
from tf_mural.export.parity import embedding_differences
from tf_mural.export.recall_loss import (
    MAX_RECALL_LOSS,
    SCENES,
    EverySecond,
    RecallLoss,
    fit_projection,
    measure_recall_loss,
    scenes_records,
)
from tf_mural.export.saved_model import SAVED_MODEL_TOLERANCE, export_saved_model

__all__ = [
    "MAX_RECALL_LOSS",
    "ONNX_TOLERANCES",
    "SAVED_MODEL_TOLERANCE",
    "SCENES",
    "EverySecond",
    "RecallLoss",
    "embedding_differences",
    "export_onnx",
    "export_saved_model",
    "fit_projection",
    "measure_recall_loss",
    "onnx_embedder",
    "scenes_records",
    "write_onnx_card",
]
