"""README and docs: their Python runs, their flags exist, and what they link to is there."""

import functools
import glob
import importlib.util
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

PAGES = sorted(
    [*glob.glob(os.path.join(ROOT, "*.md")), *glob.glob(os.path.join(ROOT, "docs", "*.md"))]
)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", read(path), re.MULTILINE | re.DOTALL)


def test_the_blocks_of_python_run(finished, tmp_path):
    """Those of README.md that are no config file, where `make etcl` has been run."""
    code = "\n".join(
        b for b in blocks(os.path.join(ROOT, "README.md"), "python") if "get_config" not in b
    )
    assert "tf_mural.Embedder.load" in code
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    os.symlink(finished[0], tmp_path / "runs" / "tiny" / "etcl-s0")
    os.symlink(os.path.join(ROOT, "docs"), tmp_path / "docs")
    environment = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall(r"-?\d\.\d+", done.stdout)) == 3


@pytest.mark.parametrize("path", PAGES, ids=[os.path.relpath(p, ROOT) for p in PAGES])
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", read(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = os.path.normpath(os.path.join(os.path.dirname(path), name)) if name else path
        assert os.path.exists(there), f"{target} is not there"
        if anchor and there.endswith(".md"):
            heads = re.findall(r"^#+ (.*)$", read(there), re.MULTILINE)
            assert anchor in map(_anchor, heads), f"{target}: no such heading"


def test_links_of_the_site_stay_within_it():
    spec = importlib.util.spec_from_file_location("hooks", os.path.join(ROOT, "docs", "hooks.py"))
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    for path in glob.glob(os.path.join(ROOT, "docs", "*.md")):
        for target in re.findall(r"\]\(([^)\s]+)\)", hooks.on_page_markdown(read(path))):
            name = target.partition("#")[0]
            there = os.path.join(ROOT, "docs", name)
            assert re.match(r"[a-z]+:", target) or os.path.exists(there), f"{path}: {target}"


@pytest.mark.parametrize("path", PAGES, ids=[os.path.relpath(p, ROOT) for p in PAGES])
def test_flags_of_commands_exist(path):
    """Each --flag in a line that calls a tool is one that the tool defines."""
    for line in read(path).replace("\\\n", " ").splitlines():
        for tool, rest in re.findall(r"python tools/(\w+)\.py([^`|#]*)", line):
            for flag in re.findall(r"--(\w[\w.]*)", rest):
                known = flag in flags_of(tool) or flag.startswith("config.")
                assert known or flag == "help", f"{tool}.py --{flag}: {line}"


@functools.cache
def flags_of(tool):
    command = [sys.executable, os.path.join(ROOT, "tools", f"{tool}.py"), "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^ +--(?:\[no\])?([\w.]+):", told, re.MULTILINE))


def _anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
