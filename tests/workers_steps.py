"""Run by test_workers as each process of a run: python workers_steps.py FOLDER STAGE

Writes <FOLDER>/<number of the process>.npz: the reduced gradients of one global batch of a stage,
the logs, and what the processes told each other.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import replicas  # noqa: E402

from tf_mural.backends.tensorflow import Processes, Runner, make_strategy  # noqa: E402
from tf_mural.distributed import SharedEmbedder  # noqa: E402
from tf_mural.errors import UserError  # noqa: E402
from tf_mural.evaluation.batch_embedder import BadImage  # noqa: E402

WIDTH = 3


class Lengths:
    """An `embed` of known rows, which notes what it was given, and knows no empty item."""

    def __init__(self):
        self.seen = []

    def texts(self, items):
        """Rows of (length, 0, 1)."""
        rows = []
        for position, item in enumerate(items):
            self.seen.append(len(item))
            if not item:
                raise BadImage(position, "empty")
            rows.append([len(item), 0, 1])
        return np.array(rows, np.float32).reshape(-1, WIDTH)

    images = texts


def shared(processes):
    """{name: value} of what a shared embedder gives."""
    embed, out = Lengths(), {}
    of_all = SharedEmbedder(embed, processes)
    for count in (0, 1, 7):
        out[f"rows/{count}"] = of_all.texts("x" * (i + 1) for i in range(count))
    out["seen"] = np.array(embed.seen)
    try:
        of_all.images("x" * (i != 5) for i in range(9))
    except UserError as error:
        out["failure"] = np.array([str(error), str(error.position)])
    return out


def told(processes):
    """{name: value} of what the processes tell each other."""
    number = processes.number
    try:
        processes.agree({"the place": 1, "the step": 4 + number}, "do something")
        failure = ""
    except UserError as error:
        failure = str(error)
    processes.agree({"the weather": "fine"}, "")
    rows = np.arange(6, dtype=np.float32).reshape(3, 2) + 10 * number
    return {
        "number": np.array([number, processes.count]),
        "failure of agreement": np.array(failure),
        "exchange": np.array(processes.exchange("é" * number)),
        "gather": processes.gather(rows),
    }


def in_loops(strategy, processes, folder):
    """{name: weight} after three steps of ETCL in micro-batches, two of them in a loop."""
    with strategy.scope():
        trainer, _ = replicas.trainer_of("etcl")
        trainer.compile(optimizer=keras.optimizers.SGD(0.1))
    trainer.microbatch, trainer.loss_chunk = 2, 2
    if processes.first:
        replicas.records_of_colours(os.path.join(folder, "colours"))
    processes.wait()
    workers = (processes.number, processes.count)
    runner = Runner(trainer, strategy, replicas.dataset_of_colours(folder, 1, workers))
    runner.start(0)
    for count in (1, 2):
        runner.run(count)
    return {f"loops/{name}": value for name, value in replicas.weights_of(trainer).items()}


def main(folder, stage):
    strategy = make_strategy("auto")
    processes = Processes(strategy)
    out = {**told(processes), **shared(processes)}
    replicas.set_precision("float64")
    out |= replicas.gradients(strategy, stage)
    if stage == "etcl":
        out |= in_loops(strategy, processes, folder)
    np.savez(os.path.join(folder, f"{processes.number}.npz"), **out)
    processes.leave()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
