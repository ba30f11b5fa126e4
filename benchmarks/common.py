"""What the benchmarks say, ask for and write alike."""

import importlib.util
import json
import os
import platform

# For TensorFlow, here and in processes that start from here: quiet, and by oneDNN as in the tools.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

_INSTALL = {"clip_benchmark": "pip install --no-deps clip-benchmark==1.6.2"}  # and otherwise:
_REQUIREMENTS = "pip install -r benchmarks/requirements.txt"


def say(text):
    """Prints a line at once."""
    print(text, flush=True)


def machine():
    """What the numbers are measured on; `load` is that of the last minute, before them."""
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about = {"cpu": model, "cores": cores, "python": platform.python_version(), "load": []}
    return note_load(about)


def note_load(about):
    """Adds the load of the last minute to what `machine` gave."""
    about["load"].append(os.getloadavg()[0])
    return about


def peak(multiply, size, repeats=5):
    """Floating-point operations a second of a product of matrices, the best of a few.

    Args:
        multiply: function of the rows of two square matrices to the seconds of their product.
        size: that many.
    """
    # The first one makes the matrices.
    return 2 * size**3 / min([multiply(size) for _ in range(repeats + 1)][1:])


def picked(parser, flag, text, known):
    """The names that a flag lists, parted by commas; `parser` refuses those that are not known."""
    names = [name for name in text.split(",") if name]
    if unknown := set(names) - set(known):
        parser.error(f"{flag}: unknown {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return names


def missing(packages):
    """Which of the packages are missing and how they are installed, or "" where all are there."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    ways = dict.fromkeys(_INSTALL.get(name, _REQUIREMENTS) for name in absent)
    return f"{' and '.join(absent)} missing: {' and '.join(ways)}" if absent else ""


def require(parser, packages):
    """`parser` refuses to go on without the packages, but for --no-peer."""
    if absent := missing(packages):
        parser.error(f"{absent}, or pass --no-peer")


def tell(about, lines, path, **results):
    """Prints the table, and writes the numbers where a file was asked for.

    Args:
        about: of `machine`.
        lines: for people.
        path: of the JSON file, or None.
        **results: what it has beside "machine".
    """
    say("\n".join([f"\n{about['cpu']}, {about['cores']} cores", *lines]))
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"machine": about, **results}, file, indent=1)
            file.write("\n")
        say(f"wrote {path}")
