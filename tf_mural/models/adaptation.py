"""Adaptation of a pretrained tower: which of its weights are trained, and LoRA adapters.

- "full": all weights of the tower are trained.
- "frozen": nothing of the tower is trained.
- "last:k": the last k transformer layers or EfficientNet stages are trained, and all layers behind
  them. With k = 0, only the projection to the embedding space is trained.
- "lora:r": low-rank adapters of rank r are trained, and the projection. See Hu et al. 2021,
  https://arxiv.org/abs/2106.09685.
"""

import functools
import re
from typing import NamedTuple

import keras
import numpy as np

from tf_mural.errors import UserError
from tf_mural.models.blocks import attention_layers, remat_blocks
from tf_mural.models.keras_patches import patch_lora, remove_lora

FULL, FROZEN, LAST, LORA = "full", "frozen", "last", "lora"
_FORMS = "full, frozen, last:k (k >= 0) or lora:r (r >= 1)"
_PROJECTIONS = ("image_projection", "text_projection")
# Names of the query and value projections in the attention layers of Keras and KerasHub. The layer
# "attention_qkv" is the joint projection of a Swin transformer.
_ADAPTED = ("query", "value", "query_dense", "value_dense", "q_proj", "v_proj", "attention_qkv")
# Number of tokens of a symbolic input if a tower takes any number of tokens.
_ANY_LENGTH = 8
_KERNELS = ("lora_kernel_a", "lora_kernel_b")


class Adaptation(NamedTuple):
    """A parsed value of `adapt`.

    Attributes:
        kind: `FULL`, `FROZEN`, `LAST` or `LORA`.
        number: k of "last:k", r of "lora:r", else 0.
    """

    kind: str
    number: int = 0


def parse_adapt(adapt, name="adapt"):
    """Parses a value such as "lora:8".

    Args:
        adapt: str.
        name: name of the value, for the message.

    Returns:
        `Adaptation`.

    Raises:
        UserError: the value has another form, or the rank is 0.
    """
    if adapt in (FULL, FROZEN):
        return Adaptation(adapt)
    match = re.fullmatch(rf"({LAST}|{LORA}):(\d+)", adapt) if isinstance(adapt, str) else None
    if not match:
        raise UserError(f"{name} is {adapt!r}, expected {_FORMS}")
    kind, number = match[1], int(match[2])
    if kind == LORA and not number:
        raise UserError(f"{name} is {adapt!r}, but the rank of LoRA must be at least 1: {_FORMS}")
    return Adaptation(kind, number)


def adapt_tower(name, tower, adapt):
    """Sets which variables of a tower are trained, and adds adapters if necessary.

    "full" leaves the tower as it is: layers that are already frozen stay frozen.

    Args:
        name: name of the tower, for messages.
        tower: `keras.Model`, changed in place.
        adapt: see the module.

    Raises:
        UserError: the tower does not have the layers that `adapt` names.
    """
    kind, number = parse_adapt(adapt, f"adapt of the tower {name!r}")
    if kind == FROZEN:
        tower.trainable = False
    elif kind == LAST:
        _freeze_below(_first_trained(name, tower, number), tower)
    elif kind == LORA:
        _add_adapters(name, tower, number)


def projection_layers(tower):
    """Returns the layers of the projection of a tower to the embedding space; it may have none."""
    return [layer for layer in tower.layers if layer.name in _PROJECTIONS and layer.weights]


def _describe(name, tower):
    return f"the tower {name!r} ({type(tower).__name__} {tower.name!r})"


# --- the last layers ------------------------------------------------------------------------------


def _first_trained(name, tower, count):
    """Returns the layers of which the one that runs first starts the trained part of the tower."""
    if not count:
        if not (layers := projection_layers(tower)):
            raise UserError(
                f"adapt is 'last:0', but {_describe(name, tower)} has no projection that could be "
                "trained: set dim to another width than that of its features, or choose 'frozen'"
            )
        return layers
    blocks = remat_blocks(tower)
    if len(blocks) < count:
        kinds = "transformer layers or EfficientNet stages"
        raise UserError(
            f"adapt is 'last:{count}', but {_describe(name, tower)} has {len(blocks)} {kinds}: "
            f"expected at most last:{len(blocks)}"
        )
    order = {id(layer): position for position, layer in enumerate(_calls(tower)[0])}
    return sorted(blocks, key=lambda block: order.get(id(block), -1))[-count:]


