"""The image tower: KerasHub's EfficientNet up to its last MBConv block."""

import functools

import keras

from tf_mural.errors import UserError, lookup
from tf_mural.models.ghost_batch_norm import GhostBatchNormalization
from tf_mural.models.keras_patches import replace_inner_layers
from tf_mural.models.model_configs import (
    block_shapes,
    count_blocks,
    efficientnet_config,
    load_backbone,
)
from tf_mural.models.squeeze_excite import fuse_squeeze_excite


def image_tower(
    name="b7",
    image_size=289,
    embedding_dim=640,
    stochastic_depth=0.2,
    virtual_batch_size=None,
    batch_norm_momentum=0.99,
    padding="symmetric",
    preset=None,
    all_reduce_mean=list,
):
    """Builds an EfficientNet whose last MBConv output is averaged over all positions.

    As in ALIGN, the top 1x1 convolution is omitted; B7 therefore has 640 output features. A linear
    projection is added if the number of features is not `embedding_dim`.

    Args:
        name: a key of `EFFICIENTNETS`.
        image_size: height and width of the images in pixels.
        embedding_dim: width of the embeddings.
        stochastic_depth: upper bound of the drop rates of stochastic depth. Block i (from 0) of B
            blocks has the drop rate `stochastic_depth * i / B`.
        virtual_batch_size: see `GhostBatchNormalization`.
        batch_norm_momentum: momentum of the moving averages of batch normalization.
        padding: padding before stride-2 convolutions, "symmetric" or "end". KerasHub pads
            symmetrically. "end" omits one row of padding at the top and one column of padding at
            the left, as in the published ALIGN models at every image size.
        preset: KerasHub preset of an EfficientNet (name, `hf://` or `kaggle://` handle, or folder),
            which replaces `name` and provides weights. None: the weights are random.
        all_reduce_mean: see `GhostBatchNormalization`.

    Returns:
        `keras.Model` that maps pixels in [0, 255], (n, image_size, image_size, 3), to embeddings,
        (n, embedding_dim), which are not normalized.
    """
    import keras_hub

    backbone_class = keras_hub.models.EfficientNetBackbone
    # The pretrained backbone is built with Keras' batch norm layer, because KerasHub finds the
    # weights of a layer in a preset by the class name of the layer.
    pretrained = load_backbone(backbone_class, preset) if preset else None
    config = pretrained.get_config() if preset else efficientnet_config(name)
    repeats, blocks = sum(config["stackwise_num_repeats"]), count_blocks(config)
    config["input_shape"] = (image_size, image_size, 3)
    # KerasHub computes drop rates with the number of blocks before depth scaling. Without the
    # factor `repeats / blocks`, the last block of a B7 would have the drop rate 0.675.
    config["dropout"] = stochastic_depth * repeats / blocks
    replace = functools.partial(
        _replace_layer,
        lookup(PADDINGS, padding, "padding")(config),
        functools.partial(GhostBatchNormalization, virtual_batch_size, all_reduce_mean),
        batch_norm_momentum,
    )
    backbone, inputs = fuse_squeeze_excite(backbone_class.from_config(config), replace)
    if preset:
        backbone.set_weights(pretrained.get_weights())
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    # Rescaling and the average over positions use the dtype of the weights. In bfloat16, the
    # constant 1 / 127.5 has a relative error of 0.4 %, which would change every pixel.
    dtype = keras.config.dtype_policy().variable_dtype
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype=dtype, name="rescale")(pixels)
    for stage in _split_stages(backbone, inputs, len(config["stackwise_num_repeats"])):
        x = stage(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype, name="pool")(x)
    if x.shape[-1] != embedding_dim:
        x = keras.layers.Dense(embedding_dim, name="image_projection")(x)
    return keras.Model(pixels, x, name="image_tower")


def _replace_layer(end_padded, make_norm, momentum, layer):
    """Returns the layer of the image tower that takes the place of a layer of KerasHub.

    Args:
        end_padded: names of the padding layers that omit one row at the top and one column at the
            left.
        make_norm: callable that takes the arguments of `keras.layers.BatchNormalization`.
        momentum: momentum of the moving averages. KerasHub's EfficientNet v1 blocks have no
            argument for the momentum.
        layer: layer of KerasHub.
    """
    if isinstance(layer, keras.layers.BatchNormalization):
        return make_norm(**{**layer.get_config(), "momentum": momentum})
    if layer.name in end_padded:
        sizes = tuple((before - 1, after) for before, after in layer.padding)
        return type(layer).from_config({**layer.get_config(), "padding": sizes})
    replace = functools.partial(_replace_layer, end_padded, make_norm, momentum)
    replace_inner_layers(layer, replace)
    return layer


def _strided_paddings(config):
    """Returns the names of the padding layers before stride-2 convolutions.

    Args:
        config: arguments of KerasHub's `EfficientNetBackbone`.

    Raises:
        UserError: the backbone has blocks of EfficientNetV2, some of which have no padding layer.
    """
    types = sorted(set(config["stackwise_block_types"]) - {"v1"})
    if types:
        raise UserError(
            'padding="end" requires an EfficientNet whose blocks are all of the type "v1", but the '
            f'backbone has blocks of the types {", ".join(types)}; use padding="symmetric"'
        )
    strided = [name for name, (*_, stride, _) in block_shapes(config).items() if stride == 2]
    return {"stem_conv_pad", *(f"{name}_dwconv_pad" for name in strided)}


# A padding maps the arguments of a backbone to the names of the padding layers that omit one row at
# the top and one column at the left.
PADDINGS = {"symmetric": lambda config: frozenset(), "end": _strided_paddings}


def _split_stages(backbone, inputs, num_stages):
    """Splits the part of a backbone before its top convolution into one model per stage.

    The stem belongs to the first stage.

    Args:
        backbone: model that `fuse_squeeze_excite` returned.
        inputs: layer inputs of the backbone, the dict that `fuse_squeeze_excite` returned.
        num_stages: number of stages.
    """
    prefixes = [f"block{i}a_" for i in range(2, num_stages + 1)]
    names = [next(x for x in inputs if x.startswith(prefix)) for prefix in prefixes]
    cuts = [backbone.input, *(inputs[x] for x in (*names, "top_conv"))]
    return [keras.Model(cuts[i], cuts[i + 1], name=f"stage_{i + 1}") for i in range(num_stages)]
