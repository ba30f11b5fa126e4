"""The sizes of the towers by name, and what they come to after scaling."""

import math

from tf_mural.errors import lookup

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


def bert_sizes(name):
    """(layers, width, heads, feed-forward width) of a name of `BERTS`."""
    layers, width, heads = lookup(BERTS, name, "BERT")
    return layers, width, heads, 4 * width


def efficientnet_blocks(stages):
    """Number of MBConv blocks after depth scaling, of the arguments of KerasHub's backbone."""
    depths, repeats = stages["stackwise_depth_coefficients"], stages["stackwise_num_repeats"]
    return sum(math.ceil(d * n) for d, n in zip(depths, repeats, strict=True))


def block_shapes(stages):
    """What the MBConv blocks are after scaling, of the arguments of KerasHub's backbone.

    Returns:
        {name: (kernel size, filters in, filters out, stride, expansion ratio)} in order; the names
        begin those of KerasHub's layers ("block3b").
    """
    columns = ("depth_coefficients", "num_repeats", "width_coefficients", "input_filters")
    columns += ("output_filters", "kernel_sizes", "strides", "expansion_ratios")
    shapes = {}
    rows = zip(*(stages[f"stackwise_{c}"] for c in columns), strict=True)
    for i, (depth, repeats, width, into, out, kernel, stride, expansion) in enumerate(
        rows, start=1
    ):
        into, out = _rounded(into * width), _rounded(out * width)
        for j in range(math.ceil(depth * repeats)):
            first = (into, stride) if j == 0 else (out, 1)
            shapes[f"block{i}{chr(ord('a') + j)}"] = (kernel, first[0], out, first[1], expansion)
    return shapes


def rate_factors(decay, layers, stages):
    """Factors of the learning rate that fall with the distance of a layer to the output.

    Layer-wise decay as in Howard and Ruder 2018 (https://arxiv.org/abs/1801.06146): the layer below
    the projections has `decay`, the one below that decay^2, and the embeddings or the stem the
    smallest; projections and temperatures keep the whole rate.

    Args:
        decay: factor from a layer to the one below.
        layers: of the BERT.
        stages: of the EfficientNet.

    Returns:
        Pairs of (regular expression of variable paths, factor).
    """
    pairs = [(f"transformer_layer_{i}/", decay ** (layers - i)) for i in range(layers)]
    pairs.append(
        (r"(token|position|segment)_embedding|embeddings_layer_norm", decay ** (layers + 1))
    )
    pairs += [(f"block{i}[a-z]_", decay ** (stages - i + 1)) for i in range(1, stages + 1)]
    return (*pairs, (r"stem_", decay ** (stages + 1)))


def _rounded(filters):
    """The multiple of 8 that a scaled number of filters becomes, never over 10 % less."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded
