"""tools/train.py as a command: its files and output, interruptions, and bad steps."""

import json
import os
import re

import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL_RUN
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tf_mural.data import tokenizers
from tf_mural.data.records import RecordSet
from tf_mural.experiment import config_loading
from tf_mural.training import checkpoints

STEPS = 6
LANGUAGES = ("de", "en", "ko")


def read(folder, name):
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return json.load(file)


# --- a complete run -------------------------------------------------------------------------------


def test_run_prints_its_steps_and_results(finished):
    _, done = finished
    assert done.code == 0 and done.err == "", done.err
    steps = re.findall(r"^step (\d)/6  loss ([\d.]+)  image_caption", done.out, re.MULTILINE)
    assert [int(step) for step, _ in steps] == [1, 2, 3, 4, 5, 6]
    assert all(0 < float(loss) < 30 for _, loss in steps)
    assert re.search(r"step 4/6 .* source_target [\d.]+ .* examples/s  .* left$", done.out, re.M)
    assert re.search(r"^languages of the source bitext, after 6 steps: most passes", done.out, re.M)
    assert re.search(r"^texts that max_tokens=32 cuts: none .* in a sample of", done.out, re.M)
    assert re.search(r"^step 6/6 .*  passes [\d.e-]+ \(\w+\) to [\d.]+ \(\w+\)", done.out, re.M)
    assert re.search(r"^en( +[\d.]+){7} +[\d.]+ to [\d.]+ +44.4$", done.out, re.MULTILINE)


def test_folder_of_a_run_has_all_files(finished, data_dir):
    workdir, _ = finished
    config = config_loading.load_config("mural", "tiny")
    config_loading.apply_overrides(config, [a for a in SMALL_RUN if a.startswith("--config.")])
    config.model.image.padding = "symmetric"  # the default of an encoder without a preset
    expected = json.loads(json.dumps(config.to_dict())) | {"init": None}
    assert read(workdir, "config.json") == expected
    model = read(workdir, "model.json")
    assert model["model"] == json.loads(json.dumps(config.model.to_dict()))
    vocabulary_hash = tokenizers.vocabulary_hash(tokenizers.load_vocabulary(workdir / "vocab.txt"))
    results = read(workdir, "results.json")
    assert vocabulary_hash == model["vocabulary_hash"] == results["vocabulary_hash"]
    assert (results["stage"], results["steps"], results["seed"]) == ("mural", STEPS, 0)
    assert results["skipped_steps"] == 0
    assert set(results["data"]) == {str(data_dir / "scenes" / s) for s in ("train", "bitext")}
    assert results["groups"] == {"trained": ["en", "de"], "unseen": ["ko"]}
    scores = results["evaluation"]["retrieval"]
    assert scores["protocol"] == "retrieval/v1"
    assert sorted(scores["values"]) == list(LANGUAGES)
    assert scores["counts"]["images"] == 12
    with np.load(workdir / "weights.npz") as weights:
        assert any("moving_mean" in name for name in weights.files)
        assert weights["dual_encoder/temperature_shared"].shape == ()
    for name in ("training_images.png", "average_recall.png"):
        assert min(tf.io.decode_png((workdir / name).read_bytes()).shape[:2]) > 100
    assert not [name for name in os.listdir(workdir) if name.endswith(".tmp")]


def test_passes_over_languages_are_in_the_results_and_in_tensorboard(finished, events, data_dir):
    workdir, _ = finished
    passes = read(workdir, "results.json")["passes"]
    batch = read(workdir, "config.json")["batch_size"]
    captions = RecordSet.open(data_dir / "scenes" / "train").language_counts["en"]
    assert passes["captions"] == {"en": pytest.approx(STEPS * batch / captions)}
    for source, values in passes.items():
        for code, value in values.items():
            assert events[1](f"passes/{source}/{code}")[STEPS] == pytest.approx(value, rel=1e-6)
    bitext = RecordSet.open(data_dir / "scenes" / "bitext").has_language.sum(axis=0)
    codes = RecordSet.open(data_dir / "scenes" / "bitext").languages
    texts = sum(passes["bitext"][c] * n for c, n in zip(codes, bitext, strict=True))
    assert texts == pytest.approx(2 * STEPS * batch)


