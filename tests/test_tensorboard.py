"""TensorBoard files of a run: scalars, retrieved images, projector, hyperparameters, profile."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tf_mural import experiment, reports
from tf_mural.data.records import deserialize
from tf_mural.errors import UserError
from tf_mural.evaluation import results
from tf_mural.experiment import config_loading, run_report
from tf_mural.training import metric_writer

GREEN, RED = (26, 127, 55), (207, 34, 46)


def image(gray, side=20):
    return np.full((side, side, 3), gray, np.uint8)


def test_retrieval_grid_frames_hits_green_and_others_red(tmp_path):
    path = tmp_path / "grid.png"
    rows = [
        ("de", "ein Kreis", [(image(10), False), (image(200), True)]),
        ("en", "a circle " * 40, [(image(90), True)]),
    ]
    assert reports.retrieval_grid(path, rows) == []
    grid = np.asarray(Image.open(path))
    frames = [tuple(grid[70, 302]), tuple(grid[70, 302 + 124]), tuple(grid[70 + 124, 302])]
    assert frames == [RED, GREEN, GREEN]
    assert tuple(grid[70, 350]) == (10, 10, 10) and tuple(grid[70, 474]) == (200, 200, 200)
    assert (grid[12:130, :290] < 128).any()  # dark pixels of the query text
    with pytest.raises(ValueError, match="Expected rows"):
        reports.retrieval_grid(path, [])


def test_projector_files_have_embeddings_labels_and_images(tmp_path):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(3, 4)).astype(np.float32)
    labels = [("", "a\tcircle\n"), ("de", "ein Kreis"), ("ja", "円")]
    reports.write_projector(tmp_path, embeddings, [image(50), None, None], labels)
    np.testing.assert_allclose(
        np.loadtxt(tmp_path / "embeddings" / "tensors.tsv"), embeddings, rtol=1e-4
    )
    lines = (tmp_path / "embeddings" / "metadata.tsv").read_text().splitlines()
    assert lines == [
        "kind\tlanguage\ttext",
        "image\t-\ta circle",
        "text\tde\tein Kreis",
        "text\tja\t円",
    ]
    sprite = np.asarray(Image.open(tmp_path / "embeddings" / "sprite.png"))
    assert sprite.shape == (96, 96, 3) and tuple(sprite[20, 20]) == (50, 50, 50)
    assert tuple(sprite[2, 50]) != tuple(sprite[50, 2])  # different colors for different languages
    with pytest.raises(ValueError, match="as many embeddings"):
        reports.write_projector(tmp_path, embeddings, [None], labels)


class FakeRunner:
    processes = None

    def __init__(self):
        self.steps = []

    def start(self, step):
        self.steps.append(step)

    def run(self, count):
        self.steps.append(count)
        return {"loss": [0.0] * count}


@pytest.mark.parametrize(
    ("start", "counts", "expected"),
    [
        (0, [1] * 6, ["1", "1", "begin", "1", "1", "end", "1", "1"]),
        (0, [4, 4], ["begin", "4", "end", "4"]),
        (3, [1, 1], ["begin", "1", "end", "1"]),
        (5, [1], ["1"]),
        # The run ends before the last step of the range to profile.
        (0, [1] * 3, ["1", "1", "begin", "1", "end"]),
    ],
)
def test_profiler_records_the_chosen_steps(start, counts, expected):
    events, runner = [], FakeRunner()
    profiler = (lambda folder: events.append("begin"), lambda: events.append("end"))
    with experiment.profiled(runner, (2, 4), "folder", profiler) as profiled:
        profiled.start(start)
        for count in counts:
            num_events = len(events)
            profiled.run(count)
            has_begun = len(events) > num_events and events[num_events] == "begin"
            events.insert(num_events + has_begun, str(count))
    assert events == expected


def test_runner_is_unchanged_without_steps_to_profile():
    runner = FakeRunner()
    with experiment.profiled(runner, None, "folder", ()) as profiled:
        assert profiled is runner


@pytest.mark.parametrize("steps", [(3,), (5, 5), (0, 100_000), (-1, 3)])
def test_invalid_steps_to_profile_are_refused(steps):
    config = config_loading.load_config("etcl", "tiny")
    config.profile_steps = steps
    with pytest.raises(UserError, match="profile_steps is"):
        experiment.check_config(config, 1)


@pytest.fixture(scope="module")
def workdir(finished, data_dir, tmp_path_factory):
    """A copy of a finished run, to which retrieval examples are added."""
    folder = tmp_path_factory.mktemp("shown") / "run"
    shutil.copytree(finished[0], folder, ignore=shutil.ignore_patterns("checkpoints"))
    log = metric_writer.MetricWriter(str(folder / "tensorboard"), 1)
    records = experiment.open_records("scenes/test", str(data_dir))
    experiment.write_retrieval_examples(str(folder), records, log, 6, count=8)
    return folder


def test_each_language_has_a_grid_of_retrieved_images(workdir):
    grids = sorted(name for name in os.listdir(workdir) if name.startswith("retrieval_"))
    assert len(grids) == 12 and "retrieval_ko.png" in grids
    assert Image.open(workdir / "retrieval_en.png").size[0] > 600


def test_points_of_images_are_labelled_with_the_first_text_of_their_record(workdir, data_dir):
    path = workdir / "tensorboard" / "embeddings" / "metadata.tsv"
    labels = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    images = [text for kind, _, text in labels if kind == "image"]
    record_set = experiment.open_records("scenes/test", str(data_dir))
    texts = [deserialize(data).texts for data in record_set.read(range(8))]
    assert images == [record[0][1] for record in texts]
    assert all(code == "en" and len(record) == 12 for record in texts for code, _ in record[:1])


def test_tensorboard_serves_scalars_images_projector_and_hparams(workdir):
    """Queries the HTTP API of a TensorBoard process, and opens its page if there is a browser."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--host=127.0.0.1", f"--port={port}"]
    command += [f"--logdir={workdir}", "--reload_interval=1", "--load_fast=false"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def get(path):
        with urllib.request.urlopen(f"{url}/data/plugin/{path}", timeout=10) as response:
            return response.read()

    try:
        tags = _wait_for(lambda: json.loads(get("images/tags")))
        (run,) = (r for r in tags if "retrieval/de" in str(tags[r]))
        assert {f"retrieval/{code}" for code in ("de", "en", "ko", "zh")} <= set(tags[run])
        scalars = json.loads(get("scalars/tags"))
        assert "loss" in scalars[run] and "retrieval/en/average_recall" in scalars[run]
        assert run in json.loads(get("projector/runs"))
        points = json.loads(get(f"projector/info?run={run}"))["embeddings"]
        assert points[0]["tensorName"] == "embeddings"
        values = np.frombuffer(get(f"projector/tensor?run={run}&name=embeddings"), "<f4")
        assert values.size == (8 + 12 * 8) * 128
        session = json.dumps({"experimentName": ""}).encode()
        request = urllib.request.Request(f"{url}/data/plugin/hparams/experiment", session)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=10) as response:
            names = {info["name"] for info in json.load(response)["hparamInfos"]}
        assert {"stage", "optimizer/learning_rate", "image_caption/margin"} <= names
        _open_in_browser(url, workdir / "tensorboard.png")
    finally:
        process.terminate()
        process.wait()


