"""The notebooks run from top to bottom, define no functions, and install the package on Colab."""

import ast
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT
from helpers import guide_models

nbformat = pytest.importorskip("nbformat", reason="pip install -r requirements-notebooks.txt")
NAMES = sorted(glob.glob(os.path.join(ROOT, "notebooks", "*.ipynb")))
IDS = [os.path.basename(name).removesuffix(".ipynb") for name in NAMES]


def read(path):
    return nbformat.read(path, as_version=4)


def python(cell):
    """Returns the source of a cell, with shell commands replaced by `pass`, for `ast.parse`."""
    lines = cell.source.splitlines()
    return "\n".join(re.sub(r"^(\s*)(\w+ = )?[!%].*", r"\1pass", line) for line in lines)


@pytest.mark.parametrize("path", NAMES, ids=IDS)
def test_a_notebook_calls_and_defines_nothing(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            nodes = list(ast.walk(ast.parse(python(cell))))
            assert not [
                n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Lambda)
            ]


# --- badge and first cell -------------------------------------------------------------------------


def write_first_cells(folder, repository):
    """Runs notebooks/first_cells.py on a copy of the notebooks; returns the folder of the copy."""
    copy = shutil.copytree(os.path.join(ROOT, "notebooks"), folder / "notebooks")
    urls = f'[project.urls]\nRepository = "{repository}"\n' if repository else ""
    (folder / "pyproject.toml").write_text(f'[project]\nname = "tf_mural"\n{urls}')
    subprocess.run([sys.executable, copy / "first_cells.py"], check=True, timeout=60)
    return copy


@pytest.mark.parametrize("path", NAMES, ids=IDS)
def test_badge_and_first_cell_are_those_of_pyproject(path, tmp_path):
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        repository = tomllib.load(file)["project"].get("urls", {}).get("Repository", "")
    copy = write_first_cells(tmp_path, repository)
    with open(path, encoding="utf-8") as file:
        content = file.read()
    assert (copy / os.path.basename(path)).read_text(encoding="utf-8") == content, "make notebooks"
    assert ("colab-badge" in content) == bool(repository)


@pytest.mark.parametrize("path", NAMES, ids=IDS)
def test_an_owner_sets_the_repository_in_one_place(path, tmp_path):
    name, owner = os.path.basename(path), "some-owner/some_name"
    copy = write_first_cells(tmp_path / "set", f"https://github.com/{owner}")
    title, setup = read(copy / name).cells[:2]
    colab = f"https://colab.research.google.com/github/{owner}/blob/main/notebooks/{name}"
    assert title.source.splitlines()[2].endswith(f"({colab})")
    assert f'REPOSITORY = "https://github.com/{owner}"' in setup.source
    # After the address is removed, the notebook equals a notebook that never had an address.
    (tmp_path / "set/pyproject.toml").write_text('[project]\nname = "tf_mural"\n')
    subprocess.run([sys.executable, copy / "first_cells.py"], check=True, timeout=60)
    original = write_first_cells(tmp_path / "unset", "")
    assert (copy / name).read_bytes() == (original / name).read_bytes()


# Program that runs a cell as on Colab: google.colab is imported, and tf_mural is not installed.
COLAB = """
import sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
sys.path = [path for path in sys.path if path != {root!r}]
from IPython.core.interactiveshell import InteractiveShell
result = InteractiveShell.instance().run_cell({source!r})
print("raised", repr(result.error_in_exec))
"""


@pytest.fixture
def colab(tmp_path):
    """Function that runs the first cell of a notebook and returns its output.

    In place of `pip` and `git`, the cell runs programs that only print their arguments.
    """
    pytest.importorskip("IPython", reason="pip install -r requirements-notebooks.txt")
    for program in ("pip", "git"):
        script = tmp_path / "bin" / program
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\necho ran {program} "$@"\n')
        script.chmod(0o755)
    paths = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PATH": paths}

    def run(source, *files):
        folder = tmp_path / "content"
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
        folder.mkdir(exist_ok=True)
        code = COLAB.format(root=ROOT, source=source)
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env=environment | {"IPYTHONDIR": str(tmp_path / "ipython")},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("path", NAMES, ids=IDS)
def test_first_cell_installs_a_wheel_on_colab(path, colab):
    source = read(path).cells[1].source
    extra = "[jax]" if "tpu" in path else ""
    output = colab(source, "tf_mural-0.1.0-py3-none-any.whl")
    assert f"ran pip install -q tf_mural-0.1.0-py3-none-any.whl{extra}\n" in output
    assert "raised None" in output and "git" not in output


