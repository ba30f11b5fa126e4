"""Order of the package: allowed imports, cost of imports, docstrings, lengths, and names."""

import ast
import glob
import importlib
import os
import subprocess
import sys
import tokenize

import pytest
from conftest import ROOT

from tf_mural import cli

# Layers, lowest first. A module imports only from lower layers. A subpackage is one entry.
LAYERS = [
    {"errors", "configs", "registration"},
    {"remote_requests"},
    {"remote_files"},
    {"file_io", "losses", "modalities", "languages", "progress", "truncation"},
    {"models", "objective", "optimizers", "distributed", "nonfinite", "backend_functions"},
    {"train_step"},
    {"data"},
    {"datasets"},
    {"backends"},
    {"training", "evaluation", "conversion", "huggingface", "trainers"},
    {"public_models"},
    {"reports"},
    {"export", "search"},
    {"experiment"},
    {"integrations"},
    {"cli"},
]
LAYER = {entry: layer for layer, entries in enumerate(LAYERS) for entry in entries}
# Paths in tf_mural/ whose code runs on any backend of Keras.
WITHOUT_TENSORFLOW = (
    "losses.py",
    "truncation.py",
    "objective.py",
    "train_step.py",
    "backend_functions.py",
    "nonfinite.py",
    "models/",
    "optimizers.py",
    "errors.py",
    "evaluation/metrics/",
    "evaluation/prompts/",
    "evaluation/label_knn.py",
)
EVALUATION_MAY_IMPORT = {"evaluation", "errors", "data", "file_io", "languages"}
# Files with fewer than 60 lines that cannot be merged into another file: errors.py is the lowest
# layer, both backends have the same file names, and each corpus has one file.
SMALL_FILES = (
    "tf_mural/errors.py",
    "tf_mural/modalities.py",
    "tf_mural/backends/jax/batch_norm.py",
    "tf_mural/backends/jax/remat.py",
    "tf_mural/datasets/crawl/cc12m.py",
)
# Files of lower layers that call upper layers through the table of contents in __init__.py.
CALL_THE_PUBLIC_API = tuple(
    f"tf_mural/models/{name}.py"
    for name in ("dual_encoder", "encoders", "image_encoder", "text_encoder")
)
TOOLS = """
train evaluate convert build_vocab inspect_data compare sweep
plan_tpu export extract mine_negatives index search demo doctor reproduce lexicon
""".split()


def files(folder):
    paths = glob.glob(os.path.join(ROOT, folder, "**", "*.py"), recursive=True)
    return sorted(os.path.relpath(path, ROOT) for path in paths)


def tree_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return ast.parse(file.read(), path)


