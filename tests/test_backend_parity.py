"""Tests that both backends have the same modules, public names and signatures, and act alike."""

import ast
import importlib
import inspect
import os
import pkgutil

import keras
import numpy as np
import pytest

from tf_mural import backends
from tf_mural.backend_functions import BackendFunctions
from tf_mural.backends import tensorflow as tf_backend
from tf_mural.errors import UserError

pytest.importorskip("jax", reason="JAX is not installed: pip install -r requirements-jax.txt")

from tf_mural.backends import jax as jax_backend  # noqa: E402

# Public names that only one backend has. On JAX, `Devices` replaces strategies, and the state can
# be sharded. JAX cannot store int64 ids, which are therefore split. On TensorFlow,
# `sequential_loop` and `slice_part` run loops over micro-batches, for which JAX has `jax.lax.scan`.
_ONLY_JAX = {
    "__init__": {"Devices"},
    "collectives": {"AXIS", "unshard"},
    "step_runner": {"split_ids", "split_int64"},
    "strategy": {"Devices", "current_devices"},
}
_ONLY_TENSORFLOW = {"grad_cache": {"sequential_loop", "slice_part"}}
# Functions whose signatures differ between the backends. On JAX, `reduce_gradients` gets partition
# specs instead of variables, and `concat_parts` gets an array instead of a TensorArray.
_OTHER_SIGNATURES = {("collectives", "reduce_gradients"), ("grad_cache", "concat_parts")}
# Public names that only the trainer of JAX defines, for its stateless step. Keras' signatures of
# the steps also differ: on JAX, a step takes and returns the state.
_STATELESS = {"state_variables", "specs", "stateless_step", "compiled_step", "traced_step"}
_STATELESS |= {"train_step", "test_step"}


def modules(package):
    """Returns {module name: module} of the package of a backend."""
    names = [info.name for info in pkgutil.iter_modules(package.__path__)]
    submodules = {name: importlib.import_module(f"{package.__name__}.{name}") for name in names}
    return {"__init__": package, **submodules}


def public_names(module):
    """Returns `__all__` of a module; without `__all__`, the public names that it defines."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    names = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def parameters(function):
    """Returns [(name, kind, default)] of the parameters of a function."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


MODULES = sorted(modules(tf_backend))


def test_both_backends_have_the_same_files():
    folders = [os.path.dirname(package.__file__) for package in (tf_backend, jax_backend)]
    files = [{f for f in os.listdir(folder) if f.endswith(".py")} for folder in folders]
    assert files[0] == files[1] and len(files[0]) == len(MODULES) >= 8


@pytest.mark.parametrize("name", MODULES)
def test_modules_have_the_same_public_names_and_signatures(name):
    tf_module, jax_module = (modules(package)[name] for package in (tf_backend, jax_backend))
    names = public_names(tf_module) - _ONLY_TENSORFLOW.get(name, set())
    assert names == public_names(jax_module) - _ONLY_JAX.get(name, set())
    assert names
    for attribute in names:
        values = [getattr(module, attribute) for module in (tf_module, jax_module)]
        if callable(values[0]) and (name, attribute) not in _OTHER_SIGNATURES:
            assert parameters(values[0]) == parameters(values[1]), attribute


@pytest.mark.parametrize("name", ["Runner", "Trainer", "ProcessGroup"])
def test_classes_have_the_same_public_methods_and_signatures(name):
    tf_class, jax_class = (getattr(package, name) for package in (tf_backend, jax_backend))

    def methods(cls):
        return {k for k in vars(cls) if not k.startswith("_")} - _STATELESS

    assert methods(tf_class) == methods(jax_class)
    for method in methods(tf_class):
        values = [getattr(cls, method) for cls in (tf_class, jax_class)]
        if inspect.isfunction(values[0]):
            assert parameters(values[0]) == parameters(values[1]), method


def test_both_trainers_hand_over_functions_with_the_same_signatures():
    functions = [
        package.Trainer._backend_functions(object.__new__(package.Trainer))
        for package in (tf_backend, jax_backend)
    ]
    for field in BackendFunctions.__dataclass_fields__:
        tf_function, jax_function = (getattr(group, field) for group in functions)
        assert parameters(tf_function) == parameters(jax_function), field


def test_both_backends_have_the_same_strategies_and_refuse_others():
    assert list(tf_backend.STRATEGIES) == list(jax_backend.STRATEGIES)
    for package in (tf_backend, jax_backend):
        with pytest.raises(UserError, match="unknown strategy 'miror'"):
            package.make_strategy("miror")


def test_the_backend_of_keras_is_selected(monkeypatch):
    assert backends.backend_module() is tf_backend
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert backends.backend_module() is jax_backend
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(UserError, match="unknown backend of Keras 'torch'; known: tensorflow, jax"):
        backends.backend_module()


@pytest.mark.parametrize("rows", [2, 8])
def test_batches_are_split_into_the_same_parts(rows):
    batch = {"x": np.arange(16, dtype=np.float32).reshape(8, 2), "y": np.arange(8)}
    (tf_parts, tf_count), (jax_parts, jax_count) = (
        modules(package)["grad_cache"].split_rows(batch, rows)
        for package in (tf_backend, jax_backend)
    )
    assert tf_count == jax_count == 8 // rows
    for name in batch:
        np.testing.assert_array_equal(tf_parts[name], jax_parts[name])
        assert tf_parts[name].shape == (tf_count, rows, *batch[name].shape[1:])


def test_runners_differ_only_in_who_splits_the_batch():
    # Per step, a process on TensorFlow reads a batch for each of its replicas. A process on JAX
    # reads one batch, and the runner divides it among the replicas.
    assert tf_backend.Runner.batches_per_step(4) == 4
    assert jax_backend.Runner.batches_per_step(4) == 1


def test_options_that_a_backend_does_not_have_are_refused():
    if jax_backend.make_strategy("one").mesh.devices.flat[0].platform != "cpu":
        pytest.skip("JAX has an accelerator")
    for options in ({"shard_optimizer": True}, {"shard_embeddings": True}):
        with pytest.raises(UserError, match="exist only on JAX: choose the backend jax"):
            tf_backend.Trainer(None, (), {}, **options)
    cpu = jax_backend.make_strategy("one")
    with pytest.raises(UserError, match="mixed_float16 on JAX needs a GPU or a TPU"):
        jax_backend.Trainer(None, (), {}, loss_scale=2.0**15, strategy=cpu)
    with pytest.raises(UserError, match="no TPU is available: JAX has only cpu devices"):
        jax_backend.make_strategy("tpu")
    with pytest.raises(
        UserError, match="`tpu=node-1`: the JAX backend runs on the TPU's own hosts"
    ):
        jax_backend.make_strategy("tpu", "node-1")