@pytest.fixture(scope="module")
def events(finished):
    folder = str(finished[0] / "tensorboard")
    accumulator = EventAccumulator(folder, size_guidance={"tensors": 0}).Reload()

    def scalars(tag):
        return {e.step: float(tf.make_ndarray(e.tensor_proto)) for e in accumulator.Tensors(tag)}

    return accumulator, scalars


def test_event_files_have_the_scalars_of_each_step(events):
    accumulator, scalars = events
    every_step = ["loss", "loss/image_caption", "loss/source_target", "temperature/shared"]
    every_step += ["learning_rate", "gradient_norm", "examples_per_second", "temperature_clamped"]
    every_step += ["loss_language/en"]
    for tag in every_step:
        assert list(scalars(tag)) == [1, 2, 3, 4, 5, 6], tag
    total, caption, bitext = (scalars(tag) for tag in every_step[:3])
    for step in total:
        assert total[step] == pytest.approx((caption[step] + bitext[step]) / 2, rel=1e-6)
    assert all(rate > 0 for rate in scalars("examples_per_second").values())
    assert all(norm > 0 for norm in scalars("gradient_norm").values())
    # The records contain 12 languages, but not every language occurs in the 8 translation pairs of
    # a step.
    codes = {tag.split("/")[1] for tag in accumulator.Tags()["tensors"] if "loss_language" in tag}
    assert codes > {"de", "ko", "tr", "zh"}


def test_learning_rate_follows_the_schedule_and_moves_the_temperature(events):
    _, scalars = events
    # The rate rises to 1e-2 in two warm-up steps, and then falls linearly to 0 at step 6.
    expected = [0.0, 5e-3, 1e-2, 7.5e-3, 5e-3, 2.5e-3]
    assert list(scalars("learning_rate").values()) == pytest.approx(expected, rel=1e-6)
    temperature = list(scalars("temperature/shared").values())
    assert temperature[0] == pytest.approx(0.07)  # the first learning rate is 0
    for before, after, rate in zip(temperature, temperature[1:], expected[1:], strict=False):
        # LAMB changes a scalar variable by rate * |value|, for any gradient.
        assert abs(after - before) == pytest.approx(rate * before, rel=1e-4)


def test_event_files_have_average_recalls_and_training_images(events, finished):
    accumulator, scalars = events
    scores = read(finished[0], "results.json")["evaluation"]["retrieval"]["values"]
    for code in LANGUAGES:
        for name in set(scores[code]) - {"chance"}:
            recalls = scalars(f"retrieval/{code}/{name}")
            assert list(recalls) == [3, 6]
            assert recalls[6] == pytest.approx(scores[code][name])
    (event,) = accumulator.Tensors("training_images")
    png = tf.make_ndarray(event.tensor_proto)[2]
    on_disk = (finished[0] / "training_images.png").read_bytes()
    np.testing.assert_array_equal(tf.io.decode_png(png), tf.io.decode_png(on_disk, channels=3))


def test_finished_run_is_not_trained_again(finished, train):
    workdir, first = finished
    before = {name: (workdir / name).stat().st_mtime_ns for name in ("weights.npz", "config.json")}
    results = read(workdir, "results.json")
    again = train(*SMALL_RUN, f"--workdir={workdir}")
    assert again.code == 0, again.err
    assert "mural: already finished" in again.out and "step 1/6" not in again.out
    assert again.out.split("in percent:")[1] == first.out.split("in percent:")[1]
    assert before == {name: (workdir / name).stat().st_mtime_ns for name in before}
    assert read(workdir, "results.json") == results


# --- interruption and resume ----------------------------------------------------------------------


