"""Files contain only addresses of existing repositories.

These are the repositories in `THIRD_PARTY`, and the repository of this project that pyproject.toml
names. Anybody could register an invented address, and the code at this address would run in the
notebooks of users.
"""

import glob
import os
import re
import tomllib

import pytest
from conftest import ROOT

# Existing repositories of other owners: data sets, tools, and sources of published numbers.
THIRD_PARTY = {
    "FrameNetBrasil/framed-multi30k",
    "FreddeFrallan/Multilingual-CLIP",
    "ObeidaElJundi/Arabic-Image-Captioning",
    "STAIR-Lab-CIT/STAIR-captions",
    "adobe-research/Cross-lingual-Test-Dataset-XTD10",
    "cltl/DutchDescriptions",
    "e-bug/iglue",
    "embeddings-benchmark/mteb",
    "embeddings-benchmark/results",
    "facebookresearch/LASER",
    "facebookresearch/MUSE",
    "facebookresearch/MetaCLIP",
    "glami/glami-1m",
    "google-research-datasets/conceptual-12m",
    "googlecolab/colabtools",
    "googlefonts/noto-emoji",
    "gregor-ge/Babel-ImageNet",
    "kodenii/CoSDA-ML",
    "li-xirong/flickr8kcn",
    "mainlp/CodeSwitchCLIR",
    "mlfoundations/open_clip",
    "multi30k/dataset",
    "rom1504/img2dataset",
    "unicode-org/cldr-json",
    "visheratin/nllb-clip",
    "zmykevin/UC2",
}
HOSTS = (
    r"github\.com|githubusercontent\.com|gitlab\.com|bitbucket\.org|codeberg\.org"
    r"|colab\.research\.google\.com/github"
)
ADDRESS = re.compile(rf"(?<!lfs\.)(?:{HOSTS})[/:]([\w.-]+/[\w.-]+)")
IGNORED = re.compile(
    r"\.(git|venv[^/]*|pytest_cache|ruff_cache)/|(data|runs|build)/|.*__pycache__/"
)
BINARY = (".png", ".npz", ".zip", ".safetensors", ".pyc")


def own_repository():
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        url = tomllib.load(file)["project"].get("urls", {}).get("Repository", "")
    return set(ADDRESS.findall(url))


def text_files():
    for path in glob.glob("**", root_dir=ROOT, recursive=True, include_hidden=True):
        is_text = not path.endswith(BINARY) and not IGNORED.match(path)
        if is_text and os.path.isfile(os.path.join(ROOT, path)):
            yield path


def addresses(text):
    return {name.rstrip(".").removesuffix(".git") for name in ADDRESS.findall(text)}


def test_every_address_of_a_repository_is_known():
    known, seen = THIRD_PARTY | own_repository(), set()
    for path in text_files():
        if path != os.path.join("tests", "test_addresses.py"):
            with open(os.path.join(ROOT, path), encoding="utf-8") as file:
                names = addresses(file.read())
            assert names <= known, f"{path} has the address of an unknown repository"
            seen |= names
    assert THIRD_PARTY <= seen, "the list names a repository that no file has"


@pytest.mark.parametrize(
    "text",
    [
        "!git clone --depth 1 https://github.com/a-b/c.d.git",
        "git@github.com:a-b/c.d",
        "[x](https://colab.research.google.com/github/a-b/c.d/blob/main/e.ipynb)",
        "see gitlab.com/a-b/c.d.",
        "https://raw.githubusercontent.com/a-b/c.d/main/e.py",
    ],
)
def test_addresses_are_seen_in_every_form(text):
    assert addresses(text) == {"a-b/c.d"}
