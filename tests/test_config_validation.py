"""Validation of configs: contradictions within a config, and between a config and its data."""

import pytest

from tf_mural import experiment
from tf_mural.backends.tensorflow import make_strategy
from tf_mural.data import tokenizers
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading

STAGES_AND_SIZES = [
    (stage, size) for stage in config_loading.STAGES for size in config_loading.SIZES
]


def config_with(*changes, stage="mural", size="tiny"):
    config = config_loading.load_config(stage, size)
    config_loading.apply_overrides(config, [f"--config.{change}" for change in changes])
    return config


# --- configs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage, size", STAGES_AND_SIZES)
def test_all_configs_are_valid(stage, size):
    config = config_loading.load_config(stage, size)
    experiment.check_config(config, replicas=1)
    if size != "tiny":
        experiment.check_config(config, replicas=64)
    for term in config.terms.values():
        # The loss is that of the paper: options that this package adds are off.
        assert term.mask_duplicates is False
        if stage != "distil":
            assert (term.margin, term.label_smoothing) == (0.3, 0.1)
            assert term.temperature == "shared"
    # A config has two terms of weight 1/2, three terms of weight 1/3, or one term of weight 1.
    assert sum(term.weight for term in config.terms.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "changes, replicas, message",
    [
        (["terms.image_caption.x=pictures"], 1, "unknown field .*'image_caption'. 'pictures'; kn"),
        (["terms.image_caption.temperature=own"], 1, "unknown temperature .* 'own'; known: shared"),
        (["terms.image_caption.loss=contrastve"], 1, "unknown loss .* did you mean 'contrastive'"),
        (
            ["sources.bitext.fields.source=txt"],
            1,
            "unknown tower .*'source'. 'txt'; .*mean 'text'",
        ),
        (["terms.source_target.x=caption"], 1, "no term uses the field 'source'; remove it from"),
        (
            ["terms.image_caption.y=target", "terms.source_target.y=caption"],
            1,
            "the term 'image_caption' compares image and target, but no source has both",
        ),
        (["terms.image_caption.label_smoothing=1.0"], 1, "caption: label_smoothing is 1.0, expec"),
        (["model.scalars.temperature.shared=0.0"], 1, "shared is 0.0, expected .* from 0.005 to 2"),
        (["sources.bitext.temperature=0.0"], 1, "bitext.temperature is 0.0, expected .* above 0"),
        (["optimizer.learning_rate=-1.0"], 1, "learning_rate is -1.0, expected 0 or more"),
        (["seed=-1"], 1, "seed is -1, expected a number from 0"),
        (["batch_size=1"], 1, r"batch_size is 1, but .* set `config.batch_size=2`$"),
        (
            ["batch_size=10"],
            4,
            r"10, but 4 replicas share it .* set `config.batch_size=8` or `config.batch_size=12`$",
        ),
        # Each replica has one row, whose negatives are on the other replicas.
        (["batch_size=4"], 4, None),
        (["optimizer.warmup_steps=600"], 1, "warmup_steps is 600, but the run has 600 steps"),
        (["optimizer.warmup_steps=-1"], 1, "warmup_steps is -1, but the run has 600 steps"),
        (["optimizer.warmup_steps=0", "steps=0"], 1, "warmup_steps is 0, but the run has 0 steps"),
        (["log_every=0"], 1, "log_every is 0, expected a number from 1"),
        (["keep_checkpoints=0"], 1, "keep_checkpoints is 0, expected a number from 1"),
        (["steps_per_loop=0"], 1, "steps_per_loop is 0, expected a number from 1"),
        (["checkpoint_every=none"], 1, None),
        (["checkpoint_every=-1"], 1, "checkpoint_every is -1, expected a number from 1 or none"),
        (["evaluate_every=0"], 1, "evaluate_every is 0, expected a number from 1 or none"),
        (["checkpoint_minutes=0"], 1, "checkpoint_minutes is 0.0, expected a number above 0 or no"),
        (["microbatch=0"], 1, "microbatch is 0, expected a number from 1 or none"),
        (["loss_chunk=-1"], 1, "loss_chunk is -1, expected a number from 1 or none"),
        (["optimizer.global_clipnorm=0"], 1, "global_clipnorm is 0.0, expected a number above 0"),
        (["optimizer.name=adam"], 1, None),
        (["optimizer.name=adam", "optimizer.exclude_from_layer_adaptation="], 1, None),
        (
            ["optimizer.name=adam", "optimizer.exclude_from_layer_adaptation=_bn/,bias"],
            1,
            r"layer_adaptation is \('_bn/', 'bias'\), but adam has no layer .*name=lamb",
        ),
        (["keep_best=retrieval"], 1, "keep_best is 'retrieval', but evaluate_every is none"),
        (["sources.captions.languages="], 1, "captions.languages is empty: expected codes, or no"),
        (["images.resize=60"], 1, "images.crop is 64, larger than images.resize = 60"),
        (["images.crop=56"], 1, "images.crop is 56, but model.image.image_size is 64: set both to"),
        (["model.image.virtual_batch_size=32"], 2, None),
        (["model.image.virtual_batch_size=0"], 1, "virtual_batch_size is 0, expected a number of"),
        (
            ["model.image.virtual_batch_size=48"],
            2,
            r"size is 48, .* the 64 rows of a replica: .*, "
            r"or `config.batch_size=96` or `config.batch_size=192`$",
        ),
    ],
)
def test_error_of_a_contradiction_names_the_value_to_set(changes, replicas, message):
    config = config_with(*changes)
    if message is None:
        experiment.check_config(config, replicas)
        return
    with pytest.raises(UserError, match=message):
        experiment.check_config(config, replicas)


