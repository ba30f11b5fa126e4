"""The towers: KerasHub's EfficientNet and BERT, each cut where the recipe cuts it."""

import contextlib
import re

import keras
from keras import ops

from tf_mural.errors import UserError, lookup
from tf_mural.models.ghost_batch_norm import batch_norm_of
from tf_mural.models.model_configs import (
    EFFICIENTNETS,
    bert_sizes,
    block_shapes,
    efficientnet_blocks,
)
from tf_mural.models.squeeze_excite import squeezing

ACTIVATIONS = {
    "gelu_approximate": lambda x: keras.activations.gelu(x, approximate=True),
    "gelu": lambda x: keras.activations.gelu(x, approximate=False),
}


def _stages(name):
    """Arguments of KerasHub's backbone for a name of `EFFICIENTNETS`."""
    stages = lookup(EFFICIENTNETS, name, "EfficientNet")
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
    except (ValueError, OSError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the preset {preset!r} cannot be loaded as {kind.__name__} ({reason}); expected a "
            "name, a hf:// or kaggle:// handle, or a folder of KerasHub"
        ) from error


@contextlib.contextmanager
def _padding_at_the_end(stages):
    """Inside, what KerasHub pads before its convolutions of stride 2 is a row and a column less."""
    original = keras.layers.ZeroPadding2D
    halving = [name for name, (*_, stride, _) in block_shapes(stages).items() if stride == 2]
    names = {"stem_conv_pad", *(f"{name}_dwconv_pad" for name in halving)}

    def build(padding, name):
        ends = tuple((size - 1, size) for size in padding)
        return original(padding=ends if name in names else padding, name=name)

    keras.layers.ZeroPadding2D = build
    try:
        yield
    finally:
        keras.layers.ZeroPadding2D = original


def _in_stages(backbone, inputs, count):
    """A backbone up to its top convolution, as one model a stage; the first has the stem too.

    Args:
        backbone, inputs: of `squeezing`.
        count: stages.
    """
    starts = [f"block{i}a_" for i in range(2, count + 1)]
    names = [next(x for x in inputs if x.startswith(start)) for start in starts]
    cuts = [backbone.input, *(inputs[x] for x in (*names, "top_conv"))]
    return [keras.Model(cuts[i], cuts[i + 1], name=f"stage_{i + 1}") for i in range(count)]


PADDINGS = {"symmetric": contextlib.nullcontext, "end": _padding_at_the_end}


