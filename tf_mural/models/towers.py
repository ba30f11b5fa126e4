"""The towers: KerasHub's EfficientNet and BERT, each cut where the recipe cuts it."""

import math

import keras
from keras import ops

from tf_mural.base import UserError, pick
from tf_mural.models.batch_norm import batch_norm_of

# EfficientNet, Tan and Le 2019, table 1 (seven stages) and their scaling coefficients.
_STAGES = {
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    "stackwise_squeeze_and_excite_ratios": [0.25] * 7,
    "stackwise_block_types": ["v1"] * 7,
}
_SCALING = {  # name: (width, depth)
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}
# A four-stage EfficientNet for pictures of about 64 px, trained in minutes on a CPU.
_TINY = {
    "stackwise_kernel_sizes": [3, 3, 3, 3],
    "stackwise_num_repeats": [1, 1, 2, 1],
    "stackwise_input_filters": [16, 16, 24, 48],
    "stackwise_output_filters": [16, 24, 48, 96],
    "stackwise_expansion_ratios": [1, 3, 3, 3],
    "stackwise_strides": [2, 1, 2, 2],
    "stackwise_squeeze_and_excite_ratios": [0.25] * 4,
    "stackwise_block_types": ["v1"] * 4,
}


def _scaled(stages, width, depth):
    count = len(stages["stackwise_num_repeats"])
    return {
        **stages,
        "stackwise_width_coefficients": [width] * count,
        "stackwise_depth_coefficients": [depth] * count,
    }


EFFICIENTNETS = {
    "tiny": _scaled(_TINY, 1.0, 1.0),
    **{name: _scaled(_STAGES, width, depth) for name, (width, depth) in _SCALING.items()},
}
BERTS = {  # layers, width, heads; the feed-forward layers are four times as wide
    "nano": (2, 96, 2),
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}


def efficientnet_blocks(stages):
    """Number of MBConv blocks after depth scaling, of the arguments of KerasHub's backbone."""
    depths, repeats = stages["stackwise_depth_coefficients"], stages["stackwise_num_repeats"]
    return sum(math.ceil(d * n) for d, n in zip(depths, repeats, strict=True))


def _stages(name):
    """Arguments of KerasHub's backbone for a name of `EFFICIENTNETS`."""
    stages = pick(EFFICIENTNETS, name, "EfficientNet")
    count = len(stages["stackwise_num_repeats"])
    return {
        **stages,
        "stackwise_force_input_filters": [0] * count,
        "stackwise_nores_option": [False] * count,
        "use_depth_divisor_as_min_depth": True,
        # The default would round B3's first stage to 16 channels instead of 24.
        "cap_round_filter_decrease": True,
        "batch_norm_epsilon": 1e-3,
    }


def _from_preset(kind, preset, **changes):
    """The backbone of a preset, as an instance of a KerasHub class."""
    try:
        return kind.from_preset(preset, **changes)
    except (ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the preset {preset!r} cannot be loaded as {kind.__name__} ({reason}); expected a "
            "name, a hf:// or kaggle:// handle, or a folder of KerasHub"
        ) from error


def image_tower(
    name="b7",
    image_size=289,
    embedding_dim=640,
    stochastic_depth=0.2,
    batch_norm_group=None,
    batch_norm_momentum=0.99,
    preset=None,
):
    """EfficientNet up to its last MBConv output, averaged over positions.

    The top 1x1 convolution is left out, as in ALIGN, so that B7 is 640 wide; a linear layer
    follows where that width is not `embedding_dim`.

    Args:
        name: a name of `EFFICIENTNETS`.
        image_size: pixels a side.
        embedding_dim: width of the output.
        stochastic_depth: drop rate that the blocks approach linearly: block i of B has rate * i/B.
        batch_norm_group, batch_norm_momentum: see `GroupedBatchNormalization`.
        preset: a KerasHub preset (name, `hf://`, `kaggle://` or folder) to take the backbone from.

    Returns:
        `keras.Model` from uint8-range pixels (n, image_size, image_size, 3) to (n, embedding_dim).
    """
    import keras_hub

    kind = keras_hub.models.EfficientNetBackbone
    # With Keras' own batch norm: KerasHub finds the weights of a layer by the name of its class.
    pretrained = _from_preset(kind, preset) if preset else None
    stages = pretrained.get_config() if preset else _stages(name)
    repeats, blocks = sum(stages["stackwise_num_repeats"]), efficientnet_blocks(stages)
    with batch_norm_of(batch_norm_group, batch_norm_momentum):
        stages["input_shape"] = (image_size, image_size, 3)
        # KerasHub divides by the unscaled number of blocks, which would end a B7 at 0.675.
        stages["dropout"] = stochastic_depth * repeats / blocks
        backbone = kind.from_config(stages)
    if preset:
        backbone.set_weights(pretrained.get_weights())
    features = keras.Model(backbone.input, backbone.get_layer("top_conv").input)
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(pixels)
    x = features(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    if x.shape[-1] != embedding_dim:
        x = keras.layers.Dense(embedding_dim, name="image_projection")(x)
    return keras.Model(pixels, x, name="image_tower")


def text_tower(
    vocabulary_size,
    name="base",
    max_tokens=64,
    embedding_dim=640,
    dropout=0.1,
    preset=None,
):
    """BERT's hidden state of [CLS] (not the tanh pooler), then a linear layer.

    Args:
        vocabulary_size: rows of the token embedding.
        name: a name of `BERTS`.
        max_tokens: rows of the position table.
        embedding_dim: width of the output.
        dropout: of embeddings, attention and feed-forward outputs.
        preset: a KerasHub BERT preset to take the backbone from; its vocabulary must be that of
            the tokenizer.

    Returns:
        `keras.Model` from int32 tokens (n, t), padded with 0, to (n, embedding_dim).
    """
    import keras_hub

    if preset:
        backbone = _from_preset(keras_hub.models.BertBackbone, preset, dropout=dropout)
        if backbone.vocabulary_size != vocabulary_size:
            raise UserError(
                f"the preset {preset} has {backbone.vocabulary_size} tokens, the vocabulary file "
                f"{vocabulary_size}; use the vocabulary that belongs to the preset"
            )
    else:
        layers, width, heads = pick(BERTS, name, "BERT")
        backbone = keras_hub.models.BertBackbone(
            vocabulary_size=vocabulary_size,
            num_layers=layers,
            num_heads=heads,
            hidden_dim=width,
            intermediate_dim=4 * width,
            dropout=dropout,
            max_sequence_length=max_tokens,
        )
    # Without the pooler: it would be a variable that never gets a gradient.
    sequence = keras.Model(backbone.input, backbone.output["sequence_output"])
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.cast(ops.not_equal(tokens, 0), "int32")
    hidden = sequence(
        {"token_ids": tokens, "padding_mask": mask, "segment_ids": ops.zeros_like(tokens)}
    )  # (n, t, width)
    x = keras.layers.Dense(embedding_dim, name="text_projection")(hidden[:, 0])
    return keras.Model(tokens, x, name="text_tower")