def imports(path):
    """Yields the dotted names that a file imports, such as "tf_mural.errors.lookup"."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # Only the files in configs/ use relative imports, because their package has two names
            # (see configs/__init__.py).
            assert node.level == 0 or path.startswith("configs/"), f"{path}: a relative import"
            module = ".".join(["configs"] * bool(node.level) + [node.module] * bool(node.module))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def entry_of(path):
    """Returns the entry of a path ("data" for tf_mural/data/sampling.py, "" for __init__.py)."""
    entry = path.split(os.sep)[1].removesuffix(".py")
    return "" if entry == "__init__" else entry


def entries_imported(path):
    own = [name.split(".") for name in imports(path)]
    return {name[1] for name in own if name[0] == "tf_mural" and len(name) > 1}


PACKAGE = [path for path in files("tf_mural") if entry_of(path)]
PORTABLE = [p for p in PACKAGE if p.removeprefix("tf_mural/").startswith(WITHOUT_TENSORFLOW)]


def test_every_entry_has_a_layer():
    assert {entry_of(path) for path in PACKAGE} == set(LAYER)
    assert entries_imported("tf_mural/__init__.py") == {"registration"}


@pytest.mark.parametrize("path", PACKAGE)
def test_file_imports_only_from_lower_layers(path):
    entry = entry_of(path)
    for other in entries_imported(path) - {entry, "__version__"}:
        assert LAYER[other] < LAYER[entry], f"{path} imports {other}"


def test_only_encoders_call_upper_layers_through_the_public_api():
    paths = {p for p in PACKAGE if entry_of(p) != "cli" and "tf_mural" in set(imports(p))}
    assert paths == set(CALL_THE_PUBLIC_API)


@pytest.mark.parametrize("path", PORTABLE)
def test_portable_code_does_not_import_a_framework(path):
    packages = {name.split(".")[0] for name in imports(path)}
    assert not packages & {"tensorflow", "tensorflow_text", "tf_keras", "jax", "torch"}


def test_additional_rules_of_imports():
    for path in PACKAGE:
        packages = {name.split(".")[0] for name in imports(path)}
        # Only experiment reads configs, and only cli reads flags. Other code has plain arguments.
        assert "absl" not in packages or entry_of(path) == "cli", path
        assert "ml_collections" not in packages or entry_of(path) == "experiment", path
        assert "configs" not in packages, path
        if "configs" in entries_imported(path):
            assert entry_of(path) in ("cli", "experiment"), path
        assert "tools" not in packages, path
        if entry_of(path) in ("losses", "objective", "models"):
            assert "backends" not in entries_imported(path), path
    for path in files("tf_mural/evaluation"):
        assert entries_imported(path) <= EVALUATION_MAY_IMPORT, path
    for path in files("configs"):
        packages = {name.split(".")[0] for name in imports(path)}
        assert packages <= {"configs", "ml_collections"}, path


def test_only_file_io_writes_atomically():
    """Other code uses `file_io.atomic_write`. A conversion renames whole folders."""
    allowed = {"tf_mural/file_io.py", "tf_mural/conversion/publish.py"}
    for path in {*PACKAGE, *files("tools")} - allowed:
        names = {ast.unparse(node) for node in ast.walk(tree_of(path)) if hasattr(node, "attr")}
        assert not names & {"os.replace", "os.rename", "os.fsync", "tempfile.mkstemp"}, path


def test_nothing_imports_the_tools_or_the_tests():
    for path in [*PACKAGE, *files("configs")]:
        packages = {name.split(".")[0] for name in imports(path)}
        assert not packages & {"tools", "tpu_planner", "tests", "conftest", "helpers"}, path
    for path in files("tools"):
        packages = {name.split(".")[0] for name in imports(path)}
        assert not packages & {"tests", "conftest", "pytest"}, path


def test_imports_of_a_file_are_complete(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(
        "import os.path, sys\n"
        "from tf_mural import losses, base as b\n"
        "def f():\n"
        "    import tensorflow as tf\n"
        "    from tf_mural.data.records.reading import RecordSet\n"
    )
    expected = {"os.path", "sys", "tf_mural.losses", "tf_mural.base", "tensorflow"}
    assert set(imports(path)) == expected | {"tf_mural.data.records.reading.RecordSet"}
    assert entries_imported(path) == {"losses", "base", "data"}


# --- side effects of imports ----------------------------------------------------------------------

_IMPORT = """
import importlib, os, sys
sys.path[:0] = [{tools!r}, {root!r}]
before = set(os.listdir("."))
for name in {names!r}:
    importlib.import_module(name)