def _freeze_below(first_trained, tower):
    """Freezes all layers whose last call ends before the first of the given layers is called.

    The frozen layers run in inference mode: without dropout, and with the moving averages of batch
    normalization.
    """
    starts, ends = _calls(tower)
    first = min(starts.index(layer) for layer in first_trained)
    # `ends` has the number of layers that had been called when the last call of a layer ended.
    below = [layer for layer in starts if ends[id(layer)] <= first]
    frozen = {id(part): part for layer in below for part in layer._flatten_layers()}
    for layer in frozen.values():
        layer.trainable = False
        _run_in_inference_mode(layer)
    containers = [tower, *starts[:first]]
    for layer in containers:
        if id(layer) not in frozen:  # It contains both frozen and trained layers.
            for variable in layer._trainable_variables:
                variable.trainable = False


def _calls(tower):
    """Returns the layers inside of a tower in the order in which they run.

    Keras does not list layers in this order if a layer contains other layers. The tower is
    therefore called with symbolic inputs, which computes nothing.

    Returns:
        List of the layers, ordered by their first calls, and {id of a layer: number of layers in
        this list at the end of the last call of the layer}.
    """
    starts, ends, replaced = [], {}, []
    # On JAX, layers cannot compare symbolic sizes, and need numbers.
    length = getattr(tower, "max_tokens", None) or _ANY_LENGTH
    inputs = keras.tree.map_structure(
        lambda x: keras.KerasTensor((1, *(size or length for size in x.shape[1:])), x.dtype),
        tower.input,
    )

    def record(layer, call, *args, **kwargs):
        if not any(layer is other for other in starts):
            starts.append(layer)
        output = call(*args, **kwargs)
        ends[id(layer)] = len(starts)
        return output

    for layer in tower._flatten_layers(include_self=False):
        replaced.append((layer, vars(layer).get("call")))
        layer.call = functools.partial(record, layer, layer.call)
    try:
        keras.Operation.compute_output_spec(tower, inputs, training=False)
    finally:
        for layer, call in replaced:
            if call is None:
                del layer.call
            else:
                layer.call = call
    return starts, ends


def _run_in_inference_mode(layer):
    """Makes a layer ignore `training=True`."""
    if "training" not in layer.call_signature_parameters:
        return
    plain_call = layer.call

    def call(*args, training=None, **kwargs):
        return plain_call(*args, training=False, **kwargs)

    layer.call = call


# --- LoRA -----------------------------------------------------------------------------------------


def _add_adapters(name, tower, rank):
    """Freezes a tower except its projection, and adds adapters to query and value projections."""
    targets = [
        layer
        for attention in attention_layers(tower)
        for layer in attention._flatten_layers(include_self=False)
        if layer.name.lstrip("_") in _ADAPTED and hasattr(layer, "enable_lora")
    ]
    if not targets:
        raise UserError(
            f"adapt is 'lora:{rank}', but {_describe(name, tower)} has no attention layers with "
            "query and value projections, which LoRA adapts: choose full, last:k or frozen"
        )
    trained = {id(part) for layer in projection_layers(tower) for part in layer._flatten_layers()}
    for layer in tower._flatten_layers():
        if id(layer) in trained:
            continue
        for variable in layer._trainable_variables:
            variable.trainable = False
        if not list(layer._flatten_layers(include_self=False)):
            layer.trainable = False
    for layer in targets:
        layer.trainable = True
        for variable in layer._trainable_variables:
            variable.trainable = False
        if not layer.lora_enabled:  # A model that Keras deserialized may have the adapters already.
            layer.enable_lora(rank)
        prefix = layer._kernel.path.rpartition("/")[0]
        for kernel in _KERNELS:
            variable = getattr(layer, kernel)
            variable.trainable = True
            # Weights are stored by path, and Keras gives the kernels of all adapters the same path.
            variable._path = f"{prefix}/{kernel}"
        patch_lora(layer)


