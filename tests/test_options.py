"""From the command line to a config: files, stages, sizes, and typed overrides."""

import options
import pytest

from tf_mural.errors import UserError

EVERY = [(stage, size) for stage in options.STAGES for size in options.SIZES]


def overridden(*arguments, stage="etcl", size="tiny"):
    config = options.load_config(stage, size)
    options.override(config, arguments)
    return config


def refusal(*arguments, **which):
    with pytest.raises(UserError) as error:
        overridden(*arguments, **which)
    return str(error.value)


# --- which config ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stage, size", EVERY)
def test_every_stage_has_a_config_of_every_size(stage, size):
    config = options.load_config(stage, size)
    assert (config.stage, config.size, config.seed) == (stage, size, 0)


def test_the_paper_s_recipes():
    recipes = {}
    for stage in ("mural", "etcl", "control", "sixlang"):
        config = options.load_config(stage, "paper")
        rate = config.optimizer.learning_rate
        recipes[stage] = (config.batch_size, config.steps, config.optimizer.warmup_steps, rate)
    etcl = (32_768, 3_000, 0, 1e-4)
    assert recipes == {
        "mural": (16_384, 800_000, 10_000, 1e-3),
        **dict.fromkeys(("etcl", "control", "sixlang"), etcl),
    }
    finetune = options.load_config("finetune", "paper")
    assert (finetune.batch_size, finetune.optimizer.learning_rate) == (2_048, 1e-5)
    assert finetune.sources.captions.records == ("multi30k/train",)
    assert finetune.evaluation.retrieval.records == "multi30k/val"
    align = options.load_config("align", "b3_mini")
    assert (align.batch_size, align.steps, align.optimizer.warmup_steps) == (
        16_384,
        100_000,
        10_000,
    )
    assert align.optimizer.learning_rate == 5e-3
    assert (align.model.image.name, align.model.text.name) == ("b3", "mini")


def test_unknown_stages_and_sizes():
    with pytest.raises(UserError, match="unknown stage 'murals'; known: align, .*mean 'mural'"):
        options.load_config("murals", "tiny")
    with pytest.raises(UserError, match="unknown size 'b3-mini'; known: tiny.*mean 'b3_mini'"):
        options.load_config("mural", "b3-mini")


# --- a file of one's own --------------------------------------------------------------------------


def test_a_file_of_ones_own_is_given_the_stage(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs import align, mural\n"
        "def get_config(stage):\n"
        "    config = {'align': align, 'mural': mural}[stage].get_config('tiny')\n"
        "    config.steps = 7\n"
        "    return config\n"
    )
    for stage in ("align", "mural"):
        config = options.load_config(stage, "paper", str(path))
        assert (config.stage, config.size, config.steps) == (stage, "tiny", 7)


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = 1\n", r"mine.py has no get_config\(stage\) that returns a ConfigDict"),
        ("def get_config(stage:\n", r"mine.py cannot be read as a config: .*\(mine.py, line 1\)"),
        ("import nowhere_at_all\n", "cannot be read as a config: No module named 'nowhere_at_all'"),
        ("x = 1 / 0\n", "mine.py cannot be read as a config: division by zero"),
        ("def get_config(stage):\n    return {}\n", "is to return the ConfigDict of that stage"),
        ("def get_config(stage):\n    return {}[stage]\n", r"get_config\('etcl'\) raised KeyError"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        options.load_config("etcl", "tiny", str(path))


def test_a_file_that_is_missing_or_no_python(tmp_path):
    with pytest.raises(UserError, match="no config file '.*mine.py'"):
        options.load_config("etcl", "tiny", str(tmp_path / "mine.py"))
    (tmp_path / "mine.yaml").write_text("steps: 3\n")
    with pytest.raises(UserError, match="mine.yaml is no Python file; expected a file with get_c"):
        options.load_config("etcl", "tiny", str(tmp_path / "mine.yaml"))


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
def test_a_value_has_the_type_of_the_one_it_replaces(argument, value):
    config = overridden(f"--config.{argument}")
    found = config
    for key in argument.split("=")[0].split("."):
        found = found[key]
    assert found == value and type(found) is type(value)


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
def test_several_values_are_written_in_any_usual_way(text, languages):
    config = overridden(f"--config.sources.triples.languages={text}")
    assert config.sources.triples.languages == languages


def test_numbers_and_patterns_in_tuples():
    assert overridden("--config.sources.triples.weights=2").sources.triples.weights == (2,)
    assert overridden("--config.sources.triples.weights=1,2.5").sources.triples.weights == (1, 2.5)
    config = overridden("--config.optimizer.exclude_from_decay=_bn/,/bias$")
    assert config.optimizer.exclude_from_decay == ("_bn/", "/bias$")


def test_several_overrides_the_last_one_counts():
    config = overridden("--config.steps=5", "--config.seed=2", "--config.steps=6")
    assert (config.steps, config.seed) == (6, 2)
    assert options.load_config("etcl", "tiny").steps != 6  # configs are made anew


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
        ("--config.nothing=1", "it has batch_size, chain, checkpoint_every, "),
        (
            "--config.optimizer=adam",
            "--config.optimizer is a group; set one of config.optimizer.average",
        ),
        ("--config.optimizer.name", "expected --config.name=value, got '--config.optimizer.name'"),
    ],
)
def test_what_is_no_override(argument, message):
    assert message in refusal(argument)
