"""The dual encoder and its two towers, an EfficientNet for images and a BERT for texts."""

from tf_mural.models.blocks import (
    call_in_training,
    exclude_norms,
    is_training,
    lr_multipliers_by_block,
    remat_blocks,
)
from tf_mural.models.dual_encoder import DualEncoder, dual_encoder, unit_rows
from tf_mural.models.encoders import ImageEncoder, TextEncoder
from tf_mural.models.ghost_batch_norm import (
    ALL_REPLICAS,
    GhostBatchNormalization,
    at_least_float32,
)
from tf_mural.models.image_encoder import EfficientNetEncoder, image_tower, resolve_padding
from tf_mural.models.model_configs import (
    BERTS,
    EFFICIENTNETS,
    bert_sizes,
    block_shapes,
    count_blocks,
    lr_multipliers,
    upgrade_arguments,
)
from tf_mural.models.pooling import AttentionPooling
from tf_mural.models.positions import resize_backbone
from tf_mural.models.squeeze_excite import Excitation
from tf_mural.models.text_encoder import BertEncoder, text_tower
from tf_mural.models.vectors_encoder import StoredVectors, VectorsEncoder

__all__ = [
    "ALL_REPLICAS",
    "AttentionPooling",
    "BERTS",
    "EFFICIENTNETS",
    "BertEncoder",
    "DualEncoder",
    "EfficientNetEncoder",
    "Excitation",
    "GhostBatchNormalization",
    "ImageEncoder",
    "StoredVectors",
    "TextEncoder",
    "VectorsEncoder",
    "at_least_float32",
    "bert_sizes",
    "block_shapes",
    "call_in_training",
    "count_blocks",
    "dual_encoder",
    "exclude_norms",
    "image_tower",
    "is_training",
    "lr_multipliers",
    "lr_multipliers_by_block",
    "remat_blocks",
    "resize_backbone",
    "resolve_padding",
    "text_tower",
    "unit_rows",
    "upgrade_arguments",
]
