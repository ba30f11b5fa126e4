"""Output, checks and machine information that all benchmarks share."""

import argparse
import importlib.util
import json
import os
import platform

# In this process and its children, TensorFlow prints few messages, and uses oneDNN as in the
# commands of the folder tools.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

_INSTALL_COMMANDS = {"clip_benchmark": "pip install --no-deps clip-benchmark==1.6.2"}
_DEFAULT_INSTALL_COMMAND = "pip install -r benchmarks/requirements.txt"


def log(text):
    """Prints a line and flushes stdout."""
    print(text, flush=True)


def machine_info():
    """Returns {"cpu", "cores", "python", "load"}; `load` is a list, see `append_load`."""
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = {"cpu": model, "cores": cores, "python": platform.python_version(), "load": []}
    return append_load(info)


def append_load(info):
    """Appends the load average of the last minute to the result of `machine_info`."""
    info["load"].append(os.getloadavg()[0])
    return info


def peak_flops(time_matmul, size, repeats=5):
    """Returns the floating-point operations per second of the fastest of several matrix products.

    Args:
        time_matmul: callable from the number of rows of two square matrices to the seconds that
            their product takes.
        size: number of rows of the matrices.
        repeats: number of timed products.
    """
    # The first call also creates the matrices and is not counted.
    seconds = [time_matmul(size) for _ in range(repeats + 1)]
    return 2 * size**3 / min(seconds[1:])


def make_parser(doc, parts=(), default=None):
    """Returns a parser with the flags that all benchmarks have.

    Args:
        doc: docstring of the benchmark, whose first line is the description.
        parts: names of the parts of the benchmark. Without parts, there is no flag --parts.
        default: default of --parts, comma-separated. None: all parts.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    if parts:
        default, names = default or ",".join(parts), ", ".join(parts)
        parser.add_argument("--parts", default=default, help=f"comma-separated: {names}")
    parser.add_argument("--json", help="path of the JSON file")
    return parser


def parse_names(parser, flag, text, valid_names):
    """Returns the names in a comma-separated flag; `parser.error` reports unknown names."""
    names = [name for name in text.split(",") if name]
    if unknown := set(names) - set(valid_names):
        parser.error(
            f"{flag}: unknown {', '.join(sorted(unknown))}; known: {', '.join(valid_names)}"
        )
    return names


def missing_packages(packages):
    """Returns a message that names missing packages and how to install them, or ""."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    commands = dict.fromkeys(
        _INSTALL_COMMANDS.get(name, _DEFAULT_INSTALL_COMMAND) for name in missing
    )
    return f"{' and '.join(missing)} missing: {' and '.join(commands)}" if missing else ""


def require_packages(parser, packages):
    """Calls `parser.error` if packages are missing."""
    if message := missing_packages(packages):
        parser.error(f"{message}, or pass --no-peer")


def report(info, lines, path, **results):
    """Prints a table, and writes the results to a JSON file.

    Args:
        info: result of `machine_info`.
        lines: lines of the table.
        path: path of the JSON file, or None.
        **results: content of the JSON file in addition to "machine".
    """
    log("\n".join([f"\n{info['cpu']}, {info['cores']} cores", *lines]))
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"machine": info, **results}, file, indent=1)
            file.write("\n")
        log(f"wrote {path}")