def test_fields_of_sources_are_checked():
    config = config_with(stage="etcl")
    modalities = {"image": "image", "text_a": "text", "text_b": "text"}
    assert experiment.field_modalities(config) == modalities
    config.sources.again = config.sources.triples.copy_and_resolve_references()
    with pytest.raises(
        UserError, match="two sources have a field 'image'; rename that of 'triples'"
    ):
        experiment.check_config(config, 1)
    del config.sources["again"]
    with config.sources.triples.fields.unlocked():
        config.sources.triples.fields.text_c = "text"
    with pytest.raises(
        UserError, match="'triples' has the fields .* at most 1 of image and 2 of text"
    ):
        experiment.check_config(config, 1)


def test_unknown_options_and_scalars_of_a_term_are_refused():
    config = config_with()
    with config.terms.image_caption.unlocked():
        config.terms.image_caption.margn = 0.1
    message = "terms.image_caption: unknown option .* 'margn'; known: margin, label_smoothing; did"
    with pytest.raises(UserError, match=message):
        experiment.check_config(config, 1)
    config = config_with()
    with config.model.scalars.unlocked():
        config.model.scalars.sigma = {"shared": 1.0}
    with pytest.raises(UserError, match="unknown kind of learned scalar .* 'sigma'; known: temp"):
        experiment.check_config(config, 1)


def test_config_without_terms_is_refused():
    config = config_with()
    config.terms = {}
    with pytest.raises(UserError, match="has no terms, so there is no loss"):
        experiment.check_config(config, 1)


@pytest.mark.parametrize(
    "change, message",
    [
        ("optimizer.name=lam", "unknown optimizer 'lam'; known: lamb, adam; did you mean 'la"),
        (
            "model.image.backbone=b9",
            "model.image.backbone is 'b9'.*; expected tiny, b0, .*hf:<name",
        ),
        ("model.text.backbone=huge", "model.text.backbone is 'huge'; expected nano, tiny, mini"),
        ("model.text.pooling=max", "model.text.pooling is 'max', but 'nano' has a fixed pooling"),
        ("model.text.max_tokens=2", r"max_tokens is 2, but \[CLS\], one piece and \[SEP\] need 3"),
        ("model.image.adapt=lora", "model.image.adapt is 'lora', expected full, frozen, last:k"),
        ("model.text.adapt=lora:0", "model.text.adapt is 'lora:0', but the rank of LoRA must be"),
        (
            "sources.captions.epoch_unit=record",
            "unknown epoch_unit 'record'; .* did you mean 'records'",
        ),
        ("sources.captions.languages=eng", "unknown language .*'captions'. 'eng'; .* mean 'en'"),
        ("sources.captions.min_languages=3", "no record has 3 of the languages en; it has cs, de"),
        ("sources.captions.records=scenes/trian", "no record set in .*scenes/trian"),
        ("sources.captions.records=scenes/bitext", "bitext has no images, but the source 'captio"),
        ("evaluation.retrieval.languages=xx", r"unknown language \(of .*/test\) 'xx'; known: cs"),
    ],
)
def test_unknown_names_are_refused_when_the_run_is_built(data_dir, change, message):
    config = config_with(change, "model.image.image_size=32", "images.crop=32")
    with pytest.raises(UserError, match=message):
        experiment.build(config, str(data_dir), make_strategy("one"))


def test_unknown_task_is_refused_before_training(data_dir):
    config = config_with()
    config.evaluation.retreival = config.evaluation.retrieval
    with pytest.raises(UserError, match="unknown task 'retreival'; .* did you mean 'retrieval'"):
        experiment.build(config, str(data_dir), make_strategy("one"))


# --- vocabularies ---------------------------------------------------------------------------------


def test_vocabulary_is_found_by_name_by_path_and_in_the_data_dir(tmp_path):
    assert tokenizers.load_vocabulary(experiment.find_vocabulary("scenes", "nowhere"))[0] == "[PAD]"
    path = tmp_path / "data" / "mine" / "vocab.txt"
    path.parent.mkdir(parents=True)
    path.write_text("a\n")
    assert experiment.find_vocabulary("mine/vocab.txt", str(tmp_path / "data")) == str(path)
    assert experiment.find_vocabulary(str(path), "nowhere") == str(path)
    with pytest.raises(UserError, match="no vocabulary 'mine.txt', nor .*data/mine.txt: train one"):
        experiment.find_vocabulary("mine.txt", str(tmp_path / "data"))


def test_first_piece_must_be_padding(data_dir, tmp_path):
    pieces = tokenizers.load_vocabulary(experiment.find_vocabulary("scenes", ""))
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*pieces[1:], pieces[0]]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"vocab.txt: expected \[PAD\] in the first line"):
        experiment.build(config_with(f"vocabulary={path}"), str(data_dir), make_strategy("one"))