def test_first_cell_finds_a_wheel_on_drive_and_a_repository(colab, tmp_path):
    setup = read(NAMES[0]).cells[1].source
    assert 'REPOSITORY = ""' in setup and "/content" not in setup
    output = colab(setup)
    assert "raised RuntimeError" in output and "Run `make wheel`" in output and "ran" not in output
    own = setup.replace('REPOSITORY = ""', 'REPOSITORY = "https://example.org/own.git"')
    output = colab(own)
    assert "ran git clone -q --depth 1 https://example.org/own.git clone\n" in output
    assert "ran pip install -q ./clone" in output and "raised None" in output
    output = colab(own, "drive/MyDrive/tf_mural-0.2.0-py3-none-any.whl")
    assert "ran pip install -q drive/MyDrive/tf_mural-0.2.0-py3" in output and "git" not in output


def test_first_cell_asks_for_a_restart_only_if_pip_replaced_an_imported_package(colab):
    setup = read(NAMES[0]).cells[1].source
    wheel = "tf_mural-0.1.0-py3-none-any.whl"
    output = colab("import numpy, PIL\n" + setup, wheel)
    assert "raised None" in output
    for name in ("numpy", "PIL"):
        output = colab(f"import {name}\n{name}.__version__ = '0.1'\n{setup}", wheel)
        assert "ran pip" in output and "raised RuntimeError" in output
        assert "Restart session" in output


# --- the notebooks as a whole ---------------------------------------------------------------------


@pytest.mark.parametrize("path", NAMES, ids=IDS)
def test_outputs_are_small_and_of_a_run_without_errors(path):
    assert os.path.getsize(path) < 1_500_000
    for cell in read(path).cells:
        for output in cell.get("outputs", ()):
            assert output.output_type != "error"
            assert "Traceback" not in str(output.get("text", ""))


# Settings of the guides. A string is the name of a function that writes a small model.
GUIDES = {
    "finetune_siglip2": {"model": "siglip"},
    "teach_a_language": {"clip": "clip", "student": "bert"},
    "etcl_multilingual_clip": {"image": "metaclip_2", "text": "metaclip_2", "embedding_dim": 32},
    "swap_a_tower": {"image": "siglip", "text": "bert", "embedding_dim": 24},
}
FEW_STEPS = {"images": 64, "scenes": 64, "steps": 4, "batch_size": 16, "microbatch": 8}


def small_settings(notebook, folder):
    """Returns the settings of a guide with small models, which are written to a folder."""
    settings = {**FEW_STEPS, **GUIDES.get(notebook, {})}
    for setting, name in settings.items():
        if isinstance(name, str):
            write = getattr(guide_models, name)
            settings[setting] = f"hf:{write(str(folder / name))}"
    return settings


# A notebook takes up to two minutes.
RUNS = [pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


@pytest.mark.parametrize("path", RUNS, ids=IDS)
def test_a_notebook_runs_from_top_to_bottom(path, data_dir, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="pip install -r requirements-notebooks.txt")
    pytest.importorskip("ipykernel", reason="pip install -r requirements-notebooks.txt")
    for name in ("tf_mural", "configs", "tests"):
        os.symlink(os.path.join(ROOT, name), tmp_path / name)
    shutil.copytree(data_dir, tmp_path / "data")
    monkeypatch.setenv("NOTEBOOK_FLAGS", "--config=tests/notebook_config.py")
    name = os.path.basename(path).removesuffix(".ipynb")
    monkeypatch.setenv("NOTEBOOK_SETTINGS", json.dumps(small_settings(name, tmp_path)))
    # The shell commands of the notebook must find the programs of this Python environment.
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    notebook = read(path)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    printed = "\n".join(
        str(output.get("text", "")) for cell in notebook.cells for output in cell.get("outputs", ())
    )
    assert "error:" not in printed and "Traceback" not in printed, printed[-3000:]