@pytest.mark.slow
def test_interrupted_run_resumes_to_the_same_weights(finished, train, tmp_path):
    arguments = (*SMALL_RUN, "--workdir=stopped", "--config.evaluate_every=none")
    stopped = train(*arguments, interrupt_at="step 1/6")
    saved = re.fullmatch(r"SIGINT: saved at step (\d); the same command continues.*\n", stopped.err)
    assert stopped.code == 130 and saved, stopped.err
    assert "SIGINT: saving at the end of this step" in stopped.out
    assert not (tmp_path / "stopped" / "results.json").exists()
    resumed = train(*arguments)
    assert resumed.code == 0, resumed.err
    # The saved step depends on the time of the signal. The resumed run repeats no step.
    step = int(saved[1])
    assert re.search(rf"^resuming at step {step}$", resumed.out, re.MULTILINE)
    printed = [int(step) for step in re.findall(r"^step (\d)/6", resumed.out, re.MULTILINE)]
    assert printed == list(range(step + 1, STEPS + 1))
    with (
        np.load(finished[0] / "weights.npz") as expected,
        np.load(tmp_path / "stopped" / "weights.npz") as resumed_weights,
    ):
        assert expected.files == resumed_weights.files
        for name in expected.files:
            np.testing.assert_array_equal(resumed_weights[name], expected[name], err_msg=name)


def test_non_finite_loss_stops_the_run_before_it_is_saved(train, tmp_path):
    bad = ("--config.optimizer.learning_rate=1e30", "--config.checkpoint_every=1")
    done = train(*SMALL_RUN, *bad, "--workdir=bad", "--config.evaluate_every=none")
    message = done.error()
    # The learning rates are 0, 5e29 and 1e30. After the second update, the loss is not finite.
    assert message.startswith("step 3: the loss of the term image_caption is not finite; stopped")
    assert "--config.optimizer.learning_rate" in message
    assert "step 2/6" in done.out and "step 3/6" not in done.out
    last = tf.train.load_checkpoint(str(tmp_path / "bad" / "checkpoints" / "step-2"))
    values = {name: last.get_tensor(name) for name in last.get_variable_to_shape_map()}
    assert values["step"] == 2 and checkpoints.has_checkpoint(tmp_path / "bad")
    names = {path.name.split(".")[0] for path in (tmp_path / "bad" / "checkpoints").iterdir()}
    assert names == {"step-1", "step-2"}
    numbers = [v for v in values.values() if isinstance(v, np.ndarray) and v.dtype == np.float32]
    assert len(numbers) > 100 and all(np.isfinite(v).all() for v in numbers)
    assert not (tmp_path / "bad" / "weights.npz").exists()


@pytest.mark.slow
def test_skipped_steps_are_printed_and_counted_and_change_nothing(train, tmp_path):
    options = ("--config.on_bad_step=skip", "--config.max_gradient_norm=1e-3")
    options += ("--config.precision=mixed_bfloat16", "--config.remat=true")
    done = train(*SMALL_RUN, *options, "--workdir=skipped", "--config.evaluate_every=none")
    assert done.code == 0, done.err
    line = r"^step (\d): skipped, because gradient_norm is [\d.]+, above max_gradient_norm=0.001$"
    assert re.findall(line, done.out, re.MULTILINE) == list("123456")
    assert read(tmp_path / "skipped", "results.json")["skipped_steps"] == 6
    accumulator = EventAccumulator(str(tmp_path / "skipped" / "tensorboard")).Reload()
    counts = [float(tf.make_ndarray(e.tensor_proto)) for e in accumulator.Tensors("skipped_steps")]
    assert counts == [1, 2, 3, 4, 5, 6]
    with np.load(tmp_path / "skipped" / "weights.npz") as weights:
        means = [weights[name] for name in weights.files if name.endswith("moving_mean")]
        assert means and all((mean == 0).all() for mean in means)  # the initial moving means
        assert {weights[name].dtype for name in weights.files} == {np.dtype("float32")}
    assert read(tmp_path / "skipped", "model.json")["precision"] == "mixed_bfloat16"


@pytest.mark.slow
def test_mirrored_strategy_trains_the_same_weights(finished, train, tmp_path):
    arguments = (*SMALL_RUN, "--config.evaluate_every=none", "--strategy=mirrored")
    done = train(*arguments, "--workdir=mirrored")
    assert done.code == 0, done.err
    with (
        np.load(finished[0] / "weights.npz") as expected,
        np.load(tmp_path / "mirrored" / "weights.npz") as mirrored,
    ):
        # With one replica, batches, seeds and arithmetic are the same as without a strategy.
        for name in expected.files:
            np.testing.assert_allclose(mirrored[name], expected[name], rtol=1e-3, atol=1e-4)
