"""The dual encoder and its two towers, an EfficientNet for images and a BERT for texts."""

from tf_mural.models.adaptation import (
    LORA,
    adapter_variables,
    exclude_adapters,
    interpolate_adapters,
    merge_adapters,
    merge_arrays,
    merged_arguments,
    parse_adapt,
)
from tf_mural.models.blocks import (
    call_in_training,
    exclude_norms,
    is_training,
    lr_multipliers_by_block,
    norm_variables,
    remat_blocks,
)
from tf_mural.models.dual_encoder import DualEncoder, dual_encoder
from tf_mural.models.encoders import ImageEncoder, TextEncoder
from tf_mural.models.ghost_batch_norm import (
    ALL_REPLICAS,
    GhostBatchNormalization,
    at_least_float32,
    unit_rows,
)
from tf_mural.models.image_encoder import EfficientNetEncoder, image_tower, resolve_padding
from tf_mural.models.keras_patches import dtype_policy_scope, renumber_paths
from tf_mural.models.model_configs import (
    BERTS,
    EFFICIENTNETS,
    bert_sizes,
    block_shapes,
    count_blocks,
    efficientnet_config,
    lr_multipliers,
    preset_of,
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
    "LORA",
    "StoredVectors",
    "TextEncoder",
    "VectorsEncoder",
    "adapter_variables",
    "at_least_float32",
    "bert_sizes",
    "block_shapes",
    "call_in_training",
    "count_blocks",
    "dtype_policy_scope",
    "dual_encoder",
    "efficientnet_config",
    "exclude_adapters",
    "exclude_norms",
    "image_tower",
    "interpolate_adapters",
    "is_training",
    "lr_multipliers",
    "lr_multipliers_by_block",
    "merge_adapters",
    "merge_arrays",
    "merged_arguments",
    "norm_variables",
    "parse_adapt",
    "preset_of",
    "remat_blocks",
    "renumber_paths",
    "resize_backbone",
    "resolve_padding",
    "text_tower",
    "unit_rows",
    "upgrade_arguments",
]
