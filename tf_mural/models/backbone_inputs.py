"""Reads inputs and outputs of backbones: sizes of images, lengths of texts, and features."""

import keras
from keras import ops

from tf_mural.errors import UserError

# Default height and width, in pixels, of the images for a backbone that takes images of any size.
_DEFAULT_IMAGE_SIZE = 224
# KerasHub's names of the inputs of backbones.
_IMAGE_INPUTS = ("images", "pixel_values")
_TEXT_INPUTS = ("token_ids", "padding_mask", "segment_ids")


def input_shape(backbone):
    """Returns the shape of the single input, or {name: shape} of a dict; None: unknown."""
    try:  # A Sequential has no `input` before it is called.
        inputs = backbone.inputs if isinstance(backbone, keras.Sequential) else backbone.input
    except (AttributeError, ValueError):
        return None  # a subclassed model, or a Sequential that is not built
    if isinstance(inputs, dict):
        return {name: tuple(x.shape) for name, x in inputs.items()}
    if isinstance(inputs, list | tuple):
        if len(inputs) != 1:
            raise UserError(
                f"the backbone {backbone.name!r} has {len(inputs)} inputs, expected one"
            )
        return tuple(inputs[0].shape)
    return tuple(inputs.shape)


def _image_input(shape):
    """Returns the name of the only input if it has a name for images, otherwise None."""
    names = list(shape) if isinstance(shape, dict) else []
    return names[0] if len(names) == 1 and names[0] in _IMAGE_INPUTS else None


def features(backbone, inputs):
    """Returns the output of a backbone to which pooling is applied.

    Args:
        backbone: `keras.Model`.
        inputs: symbolic images (n, h, w, 3), or the result of `text_inputs`.

    Raises:
        UserError: the backbone has several outputs.
    """
    shape = input_shape(backbone)
    if name := _image_input(shape):
        inputs = {name: inputs}
    outputs = backbone(inputs)
    if not isinstance(outputs, dict | list | tuple):
        return outputs
    names = list(outputs) if isinstance(outputs, dict) else list(range(len(outputs)))
    name = "sequence_output" if "sequence_output" in names else names[0]
    if len(names) > 1 and name != "sequence_output":
        raise UserError(
            f"the backbone {backbone.name!r} has the outputs {names}: wrap the one to use, "
            "keras.Model(backbone.input, backbone.output[...])"
        )
    if len(names) == 1 or not hasattr(backbone, "output"):
        return outputs[name]
    # The layers of the other outputs are omitted, because their variables would get no gradients.
    return keras.Model(backbone.input, backbone.output[name], name=backbone.name)(inputs)


def freeze_unused(backbone):
    """Freezes the variables of an image backbone that only its pre-training used.

    The mask tokens of DINOv2 and DINOv3 are such variables. They would never get a gradient.

    Args:
        backbone: `keras.Model` of images.
    """
    for variable in backbone.variables:
        if variable.path.rpartition("/")[2] == "mask_token":
            variable.trainable = False


def image_size(backbone, size, preprocessing):
    """Returns the size of the images of an encoder in pixels.

    Args:
        backbone: `keras.Model` of images.
        size: argument `image_size` of the encoder, or None.
        preprocessing: argument `preprocessing` of the encoder, or None.

    Raises:
        UserError: the backbone does not take images, or images of another size.
    """
    shape = input_shape(backbone) or (None, None, None, 3)
    if name := _image_input(shape):
        shape = shape[name]
    if isinstance(shape, dict) or len(shape) != 4 or shape[-1] != 3:
        raise UserError(
            f"the backbone {backbone.name!r} has the input shape {shape}, expected images "
            "(n, h, w, 3), with channels last"
        )
    height, width = shape[1:3]
    if height != width:
        raise UserError(
            f"the backbone {backbone.name!r} takes images of {height} x {width} pixels, expected "
            "the same height and width"
        )
    if isinstance(preprocessing, dict):
        preset_size = preprocessing["crop"]
    else:  # `Preprocessing` has a crop, and an image converter of KerasHub has an image size.
        preset_size = getattr(preprocessing, "crop", None)
        preset_size = preset_size or (getattr(preprocessing, "image_size", None) or (None,))[0]
    size = size or preset_size or height or _DEFAULT_IMAGE_SIZE
    if height and size != height:
        raise UserError(
            f"the image size is {size}, but the backbone {backbone.name!r} takes images of "
            f"{height} pixels: set image_size, or build the backbone for {size} pixels"
        )
    return size


def text_lengths(backbone):
    """Returns the fixed input length and the number of positions; each is None if unknown."""
    shape = input_shape(backbone)
    shape = shape.get("token_ids") if isinstance(shape, dict) else shape
    length = shape[1] if shape and len(shape) > 1 else None
    positions = getattr(backbone, "max_sequence_length", None)
    # SigLIP adds all its positions to each row, and uses the token at the last position.
    is_siglip = type(backbone).__name__ == "SigLIPTextEncoder"
    return positions if is_siglip else length, positions


def end_id(tokenizer):
    """Returns the first token that a tokenizer puts at the end of texts; None: there is none."""
    if getattr(tokenizer, "end", None):
        return tokenizer.end[0]
    return getattr(getattr(tokenizer, "tokenizer", None), "end_token_id", None)


def is_causal(backbone):
    """Returns whether no token attends to the tokens behind it in any transformer layer."""
    masks = [getattr(layer, "use_causal_mask", None) for layer in backbone._flatten_layers()]
    masks = [mask for mask in masks if mask is not None]
    return bool(masks) and all(masks)


def takes_mask(backbone):
    """Returns whether a text backbone has the input "padding_mask"."""
    shape = input_shape(backbone)
    return isinstance(shape, dict) and "padding_mask" in shape


def text_inputs(backbone, tokens, mask):
    """Returns the inputs of a text backbone, an array or a dict.

    Args:
        backbone: `keras.Model` of texts.
        tokens: symbolic int32 (n, t).
        mask: symbolic int32 (n, t), 0 for padding.

    Raises:
        UserError: the backbone has inputs with unknown names.
    """
    shape = input_shape(backbone)
    if not isinstance(shape, dict):
        return tokens
    known = dict(zip(_TEXT_INPUTS, (tokens, mask, ops.zeros_like(tokens)), strict=True))
    unknown = [name for name in shape if name not in known]
    if unknown:
        raise UserError(
            f"the backbone {backbone.name!r} has the inputs {list(shape)}, expected some of "
            f"{list(known)}"
        )
    return {name: known[name] for name in shape}


def check_tokenizer(backbone, tokenizer):
    """Raises a `UserError` if a tokenizer has more tokens than a backbone has embeddings."""
    size = getattr(backbone, "vocabulary_size", None)
    if size is not None and tokenizer.size > size:
        raise UserError(
            f"the tokenizer has {tokenizer.size} tokens, but the backbone {backbone.name!r} has "
            f"{size} token embeddings: use the tokenizer that belongs to the backbone"
        )
