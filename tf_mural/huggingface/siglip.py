"""Reads checkpoints of SigLIP and of SigLIP 2 with a fixed image size."""

import os

from tf_mural.errors import UserError
from tf_mural.huggingface import weight_mapping
from tf_mural.huggingface.two_towers import (
    TwoTowers,
    require,
    transformer_sizes,
    with_defaults,
)

_COMMON = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_VISION = {
    **_COMMON,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
}
_TEXT = {**_COMMON, "vocab_size": 32000, "max_position_embeddings": 64, "projection_size": None}
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_approximate", "gelu": "gelu"}
_POOLING = "vision_model.head.attention"


class SiglipTowers(TwoTowers):
    """The towers of a `SiglipModel`. KerasHub's encoders contain the pooling and the heads."""

    loss, processor = "sigmoid", "siglip"

    def __init__(self, name, folder, config):
        super().__init__(name, folder, config)
        self.where = os.path.join(folder, "config.json")
        if config.get("model_type") == "siglip2":
            raise UserError(
                f"{self.where}: model_type is 'siglip2', a SigLIP 2 for images of any aspect ratio "
                "(NaFlex), which is not supported; choose a checkpoint with a fixed image size, "
                "such as google/siglip2-base-patch16-224"
            )
        self.vision = with_defaults(config, "vision_config", _VISION)
        self.text = with_defaults(config, "text_config", _TEXT)
        fixed = {"num_channels": 3, "layer_norm_eps": 1e-6, "vision_use_head": True}
        require(self.vision, fixed, f"{self.where}: vision_config")
        self.embedding_dim = self.vision["hidden_size"]
        self.image_size = self.vision["image_size"]
        self.max_tokens = self.text["max_position_embeddings"]
        projection = self.text["projection_size"] or self.text["hidden_size"]
        if projection != self.embedding_dim:
            raise UserError(
                f"{self.where}: images have {self.embedding_dim} and texts have {projection} "
                "features; expected the same number"
            )

    def make_backbone(self, modality, size):
        """Builds a `SigLIPVisionEncoder` or a `SigLIPTextEncoder`."""
        import keras_hub

        settings = self.vision if modality == "image" else self.text
        sizes = transformer_sizes(settings, _ACTIVATIONS, self.where)
        sizes["layer_norm_epsilon"] = settings["layer_norm_eps"]
        if modality == "image":
            return keras_hub.models.SigLIPVisionEncoder(
                patch_size=settings["patch_size"], image_shape=(size, size, 3), **sizes
            )
        return keras_hub.models.SigLIPTextEncoder(
            vocabulary_size=settings["vocab_size"],
            embedding_dim=settings["hidden_size"],
            max_sequence_length=size,
            projection_dim=self.embedding_dim,
            **sizes,
        )

    def prepare(self, tensors):
        """Splits the joint projection of query, key and value of the attention pooling."""
        weight_mapping.split_attention(tensors, _POOLING)

    def map_backbone(self, modality, backbone):
        """Maps all layers of a tower."""
        layers, prefix = weight_mapping.LayerMap(), self.prefixes[modality]
        embedding, source = backbone.embedding, f"{prefix}embeddings"
        table = weight_mapping.embedding
        positions = embedding.position_embedding.embeddings
        layers.add(positions, table, f"{source}.position_embedding.weight")
        for i, block in enumerate(backbone.encoder_layers):
            name = f"{prefix}encoder.layers.{i}"
            layers.attention(block.self_attn, f"{name}.self_attn")
            layers.norm(block.layer_norm1, f"{name}.layer_norm1")
            layers.norm(block.layer_norm2, f"{name}.layer_norm2")
            layers.dense(block.mlp.fc1, f"{name}.mlp.fc1")
            layers.dense(block.mlp.fc2, f"{name}.mlp.fc2")
        if modality == "text":
            tokens = embedding.token_embedding.embeddings
            layers.add(tokens, table, f"{source}.token_embedding.weight")
            layers.norm(backbone.post_layer_norm, f"{prefix}final_layer_norm")
            layers.dense(backbone.head, f"{prefix}head")
            return layers
        layers.conv2d(embedding.patch_embedding, f"{source}.patch_embedding")
        layers.norm(backbone.post_layer_norm, f"{prefix}post_layernorm")
        head = backbone.head
        layers.add(head.probe, _probe, f"{prefix}head.probe")
        layers.attention(head.attention, _POOLING)
        layers.norm(head.layer_norm, f"{prefix}head.layernorm")
        layers.dense(head.mlp.fc1, f"{prefix}head.mlp.fc1")
        layers.dense(head.mlp.fc2, f"{prefix}head.mlp.fc2")
        return layers

    def map_head(self, modality, encoder, has_projection):
        """Returns an empty map, because the backbones contain all layers."""
        return weight_mapping.LayerMap()


def _probe(name, shape):
    return weight_mapping.TensorSpec(name, tuple(shape), (0, 1, 2))