assert set(os.listdir(".")) == before, "an import wrote a file"
heavy = {{"tensorflow", "keras", "keras_hub", "tokenizers", "matplotlib", "rich"}}
heavy &= set(sys.modules)
assert not heavy, heavy
from absl import flags
assert not flags.FLAGS.is_parsed(), "an import read the flags"
"""


@pytest.mark.parametrize("tool", [None, *TOOLS])
def test_imports_are_light_and_have_no_side_effects(tool, tmp_path):
    configs = [p.removesuffix(".py").replace(os.sep, ".") for p in files("configs")]
    names = ["tf_mural", "tf_mural.evaluation", "tf_mural.datasets", "tf_mural.experiment"]
    names += configs
    if tool:
        names = [tool, "tpu_planner.cli" if tool == "plan_tpu" else f"tf_mural.cli.{tool}"]
    code = _IMPORT.format(tools=os.path.join(ROOT, "tools"), root=ROOT, names=names)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0 and not done.stdout, done.stderr


def test_tools_only_call_the_commands():
    names = {path.split(os.sep)[1].removesuffix(".py") for path in files("tools")}
    assert names == {*TOOLS, "tpu_planner"}
    assert {*cli.COMMANDS, "plan_tpu"} == set(TOOLS)
    for path in files("tools"):
        if "tpu_planner" not in path:
            tree = tree_of(path)
            assert sum(1 for node in ast.walk(tree) if isinstance(node, ast.stmt)) <= 15, path
            assert not any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree)), path


# --- docstrings -----------------------------------------------------------------------------------


def public(tree, path):
    """Yields (name, node) of the public functions, classes and methods of a file."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, definitions) and not node.name.startswith("_"):
            yield f"{path}: {node.name}", node
            if isinstance(node, ast.ClassDef):
                for part in node.body:
                    if isinstance(part, definitions) and not part.name.startswith("_"):
                        yield f"{path}: {node.name}.{part.name}", part