def _wait_for(request, seconds=60):
    """Returns the first non-empty result of `request()`."""
    end = time.monotonic() + seconds
    while True:
        try:
            if response := request():
                return response
        except OSError:
            pass
        assert time.monotonic() < end, "TensorBoard does not answer"
        time.sleep(0.5)


def _open_in_browser(url, path):
    """Opens the page and saves a screenshot; does nothing without a browser."""
    chromium = shutil.which("chromium")
    if not chromium:
        return
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(f"{url}/#images")
        page.get_by_text("retrieval").first.wait_for()
        page.wait_for_timeout(1500)
        page.screenshot(path=str(path))
        browser.close()
    assert path.stat().st_size > 10_000


def test_evaluation_is_printed_and_its_time_does_not_count_as_training(finished, monkeypatch):
    lines = re.findall(r"^scores at step 3: retrieval (.*)$", finished[1].out, re.M)
    assert len(lines) == 1 and re.fullmatch(r"en [\d.]+, de [\d.]+, ko [\d.]+", lines[0]), lines
    now, log_lines = [0.0], []
    monkeypatch.setattr(metric_writer.time, "perf_counter", lambda: now[0])
    log = metric_writer.MetricWriter(
        str(finished[0].parent / "rates"), 8, print_fn=log_lines.append
    )
    log.start(0, 6)
    for step, seconds in ((1, 10.0), (2, 1.0)):
        now[0] += seconds
        log.write(step, {"loss": 1.0})
    now[0] += 100.0  # an evaluation of 100 seconds
    log.reset_timer(2)
    now[0] += 2.0
    log.write(4, {"loss": 1.0})
    assert [re.search(r"(\d+) examples/s", line)[1] for line in log_lines] == ["1", "8", "8"]


@pytest.mark.parametrize(
    "count, scores", [(2, "a0 0.0, a1 1.0"), (30, "mean 14.5, 0.0 (a0) to 29.0")]
)
def test_line_of_many_scores_has_mean_and_range(count, scores):
    values = {f"a{i}": {"average_recall": float(i)} for i in range(count)}
    intervals = {code: {"average_recall": (0.0, 1.0)} for code in values}
    result = results.Result("retrieval", "v1", values, {}, intervals)
    line = run_report.scores_line(7, {"retrieval": result}, is_best=True)
    assert line.startswith(f"scores at step 7: retrieval {scores}")
    assert line.endswith("; the best so far")
