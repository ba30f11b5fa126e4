"""Fixtures of all tests: import paths, quiet TensorFlow, small record sets and small runs."""

import dataclasses
import json
import os
import sys

import filelock
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for path in (ROOT, os.path.join(ROOT, "tools")):
    if path not in sys.path:
        sys.path.insert(0, path)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As the commands do, for equal numbers.

# The longest files run first, so that no process is left with one of them at the end.
_LONG = "train grad_cache presets train_pretrained input_pipeline skipped_records".split()


def pytest_collection_modifyitems(items):
    """Moves the tests of the longest files to the front."""
    names = {f"test_{name}.py": place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: names.get(item.path.name, len(names)))


SMALL_SCENES = {"train": 96, "bitext": 132, "test": 12}


@pytest.fixture(scope="session")
def make_once(tmp_path_factory, worker_id):
    """Returns `make_once(name, make)`: a folder that `make(folder)` fills once for all processes.

    Test processes of one session share it, so tests must not write to it.
    """
    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent

    def make_folder(name, make):
        folder, complete = root / name, root / f"{name}.complete"
        with filelock.FileLock(root / f"{name}.lock"):
            if not complete.exists():
                folder.mkdir()
                make(folder)
                complete.touch()
        return folder

    return make_folder


@pytest.fixture(scope="session")
def data_dir(make_once):
    """A data folder with few scenes: 96 to train on, a quarter of them in six languages."""

    def convert(folder):
        from tf_mural import conversion
        from tf_mural.datasets import scenes

        for split, count in SMALL_SCENES.items():
            options = {"count": count, "units": 2}
            conversion.convert(
                scenes, "scenes", None, folder / "scenes", split, options, processes=1, progress=str
            )

    return make_once("data", convert)


@pytest.fixture(scope="session")
def tools():
    """Runs commands, see `helpers.command_server`."""
    from helpers.command_server import CommandServer

    tools = CommandServer()
    yield tools
    tools.close()


# MURAL in six steps, with everything that a resume could get wrong.
SMALL_RUN = (
    "--stage=mural",
    "--strategy=one",
    "--config.batch_size=8",
    "--config.steps=6",
    "--config.optimizer.warmup_steps=2",
    "--config.model.text.dropout=0.1",
    "--config.model.image.stochastic_depth=0.2",
    "--config.log_every=1",
    "--config.checkpoint_every=2",
    "--config.evaluate_every=3",
    "--config.evaluation.retrieval.languages=en,de,ko",
    "--config.report.show=0",
)


@pytest.fixture(scope="session")
def finished(tools, data_dir, make_once):
    """(workdir, output) of a small run that `tools/train.py` trained to its end."""

    def train(folder):
        arguments = (*SMALL_RUN, f"--data_dir={data_dir}", f"--workdir={folder / 'run'}")
        output = tools.run(folder, "train.py", *arguments)
        (folder / "output.json").write_text(json.dumps(dataclasses.asdict(output)))

    from helpers.command_server import Done

    folder = make_once("finished", train)
    output = json.loads((folder / "output.json").read_text())
    return folder / "run", Done(**output)


@pytest.fixture
def train(tools, data_dir, tmp_path):
    """Runs tools/train.py in a folder of its own, on the small scenes; returns `Done`."""

    def run(*arguments, **how):
        # Of a flag that comes twice, the last one counts.
        return tools.run(tmp_path, "train.py", f"--data_dir={data_dir}", *arguments, **how)

    return run
