"""All changes that the models make to the behavior of Keras and KerasHub."""

import contextlib
import re

import keras
from keras import ops

from tf_mural.errors import lookup

# The number at the end of the name of a layer or variable.
_NUMBER = re.compile(r"_\d+$")
ACTIVATIONS = {
    "gelu_approximate": lambda x: keras.activations.gelu(x, approximate=True),
    "gelu": lambda x: keras.activations.gelu(x, approximate=False),
}


@contextlib.contextmanager
def dtype_policy_scope(policy):
    """Context manager: sets the global dtype policy of Keras; None leaves the policy unchanged."""
    # The policy must be global: the EfficientNet v1 blocks of KerasHub read no other policy.
    original = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy or original)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(original)


def replace_inner_layers(block, replace):
    """Replaces layers that are attributes of another layer, in place.

    KerasHub's blocks of EfficientNetV2 have no argument for the class of their batch norms, and
    Keras has no public method that replaces an inner layer of a built layer.

    Args:
        block: `keras.layers.Layer`.
        replace: callable that maps a layer of `block` to the layer that replaces it.
    """
    for name, layer in list(vars(block).items()):
        if isinstance(layer, keras.layers.Layer) and (new_layer := replace(layer)) is not layer:
            # The list of tracked layers determines the order of the weights.
            block._tracker.replace_tracked_value("layers", layer, new_layer)
            setattr(block, name, new_layer)


def patch_bert(backbone, activation):
    """Changes a `BertBackbone` in place: activation, attention projections and precision.

    Args:
        backbone: `keras_hub.models.BertBackbone`.
        activation: name of the feed-forward activation, a key of `ACTIVATIONS`.
    """
    for layer in backbone.transformer_layers:
        layer._feedforward_intermediate_dense.activation = lookup(
            ACTIVATIONS, activation, "activation"
        )
        attention = layer._self_attention_layer
        for name in ("query", "key", "value", "output"):
            _use_tensordot(getattr(attention, f"_{name}_dense"))
    # Without this policy, the gradients of position embeddings would be summed over the batch in
    # half precision, and a float16 sum of equal values stops growing after 8,192 values. Keras
    # already sums the gradients of token and segment embeddings in float32.
    backbone.position_embedding.dtype_policy = keras.config.dtype_policy().variable_dtype


def _use_tensordot(dense):
    """Replaces the einsum of an `EinsumDense` by a single matmul with the same result.

    TensorFlow computes the einsum of (n, t, c) and (c, heads, d) one text at a time, which takes
    50 % longer than a matmul on a CPU. JAX compiles the einsum and the matmul to the same code.

    With LoRA adapters A and B, the layer computes x W + scale * (x A) B. Keras computes
    x (W + scale * A B), whose backward pass also computes a gradient as large as the frozen W.

    Args:
        dense: `keras.layers.EinsumDense` that maps (n, t, ...) to (n, t, ...).
    """

    def call(inputs, training=None):
        axes = len(inputs.shape) - 2
        if not dense.lora_enabled:
            return ops.tensordot(inputs, dense.kernel, axes=axes) + dense.bias
        outputs = ops.tensordot(inputs, dense._kernel, axes=axes) + dense.bias
        x = ops.tensordot(inputs, dense.lora_kernel_a, axes=axes)
        return outputs + dense.lora_alpha / dense.lora_rank * ops.matmul(x, dense.lora_kernel_b)

    dense.call = call


def patch_lora(layer):
    """Makes a layer with LoRA adapters save and load the adapters beside its plain weights.

    Keras saves the merged kernel, in the compute dtype, and sets both kernels of the adapter to 0
    when it loads them. With two zero kernels, all later gradients of the adapter would be 0.

    Args:
        layer: `keras.layers.Dense` or `keras.layers.EinsumDense` with `lora_enabled`.
    """
    names = ("lora_kernel_a", "lora_kernel_b")
    layer_class = type(layer)

    def save_own_variables(store):
        layer.lora_enabled = False
        layer_class.save_own_variables(layer, store)
        layer.lora_enabled = True
        for name in names:
            store[name] = getattr(layer, name)

    def load_own_variables(store):
        values = {name: getattr(layer, name).numpy() for name in names}
        values |= {name: store[name] for name in names if name in store.keys()}
        layer_class.load_own_variables(layer, store)
        for name, value in values.items():
            getattr(layer, name).assign(value)

    layer.save_own_variables, layer.load_own_variables = save_own_variables, load_own_variables


def remove_lora(layer):
    """Removes the adapters that `enable_lora` added to a layer; Keras has no method for it.

    Args:
        layer: `keras.layers.Dense` or `keras.layers.EinsumDense` with `lora_enabled`, after
            `patch_lora`.
    """
    for name in ("lora_kernel_a", "lora_kernel_b"):
        layer._untrack_variable(getattr(layer, name))
        delattr(layer, name)
    del layer.save_own_variables, layer.load_own_variables
    layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None


def renumber_paths(variables):
    """Makes the paths of the variables of a tower independent of the models built before it.

    Keras adds a number, which counts in the whole process, to the names of layers and variables
    that have no name, such as "dense_3". Weights are stored by path. In the new paths, the number
    of a name counts the different names at the same place of the same tower, from 0.

    Args:
        variables: list of the `keras.Variable` of a tower.
    """
    numbers = {}  # {(parent, name without number): {name: new name}}
    for variable in variables:
        path = ""
        for name in variable.path.split("/"):
            base = _NUMBER.sub("", name)
            known = numbers.setdefault((path, base), {})
            new_name = known.setdefault(name, f"{base}_{len(known)}")
            path += ("/" if path else "") + new_name
        variable._path = path


def prefix_paths(variables, prefix):
    """Makes the paths of variables start with a prefix, as if they were built in its name scope.

    The variable paths of a built backbone are fixed, and two backbones of the same class have the
    same paths. Weights are stored by path. The paths of the second backbone must therefore be
    changed.

    Args:
        variables: list of `keras.Variable`.
        prefix: the prefix, without "/". Paths that already start with the prefix are not changed.
    """
    for variable in variables:
        if not variable.path.startswith(f"{prefix}/"):
            variable._path = f"{prefix}/{variable.path}"


def make_names_unique(towers, defaults):
    """Gives towers with the same name different names, and their variables different paths.

    The variables of the first tower of a modality keep their paths. The variables of any other
    tower get paths that start with the name of the tower.

    Args:
        towers: {name: `keras.Model`}.
        defaults: names of the first tower of each modality.
    """
    known, names = {}, set()
    for name, tower in towers.items():
        if tower.name in names:  # The layers of a functional model need unique names.
            tower.name = f"{name}_tower"
        names.add(tower.name)
        variables = [v for v in tower.variables if known.get(v.path) is not v]
        if name not in defaults or any(v.path in known for v in variables):
            prefix_paths(variables, name)
        known.update((v.path, v) for v in variables)
