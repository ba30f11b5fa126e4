"""Parses the config.json of ALIGN, and maps variables of the image tower to tensors of ALIGN."""

import re

from tf_mural import models
from tf_mural.errors import UserError
from tf_mural.huggingface import weight_mapping

# Keys that config.json omits have these values.
DEFAULTS = {
    "num_channels": 3,
    "width_coefficient": 2.0,
    "depth_coefficient": 3.1,
    "depth_divisor": 8,
    "kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "in_channels": [32, 16, 24, 40, 80, 112, 192],
    "out_channels": [16, 24, 40, 80, 112, 192, 320],
    "depthwise_padding": [],
    "strides": [1, 2, 2, 2, 1, 2, 1],
    "num_block_repeats": [1, 2, 2, 3, 3, 4, 1],
    "expand_ratios": [1, 6, 6, 6, 6, 6, 6],
    "squeeze_expansion_ratio": 0.25,
    "hidden_act": "swish",
    "pooling_type": "mean",
    "batch_norm_eps": 1e-3,
}
# The image tower supports only the default values of these keys.
_FIXED = (
    "num_channels",
    "depth_divisor",
    "depthwise_padding",
    "squeeze_expansion_ratio",
    "hidden_act",
    "pooling_type",
    "batch_norm_eps",
)
_STAGE_ARGUMENTS = {  # argument of KerasHub's backbone: key of config.json
    "kernel_sizes": "kernel_sizes",
    "num_repeats": "num_block_repeats",
    "input_filters": "in_channels",
    "output_filters": "out_channels",
    "strides": "strides",
    "expansion_ratios": "expand_ratios",
}
# The following dicts map names of layers and variables in KerasHub to names in the checkpoint.
_BLOCK_LAYERS = {
    "expand_conv": "expansion.expand_conv",
    "expand_bn": "expansion.expand_bn",
    "dwconv": "depthwise_conv.depthwise_conv",
    "dwconv_bn": "depthwise_conv.depthwise_norm",
    "se_reduce": "squeeze_excite.reduce",
    "se_expand": "squeeze_excite.expand",
    "project": "projection.project_conv",
    "project_bn": "projection.project_bn",
}
_STEM_LAYERS = {"stem_conv": "embeddings.convolution", "stem_bn": "embeddings.batchnorm"}
_VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def parse_config(config, where):
    """Returns the options of the image tower that has the architecture of a checkpoint.

    Args:
        config: value of "vision_config" in config.json, a dict.
        where: path of config.json, for messages.

    Returns:
        A dict with three entries: "backbone" is a key of `models.EFFICIENTNETS`, "padding" is
        always "end", and "width" is the number of output features.

    Raises:
        UserError: the image tower does not support this EfficientNet.
    """
    config = {**DEFAULTS, **{k: v for k, v in config.items() if v is not None}}
    config["hidden_act"] = {"silu": "swish"}.get(config["hidden_act"], config["hidden_act"])
    for name in _FIXED:
        if config[name] != DEFAULTS[name]:
            raise UserError(
                f"{where}: vision_config.{name} is {config[name]!r}, but the image tower supports "
                f"only {DEFAULTS[name]!r}; choose another checkpoint"
            )
    stages = {f"stackwise_{name}": config[key] for name, key in _STAGE_ARGUMENTS.items()}
    for dimension in ("width", "depth"):
        coefficients = [config[f"{dimension}_coefficient"]] * len(config["strides"])
        stages[f"stackwise_{dimension}_coefficients"] = coefficients
    shapes = list(models.block_shapes(stages).values())
    for name, table in models.EFFICIENTNETS.items():
        if list(models.block_shapes(table).values()) == shapes:
            # The published ALIGN models use the padding "end" for even and for odd image sizes.
            return {"backbone": name, "padding": "end", "width": shapes[-1][2]}
    raise UserError(
        f"{where}: vision_config is none of the EfficientNets {', '.join(models.EFFICIENTNETS)} "
        f"(width_coefficient {config['width_coefficient']}, depth_coefficient "
        f"{config['depth_coefficient']}); choose another checkpoint"
    )


def tensor_spec(path, shape, blocks, prefix="vision_model."):
    """Returns the `TensorSpec` of a variable of the EfficientNet, or None for other variables.

    Args:
        path: path of the variable.
        shape: shape of the variable.
        blocks: names of all blocks in order, see `models.block_shapes`.
        prefix: prefix of the tensor names of the image tower.
    """
    layer, _, variable = path.rpartition("/")
    block = re.fullmatch(r"(block\d+[a-z])_(.+)", layer)
    if block:
        name = f"{prefix}encoder.blocks.{blocks.index(block[1])}.{_BLOCK_LAYERS[block[2]]}"
    elif layer in _STEM_LAYERS:
        name = prefix + _STEM_LAYERS[layer]
    else:
        return None
    name += f".{_VARIABLES[variable]}"
    if variable != "kernel":
        return weight_mapping.vector(name, shape)
    if layer.endswith("_dwconv"):
        return weight_mapping.depthwise_conv2d(name, shape)
    return weight_mapping.conv2d(name, shape)
