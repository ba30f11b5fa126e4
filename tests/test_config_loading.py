"""Loading of configs: stages, sizes, files of users, and typed overrides."""

import ml_collections
import pytest

from tf_mural.cli.error_lines import with_flags
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading

STAGES_AND_SIZES = [
    (stage, size) for stage in config_loading.STAGES for size in config_loading.SIZES
]


def load_with(*arguments, stage="etcl", size="tiny"):
    config = config_loading.load_config(stage, size)
    config_loading.apply_overrides(config, arguments)
    return config


def refusal(*arguments, **which):
    with pytest.raises(UserError) as error:
        load_with(*arguments, **which)
    return with_flags(str(error.value))


# --- stages and sizes -----------------------------------------------------------------------------


@pytest.mark.parametrize("stage, size", STAGES_AND_SIZES)
def test_every_stage_has_a_config_for_every_size(stage, size):
    config = config_loading.load_config(stage, size)
    assert (config.stage, config.size, config.seed) == (stage, size, 0)


def test_recipes_are_those_of_the_publications():
    recipes = {}
    for stage in ("mural", "etcl", "control", "sixlang"):
        config = config_loading.load_config(stage, "paper")
        rate = config.optimizer.learning_rate
        recipes[stage] = (config.batch_size, config.steps, config.optimizer.warmup_steps, rate)
    etcl = (32_768, 3_000, 0, 1e-4)
    assert recipes == {
        "mural": (16_384, 800_000, 10_000, 1e-3),
        **dict.fromkeys(("etcl", "control", "sixlang"), etcl),
    }
    finetune = config_loading.load_config("finetune", "paper")
    assert (finetune.batch_size, finetune.optimizer.learning_rate) == (2_048, 1e-5)
    assert finetune.sources.captions.records == ("multi30k/train",)
    assert finetune.evaluation.retrieval.records == "multi30k/val"
    align = config_loading.load_config("align", "b3_mini")
    assert (align.batch_size, align.steps, align.optimizer.warmup_steps) == (
        16_384,
        100_000,
        10_000,
    )
    assert align.optimizer.learning_rate == 5e-3
    assert (align.model.image.backbone, align.model.text.backbone) == ("b3", "mini")


def test_unknown_stages_and_sizes_are_named():
    with pytest.raises(UserError, match="unknown stage 'murals'; known: align, .*mean 'mural'"):
        config_loading.load_config("murals", "tiny")
    with pytest.raises(UserError, match="unknown size 'b3-mini'; known: tiny.*mean 'b3_mini'"):
        config_loading.load_config("mural", "b3-mini")


# --- files of users -------------------------------------------------------------------------------


def test_get_config_of_a_file_receives_the_stage(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from tf_mural.configs import align, mural\n"
        "def get_config(stage):\n"
        "    config = {'align': align, 'mural': mural}[stage].get_config('tiny')\n"
        "    config.steps = 7\n"
        "    return config\n"
    )
    for stage in ("align", "mural"):
        config = config_loading.load_config(stage, "paper", str(path))
        assert (config.stage, config.size, config.steps) == (stage, "tiny", 7)


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = 1\n", r"mine.py has no get_config\(stage\) that returns a ConfigDict"),
        ("def get_config(stage:\n", r"mine.py cannot be read as a config: .*\(mine.py, line 1\)"),
        ("import nowhere_at_all\n", "cannot be read as a config: No module named 'nowhere_at_all'"),
        ("x = 1 / 0\n", "mine.py cannot be read as a config: division by zero"),
        ("def get_config(stage):\n    return {}\n", "must return the ConfigDict of that stage"),
        ("def get_config(stage):\n    return {}[stage]\n", r"get_config\('etcl'\) raised KeyError"),
    ],
)
def test_error_of_an_invalid_file_names_the_problem(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        config_loading.load_config("etcl", "tiny", str(path))


@pytest.mark.parametrize("name", ["tf_mural.configs.examples", "configs.examples"])
def test_a_file_may_import_the_examples_of_a_clone_by_both_names(tmp_path, name):
    path = tmp_path / "shapes.py"
    path.write_text(
        f"from {name} import own\ndef get_config(stage): return own.get_config(stage)\n"
    )
    config = config_loading.load_config("etcl", "tiny", str(path))
    assert (config.stage, config.size) == ("etcl", "own")


def test_files_of_the_package_are_known_in_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "configs/examples/emoji.py"
    assert config_loading.load_config("etcl", "tiny", name).size == "emoji"
    (tmp_path / "configs/examples").mkdir(parents=True)
    (tmp_path / name).write_text("x = 1\n")  # replaces the file of the package
    with pytest.raises(UserError, match="has no get_config"):
        config_loading.load_config("etcl", "tiny", name)
    with pytest.raises(UserError, match="no config file 'configs/nothing.py'"):
        config_loading.load_config("etcl", "tiny", "configs/nothing.py")


@pytest.mark.parametrize("line", ["from . import base", "from .. import etcl"])
def test_a_copy_of_a_config_of_the_package_learns_the_import(tmp_path, line):
    path = tmp_path / "copy.py"
    path.write_text(f"{line}\n")
    with pytest.raises(UserError, match="relative import.*: from tf_mural.configs import base$"):
        config_loading.load_config("etcl", "tiny", str(path))


def test_missing_and_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no config file '.*mine.py'"):
        config_loading.load_config("etcl", "tiny", str(tmp_path / "mine.py"))
    (tmp_path / "mine.yaml").write_text("steps: 3\n")
    with pytest.raises(
        UserError, match="mine.yaml is not a Python file; expected a file with get_c"
    ):
        config_loading.load_config("etcl", "tiny", str(tmp_path / "mine.yaml"))


# --- overrides ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argument, value",
    [
        ("optimizer.learning_rate=1e-4", 1e-4),
        ("optimizer.learning_rate=1", 1.0),
        ("steps=1_000", 1000),
        ("seed=-3", -3),
        ("jit_compile=true", True),
        ("jit_compile=False", False),
        ("vocabulary=my/vocab.txt", "my/vocab.txt"),
        ("vocabulary=1", "1"),
        ("vocabulary=", ""),
        ("vocabulary=a=b", "a=b"),
        ("terms.image_text_a.margin=0", 0.0),
    ],
)
def test_override_keeps_the_type_of_the_value(argument, value):
    config = load_with(f"--config.{argument}")
    result = config
    for key in argument.split("=")[0].split("."):
        result = result[key]
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(
    "text, languages",
    [
        ("en", ("en",)),
        ("'en'", ("en",)),
        ("en,de", ("en", "de")),
        ("en, zh-Hant", ("en", "zh-Hant")),
        ('("en",)', ("en",)),
        ('("en", "de")', ("en", "de")),
        ('["en", "de"]', ("en", "de")),
        ("()", ()),
        ("", ()),
    ],
)
def test_tuples_may_be_written_in_all_usual_ways(text, languages):
    config = load_with(f"--config.sources.triples.languages={text}")
    assert config.sources.triples.languages == languages


