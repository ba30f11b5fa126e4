"""README, BUILD and docs: the example runs; named commands, settings, messages, links exist."""

import ast
import functools
import glob
import importlib
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from ml_collections import ConfigDict

DOCS = sorted(glob.glob(os.path.join(ROOT, "docs", "*.md")))
PAGES = [*sorted(glob.glob(os.path.join(ROOT, "*.md"))), *DOCS]
PAGES.append(os.path.join(ROOT, "benchmarks", "README.md"))
IDS = [os.path.relpath(path, ROOT) for path in PAGES]


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def links(path):
    """Returns the relative link targets of a page."""
    targets = re.findall(r"\]\(([^)\s]+)\)", read(path))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def test_readme_fits_on_a_few_screens():
    lines = read(os.path.join(ROOT, "README.md")).splitlines()
    assert len(lines) <= 180
    assert max(map(len, lines)) <= 200


def test_python_example_of_readme_runs(finished, tmp_path):
    """The example uses the workdir of `make etcl`.

    The blocks of configs are not run here. The code of docs/keras.md has tests of its own.
    """
    blocks = re.findall(
        r"^```python\n(.*?)^```$", read(os.path.join(ROOT, "README.md")), re.MULTILINE | re.DOTALL
    )
    code = "\n".join(block for block in blocks if not re.search("get_config|Trainer|ETCL", block))
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


def test_the_keras_example_of_readme_is_part_of_the_keras_page():
    example = re.search(
        r"^(trainer = .*?)^```$", read(os.path.join(ROOT, "README.md")), re.MULTILINE | re.DOTALL
    )[1]
    page = read(os.path.join(ROOT, "docs", "keras.md")).splitlines()
    assert len(example.splitlines()) == 4 and set(example.splitlines()) <= set(page)


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_relative_links_have_a_target(path):
    for target in links(path):
        name, _, anchor = target.partition("#")
        file = os.path.normpath(os.path.join(os.path.dirname(path), name)) if name else path
        assert os.path.exists(file), f"{target} does not exist"
        if anchor and file.endswith(".md"):
            headings = re.findall(r"^#+ (.*)$", read(file), re.MULTILINE)
            assert anchor in map(_anchor, headings), f"{target}: no such heading"


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_named_files_of_the_repository_exist(path):
    """Checks names such as `tf_mural/losses.py`, `configs/base.py` and `test_losses.py`."""
    folders = "tf_mural|configs|tools|tests|benchmarks|docs|notebooks"
    text = read(path)
    for name in re.findall(rf"(?<![\w/.])((?:{folders})/[\w/.*-]*\w)", text):
        assert glob.glob(os.path.join(ROOT, name)), f"{name} does not exist"
    for name in re.findall(r"`(?:tests/)?(test_\w+\.py)`", text):
        assert os.path.exists(os.path.join(ROOT, "tests", name)), f"{name} does not exist"


@pytest.mark.parametrize("path", DOCS, ids=[os.path.basename(path) for path in DOCS])
def test_pages_of_the_site_link_only_to_pages_of_the_site(path):
    for target in links(path):
        file = os.path.normpath(os.path.join(ROOT, "docs", target.partition("#")[0]))
        assert file.startswith(os.path.join(ROOT, "docs")), f"{target} is not part of the site"


def test_documented_api_exists():
    """Searches the names in the source files, because mkdocs reads these without importing them."""
    names = [name for path in DOCS for name in re.findall(r"^::: ([\w.]+)$", read(path), re.M)]
    assert len(names) > 20
    assert not [name for name in names if not _is_defined(name)]


def test_navigation_lists_every_page():
    listed = re.findall(r": (\w+\.md)$", read(os.path.join(ROOT, "mkdocs.yml")), re.MULTILINE)
    assert sorted(listed) == [os.path.basename(path) for path in DOCS]


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_flags_of_commands_exist(path):
    """If a line calls a tool, the tool defines each --flag of the line."""
    for line in read(path).replace("\\\n", " ").splitlines():
        for tool, arguments in re.findall(r"python tools/(\w+)\.py([^`|#]*)", line):
            for flag in re.findall(r"--(\w[\w.]*)", arguments):
                known = flag in flags_of(tool) or flag.startswith("config.")
                assert known or flag == "help", f"{tool}.py --{flag}: {line}"


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_config_values_on_the_command_line_exist(path):
    for name in re.findall(r"--config\.([\w.]*\w)", read(path)):
        assert name in config_names(), f"--config.{name}"


def test_messages_of_troubleshooting_are_those_of_the_code():
    """Each part of a quoted message between `...` occurs in a string constant."""
    rows = re.findall(
        r"^\| (.*?) \| ", read(os.path.join(ROOT, "docs/troubleshooting.md")), re.MULTILINE
    )
    messages = [message for row in rows for message in re.findall(r"`([^`]*)`", row)]
    assert len(messages) > 20
    parts = [part.strip(" '") for message in messages for part in message.split("...")]
    constants = string_constants()
    assert not [part for part in parts if len(part) > 3 and part not in constants]


@functools.cache
def flags_of(tool):
    command = [sys.executable, os.path.join(ROOT, "tools", f"{tool}.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^ +--(?:\[no\])?([\w.]+):", shown, re.MULTILINE))


@functools.cache
def config_names():
    """Returns the dotted names of all values in the configs of all stages."""
    names, pages = set(), glob.glob(os.path.join(ROOT, "configs", "*.py"))
    for stage in {os.path.basename(page).removesuffix(".py") for page in pages}:
        module = importlib.import_module(f"configs.{stage}")
        if hasattr(module, "get_config"):
            names |= set(_dotted(module.get_config("tiny")))
    return names


def _dotted(config, prefix=""):
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, ConfigDict):
            yield from _dotted(value, f"{prefix}{key}.")


@functools.cache
def string_constants():
    """Returns all string constants of the package and the tools, and the text of the Makefile."""
    texts = [read(os.path.join(ROOT, "Makefile"))]
    for folder in ("tf_mural", "tools"):
        for path in glob.glob(os.path.join(ROOT, folder, "**", "*.py"), recursive=True):
            nodes = ast.walk(ast.parse(read(path)))
            texts += [n.value for n in nodes if isinstance(n, ast.Constant) and n.value]
    return "\n".join(text for text in texts if isinstance(text, str))


def _is_defined(name):
    """Returns whether a dotted name is a module, or a name that a module defines or imports."""
    path = os.path.join(ROOT, *name.split("."))
    if os.path.isdir(path) or os.path.isfile(f"{path}.py"):
        return True
    parent, last = os.path.split(path)
    files = [path for path in (f"{parent}.py", f"{parent}/__init__.py") if os.path.isfile(path)]
    for node in ast.walk(ast.parse(read(files[0]))) if files else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == last:
            return True
        if isinstance(node, ast.ImportFrom) and last in [alias.name for alias in node.names]:
            return True
    return False


def _anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
