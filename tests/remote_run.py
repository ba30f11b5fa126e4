"""Run by test_remote: python remote_run.py DATA_DIR

Trains MURAL, with a stop after its first step, on a remote file system (that of TensorFlow in
memory, which lives as long as the process); ETCL from there; and scores it.
"""

import os
import runpy
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.join(os.path.dirname(HERE), "tools")
sys.path[:0] = [TOOLS, os.path.dirname(HERE), HERE]

import train  # noqa: E402
from absl import flags  # noqa: E402

from tf_mural import file_io  # noqa: E402
from tf_mural.errors import UserError  # noqa: E402
from tf_mural.training.checkpoints import Lock  # noqa: E402
from tf_mural.training.preemption import Signals, Stopped  # noqa: E402

MURAL, ETCL = "ram://bucket/runs/mural", "ram://bucket/runs/etcl"


def run(stage, workdir, data_dir, received=0, init=None):
    arguments = [f"--stage={stage}", f"--workdir={workdir}", f"--data_dir={data_dir}"]
    arguments += [f"--config={HERE}/workers_config.py"] + ([f"--init={init}"] if init else [])
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["train.py", *arguments])
    train.OVERRIDES = ["--config.evaluate_every=2", "--config.keep_best=retrieval/*/average_recall"]
    with Signals() as signals:
        signals.received = received
        train.run(signals)


def main(data_dir):
    try:
        run("mural", MURAL, data_dir, received=signal.SIGTERM)
        raise AssertionError("it was not stopped")
    except Stopped as stopped:
        print(stopped)
    with Lock(MURAL):
        try:
            run("mural", MURAL, data_dir)
            raise AssertionError("two at once")
        except UserError as error:
            print(error)
    run("mural", MURAL, data_dir)
    run("etcl", ETCL, data_dir, init=MURAL)
    print("files:", *file_io.names(MURAL))
    print("best:", *file_io.names(f"{MURAL}/best"))
    print("events:", *file_io.names(f"{MURAL}/tensorboard"))
    print("step:", file_io.read_json(f"{MURAL}/results.json")["best"]["step"])
    sys.argv = ["evaluate.py", f"--model={ETCL}/best", f"--data_dir={data_dir}"]
    sys.argv += ["--task=retrieval", "--records=scenes/test", "--languages=en"]
    for name in ("data_dir", "backend"):  # evaluate.py defines them too
        delattr(flags.FLAGS, name)
    runpy.run_path(os.path.join(TOOLS, "evaluate.py"), run_name="__main__")


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    main(*sys.argv[1:])