def test_tuples_may_contain_numbers_and_patterns():
    assert load_with("--config.sources.triples.weights=2").sources.triples.weights == (2,)
    assert load_with("--config.sources.triples.weights=1,2.5").sources.triples.weights == (1, 2.5)
    config = load_with("--config.optimizer.exclude_from_weight_decay=_bn/,/bias$")
    assert config.optimizer.exclude_from_weight_decay == ("_bn/", "/bias$")


def test_last_of_several_overrides_applies():
    config = load_with("--config.steps=5", "--config.seed=2", "--config.steps=6")
    assert (config.steps, config.seed) == (6, 2)
    # A config that is loaded later has its own values.
    assert config_loading.load_config("etcl", "tiny").steps != 6


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--config.steps=5.0", "--config.steps: expected a whole number like 180, got '5.0'"),
        ("--config.steps=true", "--config.steps: expected a whole number"),
        ("--config.steps=", "--config.steps: expected a whole number like 180, got ''"),
        ("--config.steps={[]}", "--config.steps: expected a whole number"),
        ("--config.optimizer.learning_rate=fast", "expected a number like 0.004, got 'fast'"),
        ("--config.optimizer.learning_rate=True", "expected a number like 0.004, got 'True'"),
        ("--config.jit_compile=1", "--config.jit_compile: expected true or false, got '1'"),
        ("--config.optimizer.learning_rat=1", "; did you mean 'optimizer.learning_rate'?"),
        ("--config.learning_rate=1", "; did you mean 'optimizer.learning_rate'?"),
        ("--config.steps.more=1", "--config.steps.more: the config has no such value"),
        ("--config.nothing=1", "it has auto_convert, batch_size, checkpoint_every, "),
        (
            "--config.optimizer=adam",
            "--config.optimizer is a group; set one of config.optimizer.beta_1",
        ),
        ("--config.optimizer.name", "expected --config.name=value, got '--config.optimizer.name'"),
    ],
)
def test_error_of_an_invalid_override_names_the_problem(argument, message):
    assert message in refusal(argument)


# --- values that may be None ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("microbatch", "32", 32),
        ("checkpoint_minutes", "5", 5.0),
        ("optimizer.ema_momentum", "0.99", 0.99),
        ("keep_best", "retrieval/*/r1", "retrieval/*/r1"),
        ("profile_steps", "10,20", (10, 20)),
        ("model.text.sizes", "2,96,2,384", (2, 96, 2, 384)),
        ("sources.triples.languages", "de", ("de",)),
    ],
)
def test_optional_value_keeps_its_type_and_returns_to_none(name, text, value):
    def value_of(config):
        for key in name.split("."):
            config = config[key]
        return config

    changed = load_with(f"--config.{name}={text}")
    assert value_of(changed) == value and type(value_of(changed)) is type(value)
    for none in ("none", "None"):
        config_loading.apply_overrides(changed, [f"--config.{name}={none}"])
        assert value_of(changed) is None
    config_loading.apply_overrides(changed, [f"--config.{name}={text}"])
    assert value_of(changed) == value


def test_optional_value_refuses_other_types():
    assert "expected a whole number or none, got 'many'" in refusal("--config.microbatch=many")
    assert "expected a number or none, got 'often'" in refusal("--config.checkpoint_minutes=often")


def test_other_values_do_not_become_none():
    assert "expected a whole number like 180, got 'none'" in refusal("--config.steps=none")
    assert load_with("--config.vocabulary=none").vocabulary == "none"


def leaves(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value, config.get_type(key)


@pytest.mark.parametrize("stage, size", STAGES_AND_SIZES)
def test_no_config_has_an_untyped_none_or_an_empty_string(stage, size):
    for name, value, value_type in leaves(config_loading.load_config(stage, size)):
        assert value_type is not type(None) and value != "", name


def test_overrides_are_split_from_flags():
    arguments = ["--stage=etcl", "--config.steps=3", "--config=mine.py", "--config.seed=1"]
    overrides, flags = config_loading.split_overrides(arguments)
    assert overrides == ["--config.steps=3", "--config.seed=1"]
    assert flags == ["--stage=etcl", "--config=mine.py"]
