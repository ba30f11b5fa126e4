"""Runs one process of a run in test_multiworker: python multiworker_script.py FOLDER STAGE

Writes FOLDER/RANK.npz with the reduced gradients and the logs of one global batch of a stage, the
results of collective operations, and the embeddings of a distributed embedder.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import keras  # noqa: E402
import numpy as np  # noqa: E402
from helpers import replicas, trainers  # noqa: E402
from helpers.color_records import color_dataset, write_color_records  # noqa: E402

from tf_mural.backends.tensorflow import ProcessGroup, Runner, make_strategy  # noqa: E402
from tf_mural.distributed import DistributedEmbedder  # noqa: E402
from tf_mural.errors import UserError  # noqa: E402
from tf_mural.evaluation.batch_embedder import BadImage  # noqa: E402

WIDTH = 3


class LengthEmbedder:
    """Embeds an item as (length, 0, 1), rejects empty items, and records all lengths."""

    def __init__(self):
        self.lengths = []

    def embed_texts(self, items):
        rows = []
        for position, item in enumerate(items):
            self.lengths.append(len(item))
            if not item:
                raise BadImage(position, "empty")
            rows.append([len(item), 0, 1])
        return np.array(rows, np.float32).reshape(-1, WIDTH)

    embed_images = embed_texts


def embed(processes):
    """Returns the results of `DistributedEmbedder` as {name: array}."""
    local_embedder, out = LengthEmbedder(), {}
    embedder = DistributedEmbedder(local_embedder, processes)
    for count in (0, 1, 7):
        out[f"rows/{count}"] = embedder.embed_texts("x" * (i + 1) for i in range(count))
    out["own lengths"] = np.array(local_embedder.lengths)
    try:
        embedder.embed_images("x" * (i != 5) for i in range(9))
    except UserError as error:
        out["embedder error"] = np.array([str(error), str(error.position)])
    return out


def communicate(processes):
    """Returns the results of the collective operations of `processes` as {name: array}."""
    rank = processes.rank
    try:
        processes.check_consistent({"the place": 1, "the step": 4 + rank}, "do something")
        message = ""
    except UserError as error:
        message = str(error)
    processes.check_consistent({"the weather": "fine"}, "")
    rows = np.arange(6, dtype=np.float32).reshape(3, 2) + 10 * rank
    return {
        "rank and world size": np.array([rank, processes.world_size]),
        "check_consistent": np.array(message),
        "all_gather_object": np.array(processes.all_gather_object("é" * rank)),
        "all_gather": processes.all_gather(rows),
    }


def train_in_loops(strategy, processes, folder):
    """Returns the weights of ETCL after a loop of one step and a loop of two steps."""
    with strategy.scope():
        trainer = trainers.make_trainer("etcl", microbatch=2, loss_chunk=2)
        trainer.compile(optimizer=keras.optimizers.SGD(0.1))
    if processes.is_primary:
        write_color_records(os.path.join(folder, "colors"))
    processes.barrier()
    workers = (processes.rank, processes.world_size)
    runner = Runner(trainer, strategy, color_dataset(folder, 1, workers))
    runner.start(0)
    for count in (1, 2):
        runner.run(count)
    return {f"loops/{name}": value for name, value in trainers.weights_of(trainer).items()}


def main(folder, stage):
    strategy = make_strategy("auto")
    processes = ProcessGroup(strategy)
    out = {**communicate(processes), **embed(processes)}
    trainers.set_precision("float64")
    with strategy.scope():
        trainer = trainers.make_trainer(stage)
    out |= replicas.compute_gradients(strategy, trainer, trainers.make_batch(stage), graph=True)
    if stage == "etcl":
        out |= train_in_loops(strategy, processes, folder)
    np.savez(os.path.join(folder, f"{processes.rank}.npz"), **out)
    processes.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
