"""Reads checkpoints of CLIP and of MetaCLIP 2 with the layers of KerasHub's MetaCLIP 2.

Both models have the same architecture. KerasHub's own encoders of CLIP are not used, because their
text encoder has another epsilon (1e-6 instead of 1e-5), and their vision encoder stores the numbers
of the positions as a variable.
"""

import os

from tf_mural.huggingface import weight_mapping
from tf_mural.huggingface.two_towers import (
    TwoTowers,
    require,
    transformer_sizes,
    with_defaults,
)

_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu"}
# Earlier versions of transformers wrote this number into config.json of each CLIP, and the model
# uses the token with the largest id instead, which is the last of the vocabulary.
_WRONG_EOS = 2


class ClipTowers(TwoTowers):
    """The towers of a `CLIPModel` or a `MetaClip2Model`."""

    loss, processor = "contrastive", "clip"
    poolings = {"image": "cls", "text": "eos"}
    projects = {"image": True, "text": True}
    pooled_norms = {"image": 1e-5, "text": None}

    def __init__(self, name, folder, config):
        super().__init__(name, folder, config)
        where = os.path.join(folder, "config.json")
        self.vision = with_defaults(config, "vision_config", _VISION)
        self.text = with_defaults(config, "text_config", _TEXT)
        fixed = {"num_channels": 3, "layer_norm_eps": 1e-5}
        require(self.vision, fixed, f"{where}: vision_config")
        require(self.text, {"layer_norm_eps": 1e-5}, f"{where}: text_config")
        self.where = where
        self.embedding_dim = config.get("projection_dim") or 512
        self.image_size = self.vision["image_size"]
        self.max_tokens = self.text["max_position_embeddings"]
        self.end_id = self.text["eos_token_id"]
        if config.get("model_type") == "clip" and self.end_id == _WRONG_EOS:
            self.end_id = self.text["vocab_size"] - 1

    def make_backbone(self, modality, size):
        """Builds a `MetaCLIP2VisionEncoder` or a `MetaCLIP2TextEncoder`."""
        import keras_hub

        settings = self.vision if modality == "image" else self.text
        sizes = transformer_sizes(settings, _ACTIVATIONS, self.where)
        if modality == "image":
            return keras_hub.models.MetaCLIP2VisionEncoder(
                patch_size=settings["patch_size"], image_shape=(size, size, 3), **sizes
            )
        return keras_hub.models.MetaCLIP2TextEncoder(
            vocabulary_size=settings["vocab_size"],
            embedding_dim=settings["hidden_size"],
            max_sequence_length=size,
            **sizes,
        )

    def map_backbone(self, modality, backbone):
        """Maps the layers up to the last transformer layer, and the last norm of texts."""
        layers, prefix = weight_mapping.LayerMap(), self.prefixes[modality]
        embedding, source = backbone.embedding, f"{prefix}embeddings"
        if modality == "image":
            layers.conv2d(embedding.patch_embedding, f"{source}.patch_embedding")
            name = f"{source}.class_embedding"
            layers.add(embedding.class_embedding, weight_mapping.vector, name)
            positions = embedding.position_embedding.embeddings
            layers.norm(backbone.pre_layer_norm, f"{prefix}pre_layrnorm")
        else:
            tokens = embedding.token_embedding.embeddings
            layers.add(tokens, weight_mapping.embedding, f"{source}.token_embedding.weight")
            positions = embedding.position_embedding.position_embeddings
            layers.norm(backbone.layer_norm, f"{prefix}final_layer_norm")
        layers.add(positions, weight_mapping.embedding, f"{source}.position_embedding.weight")
        for i, block in enumerate(backbone.encoder_layers):
            name = f"{prefix}encoder.layers.{i}"
            layers.attention(block.attention, f"{name}.self_attn")
            layers.norm(block.layer_norm_1, f"{name}.layer_norm1")
            layers.norm(block.layer_norm_2, f"{name}.layer_norm2")
            layers.dense(block.dense_1, f"{name}.mlp.fc1")
            layers.dense(block.dense_2, f"{name}.mlp.fc2")
        return layers

    def map_head(self, modality, encoder, has_projection):
        """Maps the normalization of pooled images, and the projection."""
        layers = weight_mapping.LayerMap()
        if modality == "image":
            layers.norm(encoder.get_layer("pooled_norm"), "vision_model.post_layernorm")
        if has_projection:
            source = {"image": "visual_projection", "text": "text_projection"}[modality]
            layers.dense(encoder.get_layer(f"{modality}_projection"), source)
        return layers
