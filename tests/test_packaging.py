"""The wheel: its files, its requirements, and the command `tf-mural` in a new environment."""

import csv
import email
import glob
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile

import pytest
from conftest import ROOT
from packaging import requirements

import tf_mural

pytest.importorskip("setuptools", "77", reason="pip install -r requirements-test.txt")

SOURCES = ("tf_mural", "configs", "pyproject.toml", "README.md", "LICENSE")


def files_of(folder, *suffixes):
    """Returns the sorted paths of the files in a folder, relative to the folder."""
    paths = glob.glob(os.path.join(ROOT, folder, "**", "*"), recursive=True)
    paths = [os.path.relpath(p, os.path.join(ROOT, folder)) for p in paths if os.path.isfile(p)]
    return sorted(p for p in paths if p.endswith(suffixes) and "__pycache__" not in p)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Path of a wheel.

    The wheel is built from a copy of the sources, because the build writes files to their folder.
    """
    folder = tmp_path_factory.mktemp("wheel")
    for name in (*SOURCES, *map(os.path.basename, glob.glob(f"{ROOT}/requirements*.txt"))):
        path, copy = os.path.join(ROOT, name), folder / "source" / name
        copy.parent.mkdir(exist_ok=True)
        (shutil.copytree if os.path.isdir(path) else shutil.copy)(path, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--no-index", "--wheel-dir", str(folder), str(folder / "source")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return next(str(path) for path in folder.glob("*.whl"))


def read(wheel, pattern):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if re.search(pattern, name))
        return archive.read(name).decode()


def test_wheel_contains_package_and_configs_and_nothing_else(wheel):
    names = [row[0] for row in csv.reader(io.StringIO(read(wheel, "RECORD$")))]
    package = [name.removeprefix("tf_mural/") for name in names if name.startswith("tf_mural/")]
    assert all(
        name.startswith(("tf_mural/", f"tf_mural-{tf_mural.__version__}.dist-info/"))
        for name in names
    )
    own = [path for path in files_of("tf_mural", "") if not path.startswith("configs/")]
    assert sorted(package) == sorted(own + [f"configs/{path}" for path in files_of("configs", "")])
    assert {"datasets/scenes/vocab.txt", "reports/numbers/paper.json"} <= set(package)
    assert read(wheel, "top_level.txt$").split() == ["tf_mural"]
    # The wheel contains configs/__init__.py, and not the tf_mural/configs/__init__.py of a clone.
    with open(os.path.join(ROOT, "configs", "__init__.py"), encoding="utf-8") as file:
        assert read(wheel, "^tf_mural/configs/__init__.py$") == file.read()


def test_extras_are_the_requirements_files(wheel):
    expected = {}
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        extras = tomllib.load(file)["tool"]["setuptools"]["dynamic"]["optional-dependencies"]
    assert set(extras) == {"beam", "convert", "demo", "export", "jax", "notebooks", "remote"}
    for extra in (None, *extras):
        with open(os.path.join(ROOT, f"requirements{f'-{extra}' * bool(extra)}.txt")) as file:
            lines = [line.strip() for line in file if not line.startswith("#")]
        expected[extra] = lines
    given = {}
    for line in email.message_from_string(read(wheel, "METADATA$")).get_all("Requires-Dist"):
        name, extra = re.fullmatch(r"(.*?)(?:(?:;| and) extra == \"(\w+)\")?", line).groups()
        given.setdefault(extra, []).append(name)
    assert given == expected


def test_requirements_of_tpus_include_all_requirements():
    def names(path):
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            return {re.match(r"[\w-]+", line)[0] for line in file if not line.startswith("#")}

    missing = names("requirements.txt") - names("requirements-tpu.txt")
    assert missing == {"tensorflow"}  # requirements-tpu.txt lists tensorflow-tpu instead


@pytest.mark.parametrize("version, jax", [("3.11", "0.10.2"), ("3.12", "0.12"), ("3.13", "0.12")])
def test_each_version_of_python_gets_one_version_of_jax_and_libtpu(version, jax):
    pins = {}
    for path in ("requirements-jax.txt", "requirements-plan.txt"):
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            lines = [line.strip() for line in file if line.strip() and line[0] not in "#-"]
        for requirement in map(requirements.Requirement, lines):
            if requirement.marker.evaluate({"python_version": version}):
                pins.setdefault(requirement.name, []).append(str(requirement.specifier))
    assert {name: len(versions) for name, versions in pins.items()} == dict(
        jax=1, jaxlib=1, libtpu=1
    )
    assert pins["jax"] == pins["jaxlib"] and pins["jax"][0].startswith(f"=={jax}")


# --- the command of an installed package ----------------------------------------------------------


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Function that runs a program of a new environment in an empty folder.

    The new environment contains the wheel, and the packages of the environment that runs the tests,
    but not the clone.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    own = next((folder / "venv" / "lib").glob("*/site-packages"))
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (own / "tests.pth").write_text("\n".join(packages) + "\n")
    command = [sys.executable, "-m", "pip", "--quiet", "--python", str(python), "install"]
    done = subprocess.run(
        [*command, "--no-deps", "--no-index", wheel], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    (folder / "work").mkdir()

    def run(program, *arguments):
        done = subprocess.run(
            [folder / "venv" / "bin" / program, *arguments],
            cwd=folder / "work",
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        return done.returncode, done.stdout, done.stderr

    run.folder = folder / "work"
    return run


SHAPES = """
from tf_mural.configs.examples import own

def get_config(stage):
    return own.get_config(stage, "scenes")
"""


@pytest.mark.slow
def test_installed_command_finds_package_and_configs(installed):
    code = "import tf_mural.configs.examples.own as own; print(own.__file__)"
    _, out, err = installed("python", "-c", code)
    assert f"{os.sep}venv{os.sep}" in out, err
    code, out, err = installed("tf-mural", "convert", "--list")
    assert (code, err) == (0, "") and out.startswith("auto: ")
    code, out, err = installed("tf-mural", "build-vocab", "--help")
    assert code == 0 and "    tf-mural build-vocab --records=" in out and "tools/" not in out
    code, out, err = installed("tf-mural", "search", "a")
    assert (code, err) == (
        2,
        "error: --index is missing: name the folder that tf-mural index wrote\n",
    )
    code, out, err = installed("python", "-c", "import configs")
    assert code == 1 and "No module named 'configs'" in err


@pytest.mark.slow
def test_installed_command_trains_from_an_empty_folder(installed):
    """Trains MURAL and ETCL on generated scenes, then MURAL with a config file of the user."""
    short = ("--config.steps=2", "--config.batch_size=8", "--config.optimizer.warmup_steps=0")
    code, out, err = installed("tf-mural", "train", "--stage=mural", *short)
    assert code == 0, err
    alone = ("--config.report.compare_with=", "--config.report.control=none")
    etcl = ("--stage=etcl", "--init=runs/tiny/mural-s0")
    code, out, err = installed("tf-mural", "train", *etcl, *short, *alone)
    assert code == 0, err
    results = installed.folder / "runs/tiny/etcl-s0/results.json"
    assert json.loads(results.read_text())["steps"] == 2
    (installed.folder / "shapes.py").write_text(SHAPES)
    shutil.copy(installed.folder / "runs/tiny/mural-s0/vocab.txt", installed.folder / "data/scenes")
    own = (
        "--config=shapes.py",
        "--stage=mural",
        "--config.evaluation.retrieval.records=scenes/test",
    )
    code, out, err = installed("tf-mural", "train", *own)
    assert code == 0, err
    assert (installed.folder / "runs/scenes/mural-s0/results.json").is_file()
