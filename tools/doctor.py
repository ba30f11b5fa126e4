"""Says what this machine can do: python tools/doctor.py

Versions of the packages, devices, the strategies that will work, fonts for the scripts that charts
and sheets write, room on the disk, and whether a small training step runs. Exit code 0 where all
that training needs is there, 2 where something is not; the lines say what to do.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import time

import common
from absl import flags

from tf_mural.errors import UserError

_STEP = flags.DEFINE_bool("step", True, "Whether to run a training step (about ten seconds).")
_BACKEND = common.define_backend()
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
)
_SCRIPTS += (("zh", "一"), ("ja", "あ"), ("ko", "가"), ("am", "ሀ"), ("ta", "க"), ("ka", "ა"))
_ROOM = 10 << 30  # bytes that the checkpoints of a larger run take


def main():
    wrong = []
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    packages(wrong)
    if not wrong:
        common.import_tensorflow(_BACKEND.value)
        devices()
        fonts()
    room(wrong)
    if _STEP.value and not wrong:
        step(wrong)
    if wrong:
        print("\nto be mended:\n" + "\n".join(f"  {line}" for line in wrong))
        raise UserError("this machine cannot train yet")
    print("\nall that training needs is there")


def packages(wrong):
    for name in (*_REQUIRED, *_OPTIONAL):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in _REQUIRED:
                version = "missing"
                wrong.append(f"{name} is missing: pip install -r requirements.txt")
            else:
                version = f"not here; pip install -r {_OPTIONAL[name]}"
        print(f"  {name:<16} {version}")
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        wrong.append("Python 3.11 to 3.13 is needed, for the versions that requirements.txt pins")


def devices():
    import keras

    print(f"\nbackend {keras.backend.backend()}, {len(os.sched_getaffinity(0))} cores of a CPU")
    if keras.backend.backend() == "jax":
        import jax

        found = [d for d in jax.devices() if d.platform != "cpu"]
        kinds = {d.device_kind for d in found}
        tpu = any(d.platform == "tpu" for d in found)
    else:
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU") + tf.config.list_physical_devices("TPU")
        kinds = {device.device_type for device in found}
        tpu = bool(tf.config.list_physical_devices("TPU"))
    print(f"accelerators: {len(found)} {', '.join(sorted(kinds))}" if found else "no accelerator")
    works = {
        "one": "",
        "mirrored": "" if len(found) > 1 else "the same as one: there is one device",
        "multiworker": "with TF_CONFIG or srun, which say who takes part",
        "tpu": "" if tpu else "no TPU is seen here",
    }
    for name, note in works.items():
        print(f"  --strategy={name:<12} {note or 'works'}")


def fonts():
    if importlib.util.find_spec("matplotlib") is None:
        print("\nno matplotlib: charts and sheets are left out")
        return
    from tf_mural.reports import fonts

    print(f"\nfonts: {fonts.advice(_SCRIPTS) or 'every script that was tried can be drawn'}")


def room(wrong):
    free = shutil.disk_usage(os.getcwd()).free
    print(f"\n{free / (1 << 30):.0f} GiB free here")
    if free < 1 << 30:
        wrong.append("less than 1 GiB is free here: runs and records need room (--workdir)")
    elif free < _ROOM:
        print("  that is enough for size tiny; checkpoints of size paper take 6.4 GB each")


def step(wrong):
    import options

    from tf_mural import experiment

    began = time.perf_counter()
    try:
        config = options.load_config("etcl", "tiny")
        config.batch_size = 8
        seconds, loss = experiment.trial_step(config)
    except UserError as error:
        wrong.append(str(error))
        return
    except Exception as error:
        wrong.append(f"a training step fails ({type(error).__name__}: {str(error)[:200]})")
        return
    print(
        f"\na training step: loss {loss:.3f}, {1000 * seconds:.0f} ms once compiled, "
        f"{time.perf_counter() - began:.0f} s in all"
    )


if __name__ == "__main__":
    common.run(main)
