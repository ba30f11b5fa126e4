"""Named sizes of the towers, and the block shapes and learning rates that follow from the sizes."""

import math
from collections.abc import Mapping

from tf_mural.errors import UserError, lookup

# The seven stages of EfficientNet-B0 are those of table 1 of Tan and Le 2019
# (https://arxiv.org/abs/1905.11946). `_SCALING` contains the factors by which the sizes B0 to B7
# multiply the widths and depths of B0.
_B0 = {
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    "stackwise_squeeze_and_excite_ratios": [0.25] * 7,
    "stackwise_block_types": ["v1"] * 7,
}
_SCALING = {  # name: (width coefficient, depth coefficient)
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}
# This EfficientNet has four stages and is made for images of about 64 px. A CPU can train this
# EfficientNet in minutes.
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


def _scale(stages, width, depth):
    count = len(stages["stackwise_num_repeats"])
    return {
        **stages,
        "stackwise_width_coefficients": [width] * count,
        "stackwise_depth_coefficients": [depth] * count,
    }


EFFICIENTNETS = {
    "tiny": _scale(_TINY, 1.0, 1.0),
    **{name: _scale(_B0, width, depth) for name, (width, depth) in _SCALING.items()},
}
BERTS = {  # name: (layers, width, heads); the feed-forward width is 4 * width
    "nano": (2, 96, 2),
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}
# Prefix of the names of KerasHub presets in the argument `backbone` of towers.
KERAS_HUB = "keras_hub:"
# Arguments of a KerasHub backbone that `image_tower` sets.
_INSTANCE_ARGUMENTS = ("name", "trainable", "dtype", "input_shape", "dropout", "include_rescaling")
# `_RENAMED_ARGUMENTS`, {modality: {old name: new name}}, lists the arguments of `dual_encoder` that
# earlier versions of `tf_mural` stored under other names. `_STORED_NONE`, {argument: value}, lists
# the values that earlier versions of `tf_mural` stored in the place of None. In the place of the
# argument `backbone`, earlier versions of `tf_mural` stored `name`, and `preset`, the name of a
# preset of KerasHub. In the place of the argument `scalars`, earlier versions of `tf_mural` stored
# `temperatures`, {name: initial value}, and in the place of "adapt" of the towers `freeze`, the
# names of the frozen towers.
_RENAMED_ARGUMENTS = {"image": {"batch_norm_group": "virtual_batch_size"}, "text": {}}
_STORED_NONE = {"virtual_batch_size": 0, "sizes": []}


def upgrade_arguments(arguments):
    """Converts stored keyword arguments of `dual_encoder` to the names and values of this version.

    Only this function reads the names and values that earlier versions of `tf_mural` wrote to
    model.json and to presets. Names and values of this version are kept.

    Args:
        arguments: keyword arguments of `dual_encoder`, of which "image" and "text" are required.
    """
    towers = arguments.get("towers") or {}
    upgraded = {
        "towers": {
            name: upgrade_tower(tower.get("modality", "image"), tower)
            for name, tower in towers.items()
        },
        "image": upgrade_tower("image", arguments["image"]),
        "text": upgrade_tower("text", arguments["text"]),
    }
    if "temperatures" in arguments:
        upgraded["scalars"] = {"temperature": arguments["temperatures"]}
        arguments = {key: value for key, value in arguments.items() if key != "temperatures"}
    if "freeze" in arguments:
        frozen = set(arguments["freeze"] or ())
        arguments = {key: value for key, value in arguments.items() if key != "freeze"}
        upgraded["towers"] = {name: dict(tower) for name, tower in upgraded["towers"].items()}
        towers = {**upgraded["towers"], "image": upgraded["image"], "text": upgraded["text"]}
        for name in frozen:
            towers[name]["adapt"] = "frozen"
    return {**arguments, **upgraded}


def upgrade_tower(modality, arguments):
    """Converts stored keyword arguments of a tower to the names and values of this version.

    Args:
        modality: "image", "text" or "vectors".
        arguments: keyword arguments of `image_tower`, `text_tower` or `VectorsEncoder`.
    """
    renamed = _RENAMED_ARGUMENTS.get(modality, {})
    stored = {renamed.get(key, key): value for key, value in arguments.items()}
    name, preset = stored.pop("name", None), stored.pop("preset", None)
    if name is not None or preset:
        stored = {"backbone": f"{KERAS_HUB}{preset}" if preset else name, **stored}
    return {
        key: None if key in _STORED_NONE and value == _STORED_NONE[key] else value
        for key, value in stored.items()
    }


