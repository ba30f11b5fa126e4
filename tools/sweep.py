"""Trains a list of runs, one after another, and sets them in one table.

    python tools/sweep.py configs/sweeps/table5.py
    python tools/sweep.py configs/sweeps/table7.py --seeds=0,1

A sweep is a file of plain data: what it holds is told in configs/sweeps/__init__.py. Each run goes
through tools/train.py in a process of its own, in runs/sweeps/<sweep>/<row>-s<seed>; what is
finished is not done again, so the same command goes on where it was stopped. The table is printed
after every seed, and written to table.md and sweep.json in the sweep's folder.
"""

import os
import time

import common
import sweeps
from absl import flags

from tf_mural.errors import UserError

_SWEEP = flags.DEFINE_string("sweep", None, "The file of the sweep. Required.")
_SEEDS = flags.DEFINE_list("seeds", None, "Seeds, parted by commas. Default: those of the sweep.")
_SIZE = flags.DEFINE_string("size", "tiny", "Size of all runs, see tools/train.py.")
_OUT_DIR = flags.DEFINE_string(
    "out_dir", None, "Folder of the runs and the table. Default: runs/sweeps/<name of the sweep>."
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.")


def main():
    if not _SWEEP.value:
        raise UserError("say which sweep: python tools/sweep.py configs/sweeps/table5.py")
    sweep = sweeps.load(_SWEEP.value)
    name = os.path.splitext(os.path.basename(_SWEEP.value))[0]
    out_dir = _OUT_DIR.value or os.path.join("runs", "sweeps", name)
    seeds = [_seed(text) for text in _SEEDS.value] if _SEEDS.value else list(sweep.SEEDS)
    total, done, began = len(seeds) * len(sweep.RUNS), 0, time.monotonic()
    results = {row: {} for row in sweep.RUNS}
    for seed in seeds:
        for row, run in sweep.RUNS.items():
            workdir = sweeps.workdir_of(out_dir, row, seed)
            init = sweeps.workdir_of(out_dir, run["init"], seed) if "init" in run else None
            spent = time.monotonic() - began
            left = f", about {spent / done * (total - done) / 60:.0f} min left" if done else ""
            print(f"[{done + 1}/{total}] {row}, seed {seed}{left}", flush=True)
            sweeps.train(run, workdir, seed, init, _SIZE.value, _DATA_DIR.value)
            results[row][seed] = sweeps.recalls(workdir)
            done += 1
        sweeps.write(out_dir, sweep, results)
    print(f"written to {os.path.join(out_dir, 'table.md')}")


def _seed(text):
    if not text.isdecimal():
        raise UserError(f"--seeds: expected whole numbers, got {text!r}")
    return int(text)


if __name__ == "__main__":
    common.run(main, argument="sweep")
