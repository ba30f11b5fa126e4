"""Checks whether this machine can train: python tools/doctor.py

Prints the versions of the packages, the devices, the strategies that work, the scripts for which no
font is installed, the free disk space, and whether a small training step runs. The exit code is 0
if the machine can train, and 2 if the machine cannot train. With exit code 2, the output says what
to change.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import time

from absl import flags

from tf_mural.cli import app
from tf_mural.errors import UserError

FLAGS = flags.FlagValues()
_STEP = flags.DEFINE_bool(
    "step", True, "Whether to run a training step (about ten seconds).", flag_values=FLAGS
)
_BACKEND = app.define_backend(FLAGS)

_REQUIRED = ("tensorflow", "tensorflow-text", "keras", "keras-hub", "numpy", "ml_collections")
_OPTIONAL = {
    "tensorboard": "requirements.txt",
    "matplotlib": "requirements.txt",
    "jax": "requirements-jax.txt",
    "libtpu": "requirements-plan.txt",
    "onnxruntime": "requirements-export.txt",
    "gradio": "requirements-demo.txt",
    "faiss-cpu": "requirements-demo.txt",
}
_SCRIPTS = (
    ("fr", "é"),
    ("uk", "ж"),
    ("el", "λ"),
    ("ar", "ع"),
    ("he", "ש"),
    ("hi", "क"),
    ("th", "ก"),
    ("zh", "一"),
    ("ja", "あ"),
    ("ko", "가"),
    ("am", "ሀ"),
    ("ta", "க"),
    ("ka", "ა"),
)
_GIB = 1 << 30
_MIN_SPACE, _LARGE_RUN_SPACE = 1 * _GIB, 10 * _GIB


def main(argv=None):
    """Checks this machine. `argv` is a list of flags; None means the command line."""
    app.parse(FLAGS, argv, __doc__)
    problems = []
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    _check_packages(problems)
    if not problems:
        app.import_tensorflow(_BACKEND.value)
        _print_devices()
        _print_fonts()
    _check_disk(problems)
    if _STEP.value and not problems:
        _check_step(problems)
    if problems:
        print("\nto fix:\n" + "\n".join(f"  {line}" for line in problems))
        raise UserError("this machine cannot train yet")
    print("\nthis machine can train")


def _check_packages(problems):
    for name in (*_REQUIRED, *_OPTIONAL):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in _REQUIRED:
                version = "missing"
                problems.append(app.localize(f"{name} is missing: pip install -r requirements.txt"))
            else:
                version = app.localize(f"not installed; pip install -r {_OPTIONAL[name]}")
        print(f"  {name:<16} {version}")
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        problems.append("Python 3.11 to 3.13 is needed")


def _print_devices():
    import keras

    backend = keras.backend.backend()
    print(f"\nbackend {backend}, {len(os.sched_getaffinity(0))} CPU cores")
    if backend == "jax":
        import jax

        devices = [device for device in jax.devices() if device.platform != "cpu"]
        kinds = {device.device_kind for device in devices}
        has_tpu = any(device.platform == "tpu" for device in devices)
    else:
        import tensorflow as tf

        tpus = tf.config.list_physical_devices("TPU")
        devices = tf.config.list_physical_devices("GPU") + tpus
        kinds = {device.device_type for device in devices}
        has_tpu = bool(tpus)
    listed = f"accelerators: {len(devices)} {', '.join(sorted(kinds))}"
    print(listed if devices else "no accelerator")
    notes = {
        "one": "works",
        "mirrored": "works" if len(devices) > 1 else "the same as one: no second accelerator",
        "multiworker": "works with TF_CONFIG or srun, which define the processes",
        "tpu": "works" if has_tpu else "no TPU on this machine",
    }
    for name, note in notes.items():
        print(f"  --strategy={name:<12} {note}")


def _print_fonts():
    if importlib.util.find_spec("matplotlib") is None:
        print("\nmatplotlib is not installed: no charts and no pictures can be drawn")
        return
    from tf_mural.reports import fonts

    print(f"\nfonts: {fonts.installation_advice(_SCRIPTS) or 'all tested scripts can be drawn'}")


def _check_disk(problems):
    free = shutil.disk_usage(os.getcwd()).free
    print(f"\n{free / _GIB:.0f} GiB free in this folder")
    if free < _MIN_SPACE:
        problems.append(
            "less than 1 GiB is free in this folder: free some space for runs and records"
        )
    elif free < _LARGE_RUN_SPACE:
        print("  enough for size tiny; a checkpoint of size paper takes 6.4 GB")


def _check_step(problems):
    from tf_mural import experiment
    from tf_mural.experiment.config_loading import load_config

    start_time = time.perf_counter()
    try:
        config = load_config("etcl", "tiny")
        config.batch_size = 8
        seconds, loss = experiment.trial_step(config)
    except UserError as error:
        problems.append(str(error))
        return
    except Exception as error:
        problems.append(f"a training step fails ({type(error).__name__}: {str(error)[:200]})")
        return
    print(
        f"\na training step: loss {loss:.3f}, {1000 * seconds:.0f} ms after compilation, "
        f"{time.perf_counter() - start_time:.0f} s in total"
    )