def image_tower(
    name="b7",
    image_size=289,
    embedding_dim=640,
    stochastic_depth=0.2,
    batch_norm_group=None,
    batch_norm_momentum=0.99,
    padding="symmetric",
    preset=None,
    average=list,
):
    """EfficientNet up to its last MBConv output, averaged over positions.

    The top 1x1 convolution is left out, as in ALIGN, so that B7 is 640 wide; a linear layer
    follows where that width is not `embedding_dim`.

    Args:
        name: a name of `EFFICIENTNETS`.
        image_size: pixels a side.
        embedding_dim: width of the output.
        stochastic_depth: drop rate that the blocks approach linearly: block i of B has rate * i/B.
        batch_norm_group, batch_norm_momentum, average: see `GroupedBatchNormalization`.
        padding: before the convolutions of stride 2, "symmetric" (KerasHub's) or "end", a row and a
            column less at the top and left: that of the published ALIGN models, at any image size.
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
    padded = lookup(PADDINGS, padding, "padding")(stages)
    with batch_norm_of(batch_norm_group, batch_norm_momentum, average), padded:
        stages["input_shape"] = (image_size, image_size, 3)
        # KerasHub divides by the unscaled number of blocks, which would end a B7 at 0.675.
        stages["dropout"] = stochastic_depth * repeats / blocks
        backbone, inputs = squeezing(kind.from_config(stages), average)
    if preset:
        backbone.set_weights(pretrained.get_weights())
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    # In half precision 1 / 127.5 is 0.1 % off, and so would every pixel be; the mean is kept too.
    wide = keras.config.dtype_policy().variable_dtype
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype=wide, name="rescale")(pixels)
    for stage in _in_stages(backbone, inputs, len(stages["stackwise_num_repeats"])):
        x = stage(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=wide, name="pool")(x)
    if x.shape[-1] != embedding_dim:
        x = keras.layers.Dense(embedding_dim, name="image_projection")(x)
    return keras.Model(pixels, x, name="image_tower")


def _as_tensordot(dense):
    """Makes a projection of attention one product of two tensors, with the same result.

    Keras multiplies (n, t, c) by (c, heads, d) by Einstein's rule, which TensorFlow does text by
    text: on a CPU that takes half as long again. JAX does either the same way.

    Args:
        dense: `keras.layers.EinsumDense` from (n, t, ...) to (n, t, ...).
    """

    def call(inputs, training=None):
        return ops.tensordot(inputs, dense.kernel, axes=len(inputs.shape) - 2) + dense.bias

    dense.call = call


def text_tower(
    vocabulary_size,
    name="base",
    max_tokens=64,
    embedding_dim=640,
    dropout=0.1,
    sizes=None,
    activation="gelu_approximate",
    preset=None,
):
    """BERT's hidden state of [CLS] (not the tanh pooler), then a linear layer.

    Args:
        vocabulary_size: rows of the token embedding.
        name: a name of `BERTS`.
        max_tokens: rows of the position table.
        embedding_dim: width of the output.
        dropout: of embeddings, attention and feed-forward outputs.
        sizes: (layers, width, heads, feed-forward width) of a BERT that has no name here.
        activation: of the feed-forward layers: "gelu_approximate" (by tanh, KerasHub's) or "gelu"
            (exact, that of most published checkpoints).
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
        sizes = sizes or bert_sizes(name)
        if len(sizes) != 4 or sizes[1] % sizes[2]:
            raise UserError(
                f"the sizes of a BERT are {sizes}, expected layers, width, heads and feed-forward "
                "width, with a width that divides by the heads"
            )
        layers, width, heads, inner = sizes
        backbone = keras_hub.models.BertBackbone(
            vocabulary_size=vocabulary_size,
            num_layers=layers,
            num_heads=heads,
            hidden_dim=width,
            intermediate_dim=inner,
            dropout=dropout,
            max_sequence_length=max_tokens,
        )
    for layer in backbone.transformer_layers:
        layer._feedforward_intermediate_dense.activation = lookup(
            ACTIVATIONS, activation, "activation"
        )
        attention = layer._self_attention_layer
        for name in ("query", "key", "value", "output"):
            _as_tensordot(getattr(attention, f"_{name}_dense"))
    # In half precision a position's gradient would be added up over the batch in it, and in float16
    # be stuck at 8,192 equal rows. Keras adds up the other two tables in float32 by itself.
    backbone.position_embedding.dtype_policy = keras.config.dtype_policy().variable_dtype
    # Without the pooler: it would be a variable that never gets a gradient.
    sequence = keras.Model(backbone.input, backbone.output["sequence_output"])
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.cast(ops.not_equal(tokens, 0), "int32")
    hidden = sequence(
        {"token_ids": tokens, "padding_mask": mask, "segment_ids": ops.zeros_like(tokens)}
    )  # (n, t, width)
    x = keras.layers.Dense(embedding_dim, name="text_projection")(hidden[:, 0])
    return keras.Model(tokens, x, name="text_tower")


def blocks_of(tower):
    """Stages and transformer layers: the parts of a tower that hold most of its activations.

    Each takes one tensor that is to be differentiated by, and returns one.
    """
    name = re.compile(r"stage_\d+|transformer_layer_\d+")
    return [layer for layer in tower._flatten_layers() if name.fullmatch(layer.name)]
