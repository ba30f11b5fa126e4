"""Runs the benchmarks one after another, each in a process of its own, and sets them side by side.

    .venv-bench/bin/python benchmarks/run_all.py --photos=FOLDER --tatoeba=FOLDER --json=all.json
    python benchmarks/run_all.py --quick

What an optional package or a folder is missing for is skipped, with the reason; where only the side
that ours is compared to is missing, ours is measured alone. A part that fails does not stop the
others, but makes the exit code 1.
"""

import argparse
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
from benchmarks.common import machine, missing, note_load, picked, say, tell  # noqa: E402

FOLDERS = {"photos": "of JPEG files", "tatoeba": "of tatoeba.xxx-eng.xxx"}
PARTS = ("step", "input", "tokens", "evaluate", "convert", "checkpoint", "start", "gradcache")
PARTS += ("memory",)


@dataclasses.dataclass(frozen=True)
class Part:
    """One run of a script of this folder.

    Attributes:
        name: in the table and the JSON file; its first word is in `PARTS`.
        script: file name.
        flags: of the script, but for --json.
        peers: packages without which it is run with --no-peer.
        wants: name of `FOLDERS` without which it is skipped, or "".
    """

    name: str
    script: str
    flags: tuple
    peers: tuple = ()
    wants: str = ""


def parts(options):
    """The `Part`s that the flags ask for, those first that take little memory."""
    full, photos, tatoeba = not options.quick, options.photos, options.tatoeba
    made = [
        _part(
            "input",
            "input.py --parts=images,scenes,steps --cases=scenes",
            [f"--photos={photos}"],
            [] if full else "--count=200 --batch=32 --batches=4 --rounds=1 --steps=1",
            peers=("torch", "webdataset"),
            wants="photos",
        ),
        _part(
            "tokens",
            "input.py --parts=tokens --no-peer",
            [f"--tatoeba={tatoeba}"],
            [] if full else "--rounds=1",
            wants="tatoeba",
        ),
        _part(
            "convert",
            "convert.py",
            [f"--images={photos}"] if photos else [],
            [f"--peer={options.img2dataset}"] if options.img2dataset else [],
            [] if full else "--limit=200 --pairs=20000 --rounds=1",
        ),
        _part("start", "overheads.py --cases=", _data(options), f"--starts={3 if full else 1}"),
        _part(
            "checkpoint",
            "checkpoint.py",
            [f"--folder={options.folder}"],
            "--parameters=533e6" if full else "--parameters=2e6 --step=0.05 --rounds=1",
        ),
        _part(
            "memory",
            "memory.py --microbatches=0,256",
            _data(options),
            "--batches=1024,4096" if full else "--batches=512 --steps=1",
        ),
    ]
    for case in options.cases:
        made += _of_case(case, full)
    tiny = "--image=tiny --image_size=64 --text=nano --retrieval_images=500 --rounds=1"
    made.append(
        _part(
            "evaluate",
            "evaluate.py",
            [f"--tatoeba={tatoeba}"] if tatoeba else [],
            [] if full else tiny,
            peers=("torch", "clip_benchmark"),
        )
    )
    return [part for part in made if part.name.split()[0] in options.parts]


def _of_case(case, full):
    steps = "--rounds=1 --steps=3" if case == "b7" or not full else "--steps=5"
    peers, cached = ("torch", "transformers"), f"overheads.py --cases={case} --starts=0"
    return [
        _part(f"step {case}", f"train_step.py --model={case}", steps, peers=peers),
        _part(f"gradcache {case}", cached, [] if full else "--rounds=1"),
    ]


def _part(name, command, *flags, **more):
    """A `Part` of a command line, whose further flags are lists or strings to split."""
    script, *own = command.split()
    for some in flags:
        own += some.split() if isinstance(some, str) else some
    return Part(name, script, tuple(own), **more)


def _data(options):
    return [f"--data_dir={options.data_dir}"]


def run(part, options, scripts=None):
    """Runs a part.

    Args:
        part: `Part`.
        options: the flags, of which the folders are looked at.
        scripts: folder of the scripts; this one by default.

    Returns:
        {"status": "ok", "skipped" or "failed", "note": why, or what was left out, "seconds",
        "command", "found": what the script wrote}, the last three of a part that was run.
    """
    if part.wants and not getattr(options, part.wants):
        note = f"needs --{part.wants}=FOLDER {FOLDERS[part.wants]}"
        return {"status": "skipped", "note": note}
    flags, note = list(part.flags), missing(part.peers)
    if note:
        flags.append("--no-peer")
        note = f"ours alone, {note}"
    script = os.path.join(scripts or os.path.dirname(os.path.abspath(__file__)), part.script)
    with tempfile.TemporaryDirectory() as folder:
        path, began = os.path.join(folder, "found.json"), time.perf_counter()
        # Standard error is TensorFlow's greeting, unless something fails.
        done = subprocess.run(
            [sys.executable, script, *flags, f"--json={path}"], stderr=subprocess.PIPE, text=True
        )
        about = {
            "status": "ok",
            "note": note,
            "seconds": time.perf_counter() - began,
            "command": f"{part.script} {' '.join(flags)}",
        }
        if done.returncode or not os.path.exists(path):
            say(done.stderr[-4000:])
            last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
            return about | {"status": "failed", "note": f"exit code {done.returncode}: {last}"}
        with open(path, encoding="utf-8") as file:
            return about | {"found": json.load(file)}


def parse(arguments=None):
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="minutes: whether all of it works")
    parser.add_argument("--parts", default=",".join(PARTS), help="parted by commas")
    parser.add_argument(
        "--cases",
        help=f"of the step and gradcache, of {','.join(CASES)} (default: all; quick: tiny)",
    )
    for name, what in FOLDERS.items():
        parser.add_argument(f"--{name}", help=f"folder {what}")
    parser.add_argument("--img2dataset", help="a Python that has it, for convert")
    parser.add_argument("--data_dir", default="data", help="folder of the scenes")
    parser.add_argument("--folder", default=".", help="on the disk for checkpoints")
    parser.add_argument("--json", help="file for the numbers")
    options = parser.parse_args(arguments)
    options.parts = picked(parser, "--parts", options.parts, PARTS)
    default = "tiny" if options.quick else ",".join(CASES)
    options.cases = picked(parser, "--cases", options.cases or default, CASES)
    for name in FOLDERS:
        folder = getattr(options, name)
        if folder and not os.path.isdir(folder):
            parser.error(f"--{name}: there is no folder {folder}")
    return options


def main(arguments=None, scripts=None):
    """Runs all parts; returns the exit code."""
    options, about, results = parse(arguments), machine(), {}
    for part in parts(options):
        say(f"== {part.name}")
        results[part.name] = run(part, options, scripts)
        say(f"== {part.name}: {results[part.name]['status']} {results[part.name]['note']}")
        note_load(about)
    found = {name: result["found"] for name, result in results.items() if "found" in result}
    rows = overview.rows(found)
    flags = {key: value for key, value in vars(options).items() if key != "json"}
    lines = overview.table(rows) + overview.notes(results)
    tell(about, lines, options.json, options=flags, rows=rows, parts=results)
    return int(any(result["status"] == "failed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
