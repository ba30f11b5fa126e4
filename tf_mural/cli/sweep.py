"""Trains a list of runs one after another and compares them in one table.

    python tools/sweep.py configs/sweeps/table5.py
    python tools/sweep.py configs/sweeps/table7.py --seeds=0,1

A sweep is a Python file of plain data; configs/sweeps/__init__.py describes its content. A separate
process of tools/train.py trains each run in the folder runs/sweeps/<sweep>/<row>-s<seed>. Finished
runs are not trained again; therefore, the same command continues a sweep that was stopped. The
table is printed after each seed, and written to table.md and sweep.json in the folder of the sweep.
"""

import os
import sys
import time

from absl import flags

import tf_mural
from tf_mural.cli import app
from tf_mural.errors import UserError
from tf_mural.experiment import sweep as sweeps

FLAGS = flags.FlagValues()
_SWEEP = flags.DEFINE_string(
    "sweep", None, "Python file of the sweep. Required.", flag_values=FLAGS
)
_SEEDS = flags.DEFINE_list(
    "seeds", None, "Comma-separated seeds. Default: the SEEDS of the sweep.", flag_values=FLAGS
)
_SIZE = flags.DEFINE_string(
    "size", "tiny", "Size of all runs, see --size of tools/train.py.", flag_values=FLAGS
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir",
    None,
    "Folder of the runs and the table. Default: runs/sweeps/<name of the sweep>.",
    flag_values=FLAGS,
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.", flag_values=FLAGS)
# The new process gets the folder of tf_mural on its import path. Therefore the package need not be
# installed.
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(tf_mural.__file__)))
TRAIN_COMMAND, EXTRACT_COMMAND = (
    (
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {_ROOT!r}); "
        f"from tf_mural import cli; cli.run('tf_mural.cli.{name}')",
    )
    for name in ("train", "extract")
)


def main(argv=None):
    """Trains the runs of a sweep. `argv` is a list of flags; None means the command line."""
    app.parse(FLAGS, argv, __doc__, argument="sweep")
    if not _SWEEP.value:
        raise UserError("name the sweep: python tools/sweep.py configs/sweeps/table5.py")
    sweep = sweeps.load_sweep(_SWEEP.value)
    name = os.path.splitext(os.path.basename(_SWEEP.value))[0]
    out_dir = _OUT_DIR.value or os.path.join("runs", "sweeps", name)
    seeds = parse_seeds(_SEEDS.value) if _SEEDS.value else list(sweep.SEEDS)
    for recalls in train_runs(sweep, out_dir, seeds, _SIZE.value, _DATA_DIR.value):
        sweeps.write_table(out_dir, sweep, recalls)
    print(f"written to {os.path.join(out_dir, 'table.md')}")


def train_runs(sweep, out_dir, seeds, size, data_dir):
    """Trains the runs of a sweep that are not finished, seed by seed.

    Args:
        sweep: see `sweeps.load_sweep`.
        out_dir: folder of the runs.
        seeds: list of seeds.
        size: size of all runs, see --size of tools/train.py.
        data_dir: folder of the record sets.

    Yields:
        {row: {seed: {language: average recall in percent}}} of the seeds so far, after each seed.
    """
    num_runs, num_done, start_time = len(seeds) * len(sweep.RUNS), 0, time.monotonic()
    recalls = {row: {} for row in sweep.RUNS}
    for seed in seeds:
        for row, run in sweep.RUNS.items():
            workdir = sweeps.run_workdir(out_dir, row, seed)
            init = sweeps.run_workdir(out_dir, run["init"], seed) if "init" in run else None
            remaining = ""
            if num_done:
                minutes = (time.monotonic() - start_time) / num_done / 60
                remaining = f", about {minutes * (num_runs - num_done):.0f} min left"
            print(f"[{num_done + 1}/{num_runs}] {row}, seed {seed}{remaining}", flush=True)
            vectors = None
            if "vectors" in run:
                vectors = sweeps.extract_vectors(EXTRACT_COMMAND, run, init, data_dir)
            options = (workdir, seed, init, size, data_dir, vectors)
            sweeps.train_run(TRAIN_COMMAND, run, *options)
            recalls[row][seed] = sweeps.average_recalls(workdir)
            num_done += 1
        yield recalls


def parse_seeds(texts):
    """Returns the seeds of a flag --seeds as a list of integers."""
    return [_parse_seed(text) for text in texts]


def _parse_seed(text):
    if not text.isdecimal():
        raise UserError(f"--seeds: expected whole numbers, got {text!r}")
    return int(text)