@pytest.mark.parametrize("path", files("tf_mural"))
def test_public_definitions_have_docstrings(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{path} has no docstring"
    missing = [name for name, node in public(tree, path) if not ast.get_docstring(node)]
    assert not missing


def test_public_names_exist():
    for path in files("tf_mural"):
        if os.path.basename(path) == "__init__.py":
            module = importlib.import_module(os.path.dirname(path).replace(os.sep, "."))
            for name in getattr(module, "__all__", ()):
                assert hasattr(module, name), f"{module.__name__}.{name}"


@pytest.mark.parametrize("path", [*files("tf_mural"), *files("tools"), *files("configs")])
def test_files_and_functions_stay_short(path):
    tree = tree_of(path)
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        assert len(file.readlines()) <= 400, f"{path} has more than 400 lines: split the file"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            documented = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
            length = node.end_lineno - documented
            assert length <= 60, f"{path}: {node.name} has {length} lines"


# --- names ----------------------------------------------------------------------------------------

# {name in earlier versions of this package: standard term that replaced the name}.
REPLACED_NAMES = {
    "GroupedBatchNormalization": "GhostBatchNormalization",
    "batch_norm_of": "GhostBatchNormalization",
    "squeezing": "fuse_squeeze_excite",
    "blocks_of": "remat_blocks",
    "rematerialise": "remat",
    "Lamb": "LAMB",
    "LinearSchedule": "LinearWarmupDecay",
    "rate_factors": "lr_multipliers",
    "clip_norm": "global_clipnorm",
    "exclude_from_decay": "exclude_from_weight_decay",
    "exclude_from_adaptation": "exclude_from_layer_adaptation",
    "all_rows": "candidates",
    "first_row": "offset",
    "everyone": "gather_candidates",
    "objective_of_rows": "objective_for_rows",
    "at_once": "encode_full",
    "in_microbatches": "encode_cached",
    "part_of": "slice_part",
    "Limits": "BadStepPolicy",
    "judge": "check_logs",
    "allows": "should_apply",
    "in_a_row": "consecutive_skips",
    "_told": "_named_logs",
    "enough": "should_stop",
    "evaluated": "last_evaluated",
    "health": "skipped_records",
    "_looked_at": "_fetch_logs",
    "_together": "_run_on_all",
    "Boundaries": "StopPoll",
    "noted": "deferred",
    "Stopped": "Preempted",
    "NoLog": "NullWriter",
    "goes_on": "reset_timer",
    "say": "print_fn",
    "Damaged": "CorruptFileError",
    "Held": "WorkdirLocked",
    "_born": "start_time",
    "_beats": "heartbeat",
    "_let_go": "release",
    "same_config": "check_same_config",
    "started_from": "resolve_init",
    "adopt": "apply_init_settings",
    "adopt_again": "restore_init_settings",
    "hand_over": "load_initial_weights",
    "end_weights": "finalize_weights",
    "exchange": "all_gather_object",
    "agree": "check_consistent",
    "meet": "wait_for_peers",
    "meeting": "rendezvous",
    "limited": "kill_after",
    "unanswered": "unreachable",
    "WorkerLost": "PeerLostError",
    "WorkerEnded": "WorkerDiedError",
    "replacing": "atomic_write",
    "appears_whole": "atomic_write",
    "Stream": "IndexSampler",
    "WALKS": "EPOCH_UNITS",
    "_Part": "_SetSampler",
    "Health": "SkippedRecords",
    "Unusable": "BadRecord",
    "drew": "count_drawn",
    "hopeless": "exhausted",
    "untuned": "disable_autotune",
    "Question": "CorpusFilter",
    "Answer": "DropList",
    "Books": "Ledger",
    "kept_of": "Ledger.filter",
    "Dropped": "Skipped",
    "Noted": "ShardIndexBuilder",
    "held": "exclusive",
    "assemble": "finalize",
    "discard_or_keep": "cleanup_failed",
    "count_unit": "scan_unit",
    "looks": "phash",
    "ABOUT": "DATASET_INFO",
    "About": "DatasetInfo",
    "run_of": "task_for",
    "measure_of": "metric_for",
    "handed": "objects",
    "Watched": "tqdm",
    "Profiled": "ProfiledRunner",
    "Lasting": "ResilientStdout",
    "there_already": "is_up_to_date",
    "asked_for": "requested_jobs",
    "all_there": "available_jobs",
    "tell_harm": "print_regressions",
    "tell_apart": "print_override_scope",
    "unlike_a_result": "validate_result",
    "too_few": "subset_notes",
    "far_apart": "assert_close",
    "spoken": "humanize_class",
    "starts_from": "init_stage",
    "makes": "auto_convert",
    "interpolate": "wise_ft_alpha",
    "beside": "compare_with",
    "evaluate_first": "evaluate_before_training",
    "accept_changes": "allow_config_changes",
    "wait_minutes": "connect_timeout_minutes",
    "pick": "lookup",
    "found": "a name that says what the value is",
    "told": "a name that says what the value is",
    "theirs": "a name that says what the value is",
}
# Names of files and folders in earlier versions of this package. They must not be used again.
REPLACED_FILES = """
build cluster tasks pretrained searching planning step handover sealed meeting
books questions places recipe outcomes passes building pictures whole machinery meaning
rematerialisation chunks running stopping nearest gathering replacement excitation towers
""".split()


def identifiers(path):
    with open(os.path.join(ROOT, path), "rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.NAME:
                yield token.string


CODE = [p for d in ("tf_mural", "tools", "configs", "benchmarks", "tests") for p in files(d)]


@pytest.mark.parametrize("path", CODE)
def test_code_uses_the_standard_names(path):
    for name in set(identifiers(path)) & set(REPLACED_NAMES):
        raise AssertionError(f"{path}: the standard name for {name} is {REPLACED_NAMES[name]}")


def test_files_have_standard_names():
    for path in CODE:
        parts = set(path.removesuffix(".py").split(os.sep)[1:])
        assert not parts & set(REPLACED_FILES), path


def test_small_files_are_tables_or_registries():
    for path in PACKAGE:
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            length = len(file.readlines())
        is_table = "grammar" in path or os.path.basename(path) in ("__init__.py", "__main__.py")
        assert length >= 60 or is_table or path in SMALL_FILES, f"{path} has {length} lines"
