"""Finds blocks and normalization layers of a tower by their types, in any backbone."""

import contextlib
import re

import keras

from tf_mural.errors import UserError

# Matches the names of the stages into which `image_tower` splits an EfficientNet.
_STAGE = re.compile(r"stage_\d+")
_BATCH_NORMS = (keras.layers.BatchNormalization,)


def remat_blocks(tower):
    """Returns the blocks of a tower that hold most of its activations.

    These blocks are the stages of an EfficientNet and the transformer layers of a BERT, a ViT or
    another transformer. Each block has one differentiable input and one output, as gradient
    checkpointing requires.

    Args:
        tower: `keras.Model`.
    """
    return [layer for layer in tower._flatten_layers() if _is_stage(layer) or is_block(layer)]


def require_remat_blocks(name, tower):
    """Returns `remat_blocks(tower)`, or raises an error if the tower has no blocks.

    Args:
        name: name of the tower, for the message.
        tower: `keras.Model`. A tower that is not trained needs no blocks.

    Raises:
        UserError: the tower is trained and has no blocks; gradient checkpointing cannot save its
            memory.
    """
    blocks = remat_blocks(tower)
    if not blocks and tower.trainable_variables:
        raise UserError(
            f"remat: the tower {name!r} ({type(tower).__name__} {tower.name!r}) has no blocks to "
            "recompute: expected the stages of `image_tower`, or layers that "
            "contain attention; train without remat, with a smaller micro-batch"
        )
    return blocks


def attention_layers(tower):
    """Returns the attention layers of a tower.

    Args:
        tower: `keras.Model`.
    """
    return [layer for layer in tower._flatten_layers() if _is_attention(layer)]


def is_block(layer):
    """Returns whether a layer is a transformer layer: one of its direct sublayers is attention.

    Keras and KerasHub have many classes of transformer layers without a common base class.
    """
    name = type(layer).__name__
    # The attention pooling of SigLIP contains attention, but follows all transformer layers.
    if isinstance(layer, keras.Model) or _is_attention(layer) or name.endswith("Pooling"):
        return False
    return any(_is_attention(part) for part in layer._flatten_layers(False, recursive=False))


def _is_attention(layer):
    return "Attention" in type(layer).__name__ and not type(layer).__name__.endswith("Pooling")


def _is_stage(layer):
    return isinstance(layer, keras.Model) and _STAGE.fullmatch(layer.name) is not None


def lr_multipliers_by_block(name, tower, decay):
    """Returns learning-rate multipliers that decrease from the output of a tower to its input.

    The last of the n transformer layers has the multiplier `decay`, the layer before it has
    `decay**2`, and so on. Variables before the first transformer layer, such as patch and position
    embeddings, have the multiplier `decay**(n + 1)`. Variables after the last transformer layer
    have the multiplier 1.

    Args:
        name: name of the tower, for messages.
        tower: `keras.Model`.
        decay: multiplier of a layer divided by the multiplier of the layer that follows.

    Returns:
        Tuple of pairs (regular expression that matches one variable path, multiplier).

    Raises:
        UserError: the tower has no transformer layers, and the order of its layers is unknown.
    """
    variables = tower.weights
    block_of = {
        id(variable): number
        for number, layer in enumerate(tower._flatten_layers())
        if is_block(layer)
        for variable in layer.weights
    }
    # Keras lists variables in the order in which their layers run. Keras does not always list the
    # layers in this order.
    order = list(dict.fromkeys(block_of[id(v)] for v in variables if id(v) in block_of))
    if tower.trainable_variables and not order:
        raise UserError(
            f"layer_decay is {decay}, but the order of the layers of the tower {name!r} "
            f"({type(tower).__name__} {tower.name!r}) is unknown: expected an EfficientNet, a BERT "
            "or layers that contain attention; set layer_decay to 1"
        )
    pairs, level = [], len(order) + 1
    for variable in variables:
        if id(variable) in block_of:
            level = len(order) - order.index(block_of[id(variable)])
            exponent = level
        else:
            exponent = 0 if level == 1 else level
        if variable.trainable:
            pairs.append((f"^{re.escape(variable.path)}$", decay**exponent))
    return tuple(pairs)


def norm_variables(model, batch_norm_only=False):
    """Returns the trainable variables of all normalization layers of a model, found by type.

    Args:
        model: `keras.Model`.
        batch_norm_only: whether to return only the variables of batch normalization layers.
    """
    return [
        variable
        for layer in model._flatten_layers()
        if _is_norm(layer, batch_norm_only)
        for variable in layer._trainable_variables
    ]


def exclude_norms(optimizer, model, weight_decay=True, layer_adaptation=True):
    """Excludes normalization layers from weight decay, and batch norms from layer adaptation.

    Args:
        optimizer: `optimizers.LAMB` that is not built yet.
        model: `keras.Model`.
        weight_decay: whether to exclude all normalization layers from weight decay.
        layer_adaptation: whether to exclude batch normalization layers from layer adaptation.
    """
    if weight_decay:
        optimizer.exclude_from_weight_decay(norm_variables(model))
    if layer_adaptation:
        optimizer.exclude_from_layer_adaptation(norm_variables(model, batch_norm_only=True))


def _is_norm(layer, batch_norm_only):
    if isinstance(layer, _BATCH_NORMS) or batch_norm_only:
        return isinstance(layer, _BATCH_NORMS)
    # The normalization layers of Keras and KerasHub have no common base class. The name of
    # `keras.layers.Normalization` also matches, but that layer has no trainable variables.
    return "Norm" in type(layer).__name__


# --- calls of a block in training -----------------------------------------------------------------


def is_training(block, training):
    """Returns whether a block is called in training mode.

    Args:
        block: `keras.layers.Layer`.
        training: the argument `training` of the call. None: the block has no such argument, or the
            call omits it. The value is then that of the surrounding call of the model.
    """
    if training is None:
        training = block._get_call_context().get_value("training")
    return bool(training)


def call_in_training(block, call, inputs, *args, **kwargs):
    """Calls a block in training mode, even if its model is not being called.

    Args:
        block: `keras.layers.Layer`.
        call: method `call` of the block.
        inputs, *args, **kwargs: arguments of the call, without `training`.

    Raises:
        UserError: the block returns more than one tensor.
    """
    if "training" in block.call_signature_parameters:
        kwargs["training"] = True
    with _training_context(block):
        output = call(inputs, *args, **kwargs)
    if isinstance(output, tuple | list | dict):
        raise UserError(
            f"remat: the block {block.name!r} ({type(block).__name__}) returns "
            f"{len(output)} values, expected one tensor; train without remat"
        )
    return output


@contextlib.contextmanager
def _training_context(block):
    """Context manager in which Keras calls all layers with `training=True`."""
    context = block._get_call_context()
    before = context.get_value("training")
    context.set_value("training", True)
    try:
        yield
    finally:
        context.set_value("training", before)
        block._maybe_reset_call_context()
