"""Writes the badge and the first cell of each notebook: make notebooks

The address of the repository is `Repository` in the section `[project.urls]` of pyproject.toml.
Until the owner sets it there, the notebooks have no badge, and on Colab they need a wheel.
"""

import glob
import json
import os
import tomllib

FOLDER = os.path.dirname(os.path.abspath(__file__))
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
COLAB = "https://colab.research.google.com/github"
GITHUB = "https://github.com/"
EXTRAS = {"etcl_colab_tpu": "[jax]"}

SETUP = """\
import glob
import importlib.metadata
import importlib.util
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # hides TensorFlow's start-up messages

REPOSITORY = "@REPOSITORY@"  # of pyproject.toml, by `make notebooks`
if "google.colab" in sys.modules and importlib.util.find_spec("tf_mural") is None:
    WHEELS = sorted(glob.glob("tf_mural-*.whl") + glob.glob("drive/MyDrive/tf_mural-*.whl"))
    if WHEELS:
        !pip install -q "{WHEELS[-1]}@EXTRA@"
    elif REPOSITORY:
        !git clone -q --depth 1 {REPOSITORY} clone
        !pip install -q "./clone@EXTRA@"
    else:
        raise RuntimeError(
            "tf_mural is not installed. Run `make wheel` in a copy of tf_mural. Upload the file "
            "build/wheel/tf_mural-*.whl in the file browser on the left; or copy it into the top "
            "folder of your Google Drive, and mount Drive in the file browser. Then run this cell "
            "again."
        )
    # Colab imports numpy and Pillow at the start, and pip may have installed other versions.
    PACKAGES = {"numpy": "numpy", "PIL": "pillow"}
    LOADED = {name: sys.modules[name].__version__ for name in PACKAGES if name in sys.modules}
    if any(importlib.metadata.version(PACKAGES[name]) != LOADED[name] for name in LOADED):
        raise RuntimeError(
            "The installation is complete, but it replaced packages that this session uses. Choose "
            "Runtime > Restart session, and run the notebook again from this cell."
        )
elif not os.path.exists("tf_mural") and os.path.exists("../tf_mural"):
    %cd -q ..
# The tests set these variables to run the notebook quickly, on little data.
FLAGS, DATA = os.environ.get("NOTEBOOK_FLAGS", ""), os.environ.get("NOTEBOOK_DATA", "data")"""


def main(folder=FOLDER):
    """Rewrites the notebooks of a folder, whose parent has pyproject.toml."""
    with open(os.path.join(folder, os.pardir, "pyproject.toml"), "rb") as file:
        repository = tomllib.load(file)["project"].get("urls", {}).get("Repository", "")
    for path in glob.glob(os.path.join(folder, "*.ipynb")):
        with open(path, encoding="utf-8") as file:
            notebook = json.load(file)
        name = os.path.basename(path)
        title, setup = notebook["cells"][:2]
        title["source"] = _title(title["source"], repository, name)
        extra = EXTRAS.get(name.removesuffix(".ipynb"), "")
        code = SETUP.replace("@REPOSITORY@", repository).replace("@EXTRA@", extra)
        setup["source"] = code.splitlines(keepends=True)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(notebook, file, indent=1, ensure_ascii=False)
            file.write("\n")


def _title(lines, repository, name):
    """Returns the lines of the first cell, with a badge if Colab can open the repository."""
    if any(line.startswith(BADGE) for line in lines):
        lines = [*lines[:2], *lines[4:]]
    if not repository.startswith(GITHUB):
        return lines
    path = repository.removeprefix(GITHUB).rstrip("/").removesuffix(".git")
    return [*lines[:2], f"{BADGE}({COLAB}/{path}/blob/main/notebooks/{name})\n", "\n", *lines[2:]]


if __name__ == "__main__":
    main()
