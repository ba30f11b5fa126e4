"""Interpolates tables of position embeddings for other image sizes and other text lengths."""

import math

import numpy as np

from tf_mural.errors import UserError

# Coefficient of the cubic kernel of torch.nn.functional.interpolate.
_CUBIC = -0.75
_TABLE, _IDS = "position_embedding", "position_ids"


def interpolate_image_positions(table, side, num_prefix=0):
    """Resizes a square grid of position embeddings with bicubic interpolation.

    The result equals that of `interpolate_pos_encoding` of Hugging Face: pixel centers at half
    integers, a = -0.75, edges repeated, and no antialiasing.

    Args:
        table: (p + s * s, c). The first p rows belong to tokens before the patches.
        side: new number of rows and columns of patches.
        num_prefix: p.

    Returns:
        (p + side * side, c), with the dtype of `table`.

    Raises:
        UserError: the number of patches is not a square, or `side` is below 1.
    """
    prefix, grid = table[:num_prefix], table[num_prefix:]
    old = math.isqrt(len(grid))
    if old * old != len(grid) or old < 1:
        raise UserError(
            f"the table has {len(grid)} positions of patches, which is not a square number: the "
            "image size cannot be changed"
        )
    if side < 1:
        raise UserError("the image is smaller than one patch: set a larger image_size")
    weights = _cubic_weights(old, side)
    grid = np.asarray(grid, np.float64).reshape(old, old, -1)
    grid = np.einsum("ai,bj,ijc->abc", weights, weights, grid, optimize=True)
    return np.concatenate([prefix, grid.reshape(side * side, -1).astype(table.dtype)])


def _cubic_weights(old, new):
    """Returns the matrix (new, old) of cubic interpolation along one axis."""
    center = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(center).astype(int)
    weights = np.zeros((new, old))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(center - (first + offset))
        near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
        far = _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
        column = np.clip(first + offset, 0, old - 1)
        np.add.at(weights, (np.arange(new), column), np.where(distance <= 1, near, far))
    return weights


def interpolate_text_positions(table, length, num_prefix=0):
    """Changes the number of position embeddings of texts.

    A shorter table consists of the first rows. A longer table is interpolated linearly; its first
    and its last row are those of `table`.

    Args:
        table: (p + t, c). The first p rows belong to no position, as in XLM-R.
        length: new t.
        num_prefix: p.

    Returns:
        (p + length, c), with the dtype of `table`.
    """
    prefix, rows = table[:num_prefix], table[num_prefix:]
    if length <= len(rows):
        return table[: num_prefix + length]
    position = np.linspace(0, len(rows) - 1, length)
    first = np.minimum(position.astype(int), max(len(rows) - 2, 0))
    share = (position - first)[:, None]
    rows64 = np.asarray(rows, np.float64)
    rows64 = rows64[first] * (1 - share) + rows64[np.minimum(first + 1, len(rows) - 1)] * share
    return np.concatenate([prefix, rows64.astype(table.dtype)])


def number_positions(backbone):
    """Sets the variables "position_ids" of a backbone to 0, 1, 2, ...

    The vision encoder of CLIP in KerasHub initializes them with zeros, so that a model without a
    preset would give the same position to all patches.

    Args:
        backbone: `keras.Model`.
    """
    for variable in backbone.variables:
        if variable.path.rpartition("/")[2] == _IDS:
            count = math.prod(variable.shape)
            variable.assign(np.arange(count, dtype=variable.dtype).reshape(variable.shape))


def resize_backbone(backbone, image_size=None, max_tokens=None):
    """Builds a backbone of KerasHub for another size, with the same weights.

    All variables are copied. Tables of positions are interpolated.

    Args:
        backbone: `keras_hub.models.Backbone` whose config has "image_shape" or
            "max_sequence_length".
        image_size: new height and width of images in pixels. None: a text backbone.
        max_tokens: new number of positions of texts. None: an image backbone.

    Returns:
        A new backbone, or `backbone` itself if it has the size already.

    Raises:
        UserError: the backbone cannot be built for the size, or a table of another kind depends on
            the size.
    """
    config = backbone.get_config()
    key = "max_sequence_length" if image_size is None else "image_shape"
    size = max_tokens if image_size is None else (image_size, image_size, 3)
    name, value = ("max_tokens", max_tokens) if image_size is None else ("image_size", image_size)
    if key not in config:
        raise UserError(
            f"{name} is {value}, but the positions of the backbone {backbone.name!r} "
            f"({type(backbone).__name__}) have a fixed size: omit {name}"
        )
    if config[key] == size or (isinstance(size, tuple) and tuple(config[key]) == size):
        return backbone
    patch = config.get("patch_size") or 1
    patch = patch if isinstance(patch, int) else patch[0]
    if image_size is not None and image_size < patch:
        raise UserError(
            f"image_size is {image_size}, but the patches of the backbone {backbone.name!r} have "
            f"{patch} pixels: set image_size={patch} or more"
        )
    try:
        resized = type(backbone).from_config({**config, key: size})
    except ValueError as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{name} is {value}, which the backbone {backbone.name!r} does not accept: {reason}"
        ) from error
    pairs = list(zip(backbone.variables, resized.variables, strict=True))
    for old, new in pairs:
        if tuple(old.shape) == tuple(new.shape):
            new.assign(old)
        elif not new.path.endswith(_IDS):
            new.assign(_resize_table(old, new.shape, f"{name}={value}", image_size is not None))
    number_positions(resized)
    return resized


def _resize_table(variable, shape, change, is_image):
    table = np.asarray(variable)
    rows = table.reshape(-1, table.shape[-1])
    count = math.prod(shape[:-1])
    if _TABLE not in variable.path or rows.shape[-1] != shape[-1]:
        raise UserError(
            f"{change}: the shape of {variable.path} changes from {tuple(table.shape)} to "
            f"{tuple(shape)}, but only tables of positions can be interpolated: build the model "
            "for its own size"
        )
    if not is_image:
        return interpolate_text_positions(rows, count).reshape(shape)
    # A class token, and distillation or register tokens, precede the patches.
    side, num_prefix = math.isqrt(count), len(rows) - math.isqrt(len(rows)) ** 2
    if count != num_prefix + side * side:
        raise UserError(
            f"{change}: {variable.path} has {len(rows)} and would have {count} positions, which "
            "are not square grids of patches: build the model for its own size"
        )
    return interpolate_image_positions(rows, side, num_prefix).reshape(shape)