def adapted_layers(model):
    """Returns the layers of a model that have adapters, in the order of the layers.

    Args:
        model: `keras.Model`, for example a `DualEncoder`.
    """
    return [layer for layer in model._flatten_layers() if getattr(layer, "lora_enabled", False)]


def adapter_variables(model):
    """Returns the variables of all adapters of a model."""
    return [getattr(layer, kernel) for layer in adapted_layers(model) for kernel in _KERNELS]


def exclude_adapters(optimizer, model):
    """Excludes adapters from the layer adaptation of `optimizers.LAMB`.

    One kernel of an adapter starts at 0. Its trust ratio |w| / |u| would stay close to 0, and the
    adapter would learn nothing.

    Args:
        optimizer: `optimizers.LAMB` that is not built yet.
        model: `keras.Model`.
    """
    if variables := adapter_variables(model):
        optimizer.exclude_from_layer_adaptation(variables)


def merged_arguments(arguments):
    """Returns the arguments of `dual_encoder` for a model whose adapters were merged.

    Args:
        arguments: keyword arguments of `dual_encoder`.
    """

    def without_adapters(tower):
        is_lora = parse_adapt(tower.get("adapt", FULL)).kind == LORA
        return {**tower, "adapt": FULL} if is_lora else tower

    return {
        **arguments,
        "image": without_adapters(arguments["image"]),
        "text": without_adapters(arguments["text"]),
        "towers": {
            name: without_adapters(tower) for name, tower in (arguments["towers"] or {}).items()
        },
    }


def merge_arrays(model, arrays):
    """Merges the adapters in the weights of a model: kernel + scale * A B.

    Args:
        model: `keras.Model` with or without adapters; it is not changed.
        arrays: {variable path: array}, the values of the variables of the model.

    Returns:
        {variable path: array} without the variables of the adapters. The dtype of an array does not
        change.
    """
    merged = dict(arrays)
    for layer in adapted_layers(model):
        a, b = (np.asarray(merged.pop(v.path)) for v in (layer.lora_kernel_a, layer.lora_kernel_b))
        kernel = np.asarray(merged[layer._kernel.path])
        scale = layer.lora_alpha / layer.lora_rank
        merged[layer._kernel.path] = (kernel + scale * np.matmul(a, b)).astype(kernel.dtype)
    return merged


def merge_adapters(model):
    """Replaces the adapters of a model by plain weights, in place.

    The outputs of the model stay the same up to rounding errors. Afterwards, all weights of a tower
    that had adapters are trained, as with `adapt="full"`. A trainer that was compiled before must
    be compiled again.

    Args:
        model: `keras.Model`, for example a `DualEncoder`. A model without adapters does not change.

    Returns:
        The model.
    """
    towers = getattr(model, "towers", {"": model})
    for name, tower in towers.items():
        layers = adapted_layers(tower)
        arrays = {v.path: v.numpy() for layer in layers for v in layer.variables}
        merged = merge_arrays(tower, arrays)
        for layer in layers:
            layer._kernel.assign(merged[layer._kernel.path])
            remove_lora(layer)
        if layers:
            # TensorFlow ignores the assignment of a value that an attribute has already.
            tower.trainable = False
            tower.trainable = True
            if tower is not model:
                model.adapt = {**model.adapt, name: FULL}
    return model


def interpolate_adapters(model, factor):
    """Multiplies the product of each pair of adapter kernels by a factor.

    The result has the weights a w + (1 - a) w_0 for the factor a, the adapted weights w and the
    weights w_0 without adapters.
    """
    for layer in adapted_layers(model):
        layer.lora_kernel_b.assign(layer.lora_kernel_b * factor)
