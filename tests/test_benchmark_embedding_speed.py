"""The benchmark of the embedding of texts and images: flags, ratios and the process of the peer."""

import json
import sys

import pytest

from benchmarks import embedding_speed
from benchmarks.worker import ScriptWorker


class FakeSides:
    """Stands for a process; the seconds of its calls are fixed."""

    def __init__(self, seconds):
        self.seconds, self.calls = seconds, []

    def call(self, _, *arguments):
        self.calls.append(arguments)
        side = arguments[1]
        if side not in self.seconds:
            raise RuntimeError(f"a traceback\nno {side}")
        return None, self.seconds[side], None


def test_rates_and_the_ratio_of_the_fastest_sides_are_computed(capsys):
    own = FakeSides({"embedder": 2.0, "saved_model": 4.0, "onnx": 8.0})
    peer = FakeSides({"eager": 5.0, "channels_last": 3.0})
    results = embedding_speed.measure("images", own, peer, [64], {64: 120}, rounds=2)
    sides = results[64]["sides"]
    assert sides["tf_mural embedder"] == {"seconds": [2.0, 2.0], "per_second": 60.0}
    # A side of the peer that fails, such as a missing compiler, is left out.
    assert list(sides) == [
        "tf_mural embedder",
        "tf_mural saved_model",
        "tf_mural onnx",
        "pytorch eager",
        "pytorch channels_last",
    ]
    assert "compiled is left out: no compiled" in capsys.readouterr().out
    assert results[64]["ratio"] == 60.0 / 40.0
    facts = {"flops": {"images": {"64": 1e9}}, "peak_flops_per_second": {"tf_mural": 1e11}}
    lines = embedding_speed.table({"images": results, **facts})
    assert "60.0 per second, 60% of the peak" in lines[1] and "PyTorch: 1.50" in lines[-1]


def test_only_chosen_sides_are_measured_and_a_failure_of_tf_mural_is_an_error():
    own = FakeSides({"embedder": 2.0})
    results = embedding_speed.measure("texts", own, None, [1], {1: 10}, 1, ["embedder"])
    assert list(results[1]) == ["sides"] and list(results[1]["sides"]) == ["tf_mural embedder"]
    with pytest.raises(RuntimeError, match="no saved_model"):
        embedding_speed.measure("texts", own, None, [1], {1: 10}, 1)


def test_the_process_of_the_peer_answers_or_reports_its_error(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"texts": ["a"]}))
    peer = ScriptWorker(sys.executable, embedding_speed.PEER_SCRIPT, str(path))
    with pytest.raises(RuntimeError, match="AttributeError: .*no_method"):
        peer.call("no_method")
    peer.close()
    peer = ScriptWorker(sys.executable, embedding_speed.PEER_SCRIPT, str(tmp_path / "missing"))
    with pytest.raises(RuntimeError, match="ended with code 1"):
        peer.call("embed")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--parts=sounds"], "unknown sounds; known: texts, images, folder"),
        (["--sides=onyx"], "unknown onyx; known: channels_last"),
        (["--rounds=0"], "at least 1"),
    ],
)
def test_invalid_flags_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        embedding_speed.parse(["--presets=presets", *flags])
    assert message in capsys.readouterr().err
