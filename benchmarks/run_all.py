"""Runs all benchmarks in turn, each in a process of its own, and prints one table.

    .venv-bench/bin/python benchmarks/run_all.py --photos=FOLDER --tatoeba=FOLDER --json=all.json
    python benchmarks/run_all.py --quick

A part whose packages or folders are missing is skipped, and the reason is printed. A peer is a
package that a part compares with this package. If only packages of the peer are missing, the part
measures this package without a comparison. If a part fails, the other parts still run, and the exit
code is 1.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks import overview  # noqa: E402
from benchmarks.cases import CASES  # noqa: E402
from benchmarks.common import (  # noqa: E402
    append_load,
    log,
    machine_info,
    make_parser,
    missing_packages,
    parse_names,
    report,
)

FOLDERS = {"photos": "of JPEG files", "tatoeba": "of tatoeba.xxx-eng.xxx"}
PARTS = ("step", "input", "tokens", "evaluate", "convert", "checkpoint", "start", "gradcache")
PARTS += ("memory",)


@dataclasses.dataclass(frozen=True)
class Part:
    """One run of a script in this folder.

    Attributes:
        name: name in the table and the JSON file; its first word is in `PARTS`.
        script: file name.
        flags: flags of the script without --json.
        peer_packages: packages that the comparison needs. If a package is missing, the script runs
            with --no-peer.
        required_folder: key of `FOLDERS`; "": the part needs no folder. The part is skipped if the
            user does not give the flag of this folder.
    """

    name: str
    script: str
    flags: tuple
    peer_packages: tuple = ()
    required_folder: str = ""


def parts(options):
    """Returns the requested `Part`s; those that need little memory come first."""
    full, photos, tatoeba = not options.quick, options.photos, options.tatoeba
    selected = [
        _make_part(
            "input",
            "input.py --parts=images,scenes,steps --cases=scenes",
            [f"--photos={photos}"],
            [] if full else "--count=200 --batch=32 --batches=4 --rounds=1 --steps=1",
            peer_packages=("torch", "webdataset"),
            required_folder="photos",
        ),
        _make_part(
            "tokens",
            "input.py --parts=tokens --no-peer",
            [f"--tatoeba={tatoeba}"],
            [] if full else "--rounds=1",
            required_folder="tatoeba",
        ),
        _make_part(
            "convert",
            "convert.py",
            [f"--images={photos}"] if photos else [],
            [f"--peer={options.img2dataset}"] if options.img2dataset else [],
            [] if full else "--limit=200 --pairs=20000 --rounds=1",
        ),
        _make_part(
            "start", "overheads.py --cases=", _data_flags(options), f"--starts={3 if full else 1}"
        ),
        _make_part(
            "checkpoint",
            "checkpoint.py",
            [f"--folder={options.folder}"],
            "--parameters=533e6" if full else "--parameters=2e6 --step=0.05 --rounds=1",
        ),
        _make_part(
            "memory",
            "memory.py --microbatches=0,256",
            _data_flags(options),
            "--batches=1024,4096" if full else "--batches=512 --steps=1",
        ),
    ]
    for case in options.cases:
        selected += _case_parts(case, full)
    tiny = "--image=tiny --image_size=64 --text=nano --retrieval_images=500 --rounds=1"
    selected.append(
        _make_part(
            "evaluate",
            "evaluate.py",
            [f"--tatoeba={tatoeba}"] if tatoeba else [],
            [] if full else tiny,
            peer_packages=("torch", "clip_benchmark"),
        )
    )
    return [part for part in selected if part.name.split()[0] in options.parts]


def _case_parts(case, full):
    steps = "--rounds=1 --steps=3" if case == "b7" or not full else "--steps=5"
    packages, command = ("torch", "transformers"), f"overheads.py --cases={case} --starts=0"
    return [
        _make_part(f"step {case}", f"train_step.py --model={case}", steps, peer_packages=packages),
        _make_part(f"gradcache {case}", command, [] if full else "--rounds=1"),
    ]


def _make_part(name, command, *flags, **attributes):
    """Returns the `Part` of a command line.

    *flags: further flags of the command, as lists, or as strings with spaces between the flags.
    """
    script, *arguments = command.split()
    for group in flags:
        arguments += group.split() if isinstance(group, str) else group
    return Part(name, script, tuple(arguments), **attributes)


def _data_flags(options):
    return [f"--data_dir={options.data_dir}"]


def run(part, options, scripts=None):
    """Runs a part.

    Args:
        part: `Part`.
        options: parsed flags, for the folders.
        scripts: folder of the scripts. Defaults to the folder of this file.

    Returns:
        {"status": one of "ok", "skipped" and "failed", "note": the reason, or the omitted peer}.
        If the part ran, the dict also has the keys "seconds" and "command". If the part succeeded,
        the dict also has the key "results", the content of the JSON file of the part.
    """
    folder = part.required_folder
    if folder and not getattr(options, folder):
        note = f"needs --{folder}=FOLDER {FOLDERS[folder]}"
        return {"status": "skipped", "note": note}
    flags, note = list(part.flags), missing_packages(part.peer_packages)
    if note:
        flags.append("--no-peer")
        note = f"without peer, {note}"
    script = os.path.join(scripts or os.path.dirname(os.path.abspath(__file__)), part.script)
    with tempfile.TemporaryDirectory() as folder:
        path, began = os.path.join(folder, "results.json"), time.perf_counter()
        # Standard error contains messages of TensorFlow; it is printed only after a failure.
        process = subprocess.run(
            [sys.executable, script, *flags, f"--json={path}"], stderr=subprocess.PIPE, text=True
        )
        result = {
            "status": "ok",
            "note": note,
            "seconds": time.perf_counter() - began,
            "command": f"{part.script} {' '.join(flags)}",
        }
        if process.returncode or not os.path.exists(path):
            log(process.stderr[-4000:])
            last = (process.stderr.strip().splitlines() or ["no message"])[-1]
            return result | {"status": "failed", "note": f"exit code {process.returncode}: {last}"}
        with open(path, encoding="utf-8") as file:
            return result | {"results": json.load(file)}


def parse(arguments=None):
    """Parses the flags."""
    parser = make_parser(__doc__, PARTS)
    parser.add_argument(
        "--quick", action="store_true", help="a run of minutes that shows whether all parts work"
    )
    parser.add_argument(
        "--cases",
        help=f"of step and gradcache: {','.join(CASES)} (default: all; with --quick: tiny)",
    )
    for name, content in FOLDERS.items():
        parser.add_argument(f"--{name}", help=f"folder {content}")
    parser.add_argument("--img2dataset", help="path of a Python with img2dataset, for convert")
    parser.add_argument("--data_dir", default="data", help="folder of the scenes data set")
    parser.add_argument("--folder", default=".", help="folder on the disk for checkpoints")
    options = parser.parse_args(arguments)
    options.parts = parse_names(parser, "--parts", options.parts, PARTS)
    default = "tiny" if options.quick else ",".join(CASES)
    options.cases = parse_names(parser, "--cases", options.cases or default, CASES)
    for name in FOLDERS:
        folder = getattr(options, name)
        if folder and not os.path.isdir(folder):
            parser.error(f"--{name}: the folder {folder} does not exist")
    return options


def main(arguments=None, scripts=None):
    """Runs all parts; returns the exit code."""
    options, info, results = parse(arguments), machine_info(), {}
    for part in parts(options):
        log(f"== {part.name}")
        results[part.name] = run(part, options, scripts)
        log(f"== {part.name}: {results[part.name]['status']} {results[part.name]['note']}")
        append_load(info)
    contents = {name: r["results"] for name, r in results.items() if "results" in r}
    rows = overview.make_rows(contents)
    flags = {key: value for key, value in vars(options).items() if key != "json"}
    lines = overview.table(rows) + overview.notes(results)
    report(info, lines, options.json, options=flags, rows=rows, parts=results)
    return int(any(result["status"] == "failed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
