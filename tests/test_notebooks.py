"""The notebooks run from top to bottom, define no functions, and link to the repository."""

import ast
import glob
import os
import re
import shutil
import sys

import pytest
from conftest import ROOT

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


@pytest.mark.parametrize("path", NAMES, ids=IDS)
def test_badge_and_first_cell_lead_to_the_repository(path):
    import tomllib

    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        url = tomllib.load(file)["project"]["urls"]["Repository"]
    first, setup = read(path).cells[:2]
    repository = url.removeprefix("https://github.com/")
    name = f"notebooks/{os.path.basename(path)}"
    assert f"https://colab.research.google.com/github/{repository}/blob/main/{name}" in first.source
    assert f"!git clone --depth 1 {url}" in setup.source


@pytest.mark.parametrize("path", NAMES, ids=IDS)
def test_outputs_are_small_and_of_a_run_without_errors(path):
    assert os.path.getsize(path) < 1_500_000
    for cell in read(path).cells:
        for output in cell.get("outputs", ()):
            assert output.output_type != "error"
            assert "Traceback" not in str(output.get("text", ""))


# A notebook takes a minute or two; therefore only the walkthrough runs by default.
RUNS = [pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


@pytest.mark.parametrize("path", RUNS, ids=IDS)
def test_a_notebook_runs_from_top_to_bottom(path, data_dir, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="pip install -r requirements-notebooks.txt")
    pytest.importorskip("ipykernel", reason="pip install -r requirements-notebooks.txt")
    for name in ("tools", "tf_mural", "configs", "tests", "docs"):
        os.symlink(os.path.join(ROOT, name), tmp_path / name)
    shutil.copytree(data_dir, tmp_path / "data")
    monkeypatch.setenv("NOTEBOOK_FLAGS", "--config=tests/notebook_config.py")
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
