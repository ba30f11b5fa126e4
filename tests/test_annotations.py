"""Every function and method of the documented API has type annotations."""

import inspect
import typing

import pytest

import tf_mural

# The other names of the modules `models` and `presets` are not part of the documented API.
SUBMODULES = ("data", "losses", "metrics", "optimizers")
# Methods that Keras calls, whose arguments Keras documents, and `compute_objective`, which only
# subclasses of the trainers override.
HOOKS = (
    "build",
    "call",
    "compile_from_config",
    "compute_objective",
    "compute_output_shape",
    "from_config",
    "get_compile_config",
    "get_config",
    "update_step",
)
# The trainers of the backends contain no methods for users, only steps that Keras calls.
BACKENDS = ("tf_mural.backends.jax", "tf_mural.backends.tensorflow")


@pytest.mark.parametrize("name", [*tf_mural._MODULES, *SUBMODULES])
def test_public_functions_have_type_annotations(name):
    functions = dict(public_functions(name))
    assert functions
    missing = {path: names for path, value in functions.items() if (names := unannotated(value))}
    assert not missing


def public_functions(name):
    """Yields (name, function) of the functions and methods in a public name of the package."""
    value = getattr(tf_mural, name)
    if not inspect.ismodule(value):
        yield from functions_of(name, value)
        return
    for key in getattr(value, "__all__", None) or vars(value):
        member = getattr(value, key)
        is_own = getattr(member, "__module__", "").startswith(value.__name__)
        if is_own and not key.startswith("_"):
            yield from functions_of(f"{name}.{key}", member)


def functions_of(path, value):
    if inspect.isfunction(value):
        yield path, value
    if not inspect.isclass(value):
        return
    for cls in value.__mro__:
        if cls.__module__.startswith("tf_mural") and not cls.__module__.startswith(BACKENDS):
            yield from ((f"{path}: {cls.__name__}.{key}", method) for key, method in methods(cls))


def methods(cls):
    for name, value in vars(cls).items():
        is_hook = name in HOOKS and cls.__base__ is not object  # `Preprocessing` is no Keras class.
        if is_hook or name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        if isinstance(value, property):
            value = value.fget
        value = getattr(value, "__func__", getattr(value, "func", value))
        if inspect.isfunction(value):
            yield name, value


def unannotated(function):
    """Returns the parameters without annotation, and "return"; also resolves the annotations."""
    hints = typing.get_type_hints(function)
    names = set(inspect.signature(function).parameters) - {"self", "cls"}
    if function.__name__ != "__init__":
        names.add("return")
    return sorted(names - set(hints))
