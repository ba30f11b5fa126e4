"""Tiny backbones of KerasHub with random weights, and presets that contain them."""

import os

import numpy as np
from keras_hub import layers, models, tokenizers

from helpers import encoders, public_checkpoints, sentence_checkpoints

SIZE, PATCH, WIDTH = 32, 8, 16
_TRANSFORMER = dict(num_layers=2, num_heads=2, hidden_dim=WIDTH)
_SHAPE = (SIZE, SIZE, 3)


def efficientnet_lite():
    """Returns an EfficientNet-Lite: no squeeze-and-excitation, and ReLU6."""
    config = encoders.efficientnet_of_keras_hub().get_config()
    config |= {"stackwise_squeeze_and_excite_ratios": [0.0], "activation": "relu6"}
    return models.EfficientNetBackbone.from_config(config)


def resnet():
    """Returns a ResNet. Its first layer must have as many filters as its first stage, 64."""
    return models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
    )


def mobilenet():
    """Returns a MobileNet."""
    return models.MobileNetBackbone(
        stackwise_expansion=[[8], [16]],
        stackwise_num_blocks=[1, 1],
        stackwise_num_filters=[[8], [16]],
        stackwise_kernel_size=[[3], [3]],
        stackwise_num_strides=[[2], [1]],
        stackwise_se_ratio=[[None], [0.25]],
        stackwise_activation=[["relu"], ["hard_swish"]],
        stackwise_padding=[[1], [1]],
        output_num_filters=24,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=24,
        squeeze_and_excite=0.5,
    )


def vit():
    """Returns a ViT."""
    return models.ViTBackbone(_SHAPE, PATCH, mlp_dim=24, **_TRANSFORMER)


def deit():
    """Returns a DeiT, which has a class token and a token for distillation."""
    return models.DeiTBackbone(_SHAPE, PATCH, intermediate_dim=24, **_TRANSFORMER)


def swin():
    """Returns a Swin transformer."""
    return models.SwinTransformerBackbone(
        image_shape=_SHAPE,
        embed_dim=8,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=2,
        patch_size=4,
        drop_path=0.0,
    )


def dinov2():
    """Returns a DINOv2 with register tokens."""
    options = dict(intermediate_dim=24, num_register_tokens=2, image_shape=_SHAPE)
    return models.DINOV2Backbone(patch_size=PATCH, **options, **_TRANSFORMER)


def dinov3():
    """Returns a DINOv3."""
    options = dict(intermediate_dim=24, image_shape=_SHAPE)
    return models.DINOV3Backbone(patch_size=PATCH, **options, **_TRANSFORMER)


IMAGE_BACKBONES = {
    "efficientnet": encoders.efficientnet_of_keras_hub,
    "efficientnet_lite": efficientnet_lite,
    "resnet": resnet,
    "mobilenet": mobilenet,
    "vit": vit,
    "deit": deit,
    "swin": swin,
    "dinov2": dinov2,
    "dinov3": dinov3,
}


def _unigram():
    """Returns the content of a SentencePiece model of XLM-R."""
    from tf_mural.data import sentencepiece_model

    model = sentencepiece_model.build_model(sentence_checkpoints.sentencepieces())
    return model.SerializeToString()


def xlm_r_tokenizer():
    """Returns the tokenizer of XLM-R with a small vocabulary."""
    return tokenizers.XLMRobertaTokenizer(_unigram())


def bert():
    """Returns a BERT and its tokenizer."""
    backbone = models.BertBackbone(
        len(encoders.PIECES), intermediate_dim=24, max_sequence_length=20, **_TRANSFORMER
    )
    return backbone, encoders.bert_tokenizer()


def e5():
    """Returns a BERT with the tokenizer of XLM-R, like the multilingual E5."""
    tokenizer = xlm_r_tokenizer()
    options = dict(intermediate_dim=24, max_sequence_length=20)
    size = tokenizer.vocabulary_size()
    return models.BertBackbone(size, **options, **_TRANSFORMER), tokenizer


def xlm_roberta():
    """Returns an XLM-R and its tokenizer."""
    tokenizer = xlm_r_tokenizer()
    options = dict(intermediate_dim=24, max_sequence_length=20)
    size = tokenizer.vocabulary_size()
    return models.XLMRobertaBackbone(size, **options, **_TRANSFORMER), tokenizer


TEXT_BACKBONES = {"bert": bert, "e5": e5, "xlm_roberta": xlm_roberta}


def _towers(name, **text):
    vision = getattr(models, f"{name}VisionEncoder")
    vision = vision(patch_size=PATCH, intermediate_dim=24, image_shape=_SHAPE, **_TRANSFORMER)
    text = {"embedding_dim": 12, "hidden_dim": 12, "num_layers": 2, "num_heads": 2, **text}
    return vision, getattr(models, f"{name}TextEncoder")(intermediate_dim=20, **text)


def clip():
    """Returns a CLIP and its tokenizer."""
    pieces, merges = public_checkpoints.clip_vocabulary()
    tokenizer = tokenizers.CLIPTokenizer(
        {piece: i for i, piece in enumerate(pieces)},
        [" ".join(pair) for pair in merges],
        pad_with_end_token=True,
    )
    towers = _towers("CLIP", vocabulary_size=len(pieces), max_sequence_length=14)
    return models.CLIPBackbone(*towers, projection_dim=10), tokenizer


def metaclip_2():
    """Returns a MetaCLIP 2 and its tokenizer."""
    tokenizer = tokenizers.MetaCLIP2Tokenizer(_unigram())
    size = tokenizer.vocabulary_size() + 1
    towers = _towers("MetaCLIP2", vocabulary_size=size, max_sequence_length=14)
    return models.MetaCLIP2Backbone(*towers, projection_dim=10), tokenizer


def siglip():
    """Returns a SigLIP and its tokenizer."""
    from tf_mural.data import sentencepiece_model

    special = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2)]
    pieces = [*special, *sentence_checkpoints.sentencepieces()[3:]]
    model = sentencepiece_model.build_model(pieces).SerializeToString()
    tokenizer = tokenizers.SigLIPTokenizer(model)
    towers = _towers(
        "SigLIP", vocabulary_size=len(pieces), max_sequence_length=12, projection_dim=WIDTH
    )
    return models.SigLIPBackbone(*towers), tokenizer


TWO_TOWERS = {"clip": clip, "metaclip_2": metaclip_2, "siglip": siglip}


def randomize(model, seed=0):
    """Draws random weights, because equal weights would hide a mix-up."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        name = variable.path.rpartition("/")[2]
        if "seed" in variable.path or name == "position_ids":
            continue
        noise = rng.normal(0, 1, variable.shape)
        if name == "moving_variance":
            value = 1 + np.abs(noise)
        elif name in ("gamma", "logit_scale"):
            value = 1 + 0.2 * noise
        else:
            value = 0.2 * noise
        variable.assign(value)
    return model


def save(folder, backbone, tokenizer=None, **converter):
    """Writes a preset, and returns its folder.

    Args:
        folder: output folder.
        backbone: backbone of KerasHub.
        tokenizer: tokenizer of KerasHub, or None.
        **converter: arguments of the image converter; without arguments, there is none.
    """
    backbone.save_to_preset(folder)
    if tokenizer is not None:
        tokenizer.save_to_preset(folder)
    if converter:
        layers.ImageConverter(**converter).save_to_preset(folder)
    return os.fspath(folder)
