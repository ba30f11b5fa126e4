"""ALIGN: what its config.json says of the image tower, and where that tower's tensors are."""

import re

from tf_mural import models
from tf_mural.errors import UserError
from tf_mural.huggingface import weight_mapping

# What a config.json that leaves a value out means.
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
# Of these nothing can be chosen.
_FIXED = (
    "num_channels",
    "depth_divisor",
    "depthwise_padding",
    "squeeze_expansion_ratio",
    "hidden_act",
    "pooling_type",
    "batch_norm_eps",
)
_STAGES = {  # argument of KerasHub's backbone: list of a value a stage
    "kernel_sizes": "kernel_sizes",
    "num_repeats": "num_block_repeats",
    "input_filters": "in_channels",
    "output_filters": "out_channels",
    "strides": "strides",
    "expansion_ratios": "expand_ratios",
}
_LAYERS = {
    "expand_conv": "expansion.expand_conv",
    "expand_bn": "expansion.expand_bn",
    "dwconv": "depthwise_conv.depthwise_conv",
    "dwconv_bn": "depthwise_conv.depthwise_norm",
    "se_reduce": "squeeze_excite.reduce",
    "se_expand": "squeeze_excite.expand",
    "project": "projection.project_conv",
    "project_bn": "projection.project_bn",
}
_STEM = {"stem_conv": "embeddings.convolution", "stem_bn": "embeddings.batchnorm"}
_VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def describe(config, where):
    """What the image tower must be.

    Args:
        config: of the vision model, plain data.
        where: the file, for messages.

    Returns:
        {"name": of `models.EFFICIENTNETS`, "padding": "end", "width": of its output}.

    Raises:
        UserError: it is an EfficientNet that the tower cannot be.
    """
    config = {**DEFAULTS, **{k: v for k, v in config.items() if v is not None}}
    config["hidden_act"] = {"silu": "swish"}.get(config["hidden_act"], config["hidden_act"])
    for name in _FIXED:
        if config[name] != DEFAULTS[name]:
            raise UserError(
                f"{where}: vision_config.{name} is {config[name]!r}, but the image tower has "
                f"{DEFAULTS[name]!r}; take another checkpoint"
            )
    stages = {f"stackwise_{ours}": config[theirs] for ours, theirs in _STAGES.items()}
    for scaled in ("width", "depth"):
        coefficients = [config[f"{scaled}_coefficient"]] * len(config["strides"])
        stages[f"stackwise_{scaled}_coefficients"] = coefficients
    shapes = list(models.block_shapes(stages).values())
    for name, table in models.EFFICIENTNETS.items():
        if list(models.block_shapes(table).values()) == shapes:
            # With "end" the paddings are as there at every image size, even and odd.
            return {"name": name, "padding": "end", "width": shapes[-1][2]}
    raise UserError(
        f"{where}: vision_config is none of the EfficientNets {', '.join(models.EFFICIENTNETS)} "
        f"(width_coefficient {config['width_coefficient']}, depth_coefficient "
        f"{config['depth_coefficient']}); take another checkpoint"
    )


def place(path, shape, blocks, prefix="vision_model."):
    """The `places.Place` of a variable of the image tower, None if it is not the EfficientNet's.

    Args:
        path, shape: of the variable.
        blocks: names of the blocks in order, see `models.block_shapes`.
        prefix: what stands before the names of the tensors.
    """
    layer, _, variable = path.rpartition("/")
    block = re.fullmatch(r"(block\d+[a-z])_(.+)", layer)
    if block:
        name = f"{prefix}encoder.blocks.{blocks.index(block[1])}.{_LAYERS[block[2]]}"
    elif layer in _STEM:
        name = prefix + _STEM[layer]
    else:
        return None
    name += f".{_VARIABLES[variable]}"
    if variable != "kernel":
        return weight_mapping.vector(name, shape)
    return (weight_mapping.depthwise if layer.endswith("_dwconv") else weight_mapping.convolution)(
        name, shape
    )