def preset_of(backbone):
    """Returns the name of the KerasHub preset of an argument `backbone`, or None."""
    if isinstance(backbone, str) and backbone.startswith(KERAS_HUB):
        return backbone.removeprefix(KERAS_HUB)
    return None


def bert_sizes(name):
    """Returns (layers, width, heads, feed-forward width) of a key of `BERTS`."""
    layers, width, heads = lookup(BERTS, name, "BERT")
    return layers, width, heads, 4 * width


def efficientnet_config(name):
    """Returns the arguments of KerasHub's `EfficientNetBackbone`, except `_INSTANCE_ARGUMENTS`.

    Args:
        name: a key of `EFFICIENTNETS`, or a dict that contains the arguments.
    """
    if isinstance(name, Mapping):
        return {key: value for key, value in name.items() if key not in _INSTANCE_ARGUMENTS}
    config = lookup(EFFICIENTNETS, name, "EfficientNet")
    count = len(config["stackwise_num_repeats"])
    return {
        **config,
        "stackwise_force_input_filters": [0] * count,
        "stackwise_nores_option": [False] * count,
        "use_depth_divisor_as_min_depth": True,
        # KerasHub's default would round the first stage of B3 to 16 channels instead of 24.
        "cap_round_filter_decrease": True,
        "batch_norm_epsilon": 1e-3,
    }


def load_backbone(backbone_class, preset, **overrides):
    """Loads a KerasHub preset as an instance of a backbone class.

    Raises:
        UserError: the preset is not available, or contains a backbone of another class.
    """
    try:
        return backbone_class.from_preset(preset, **overrides)
    except (ValueError, OSError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the preset {preset!r} cannot be loaded as {backbone_class.__name__} ({reason}); "
            "expected the name, the hf:// or kaggle:// handle or the folder of a KerasHub preset"
        ) from error


def count_blocks(config):
    """Returns the number of MBConv blocks after depth scaling.

    Args:
        config: arguments of KerasHub's `EfficientNetBackbone`.
    """
    depths, repeats = config["stackwise_depth_coefficients"], config["stackwise_num_repeats"]
    return sum(math.ceil(d * n) for d, n in zip(depths, repeats, strict=True))


def block_shapes(config):
    """Returns the hyperparameters of the MBConv blocks after scaling.

    Args:
        config: arguments of KerasHub's `EfficientNetBackbone`.

    Returns:
        Ordered dict from block name to (kernel size, input filters, output filters, stride,
        expansion ratio). The block names are prefixes of KerasHub's layer names ("block3b").
    """
    columns = ("depth_coefficients", "num_repeats", "width_coefficients", "input_filters")
    columns += ("output_filters", "kernel_sizes", "strides", "expansion_ratios")
    stages = zip(*(config[f"stackwise_{column}"] for column in columns), strict=True)
    shapes = {}
    for i, (depth, repeats, width, filters_in, filters_out, kernel, stride, expansion) in enumerate(
        stages, start=1
    ):
        filters_in, filters_out = (
            _round_filters(filters_in * width),
            _round_filters(filters_out * width),
        )
        for j in range(math.ceil(depth * repeats)):
            block_in, block_stride = (filters_in, stride) if j == 0 else (filters_out, 1)
            name = f"block{i}{chr(ord('a') + j)}"
            shapes[name] = (kernel, block_in, filters_out, block_stride, expansion)
    return shapes


def lr_multipliers(decay, num_layers, num_stages):
    """Returns learning-rate multipliers that decrease with the distance of a layer to the output.

    Implements the layer-wise decay of Howard and Ruder 2018 (https://arxiv.org/abs/1801.06146). The
    last transformer layer and the last stage have the multiplier `decay`, the layer and the stage
    before them have `decay**2`, and so on down to the embeddings and the stem. Projections and
    temperatures keep the full learning rate.

    Args:
        decay: multiplier of a layer divided by the multiplier of the layer that follows.
        num_layers: number of transformer layers of the BERT.
        num_stages: number of stages of the EfficientNet.

    Returns:
        Tuple of pairs (regular expression that matches variable paths, multiplier).
    """
    pairs = [(f"transformer_layer_{i}/", decay ** (num_layers - i)) for i in range(num_layers)]
    pairs.append(
        (r"(token|position|segment)_embedding|embeddings_layer_norm", decay ** (num_layers + 1))
    )
    pairs += [(f"block{i}[a-z]_", decay ** (num_stages - i + 1)) for i in range(1, num_stages + 1)]
    return (*pairs, (r"stem_", decay ** (num_stages + 1)))


def _round_filters(filters):
    """Rounds a scaled number of filters to a multiple of 8 that is at most 10 % smaller."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded
