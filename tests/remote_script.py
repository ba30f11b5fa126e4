"""Training and evaluation on a remote file system, for test_remote: remote_script.py DATA_DIR

Trains MURAL with a stop after the first step, trains ETCL from the weights of MURAL, and evaluates
ETCL. The workdirs are on TensorFlow's in-memory file system, which exists only in this process.
"""

import os
import signal
import sys

TESTS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(TESTS), TESTS]

from tf_mural import file_io  # noqa: E402
from tf_mural.cli import evaluate, train  # noqa: E402
from tf_mural.errors import UserError  # noqa: E402
from tf_mural.training.checkpoints import Lock  # noqa: E402
from tf_mural.training.preemption import Preempted, SignalHandler  # noqa: E402

MURAL, ETCL = "ram://bucket/runs/mural", "ram://bucket/runs/etcl"


def run(stage, workdir, data_dir, received=0, init=None):
    """Trains a stage.

    Args:
        stage, workdir, data_dir, init: values of the flags of tools/train.py.
        received: number of a signal that the run treats as received before the first step, or 0.
    """
    arguments = [
        f"--stage={stage}",
        f"--workdir={workdir}",
        f"--data_dir={data_dir}",
        f"--config={TESTS}/small_config.py",
        "--config.evaluate_every=2",
        "--config.keep_best=retrieval/*/average_recall",
    ]
    with SignalHandler() as signals:
        signals.received = received
        train.run(signals, arguments + ([f"--init={init}"] if init else []))


def main(data_dir):
    try:
        run("mural", MURAL, data_dir, received=signal.SIGTERM)
        raise AssertionError("the run did not stop")
    except Preempted as preempted:
        print(preempted)
    with Lock(MURAL):
        try:
            run("mural", MURAL, data_dir)
            raise AssertionError("two processes had the lock")
        except UserError as error:
            print(error)
    run("mural", MURAL, data_dir)
    run("etcl", ETCL, data_dir, init=MURAL)
    print("files:", *file_io.listdir(MURAL))
    print("best:", *file_io.listdir(f"{MURAL}/best"))
    print("events:", *file_io.listdir(f"{MURAL}/tensorboard"))
    print("step:", file_io.read_json(f"{MURAL}/results.json")["best"]["step"])
    model = [f"--model={ETCL}/best", f"--data_dir={data_dir}"]
    evaluate.main([*model, "--task=retrieval", "--records=scenes/test", "--languages=en"])


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    main(*sys.argv[1:])
