"""Smaller sizes of embeddings: evaluation, search and export of the first values of each row."""

import json
import shutil
import warnings

import numpy as np
import pytest
from conftest import ROOT
from helpers import keras_trainers
from helpers.indexes import make_vector_index, unit_rows

import tf_mural
from tf_mural import truncation
from tf_mural.cli import evaluate as evaluate_command
from tf_mural.cli import export as export_command
from tf_mural.cli.error_lines import with_flags
from tf_mural.data.records import Record, RecordSet, write
from tf_mural.errors import UserError
from tf_mural.evaluation.results import Result
from tf_mural.experiment.evaluation import prepare_evaluation
from tf_mural.reports import sizes_table


def cut(rows, dim):
    """Returns truncated rows, computed in float64."""
    rows = np.asarray(rows, np.float64)[:, :dim]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class RandomEmbedder:
    """Embeds each image and text as a random row of its own; counts the calls."""

    width, calls = 12, 0

    def embed_images(self, encoded):
        return self._rows(encoded)

    def embed_texts(self, texts):
        return self._rows(text.encode() for text in texts)

    def _rows(self, items):
        self.calls += 1
        rows = [np.random.default_rng(list(item)).normal(size=self.width) for item in items]
        return cut(np.reshape(rows, (-1, self.width)), self.width).astype(np.float32)


def test_truncated_rows_are_unit_prefixes():
    rows = unit_rows(9, 12)
    np.testing.assert_allclose(truncation.truncate_array(rows, 5), cut(rows, 5), atol=1e-6)
    assert truncation.truncate_array(rows, None) is rows
    assert truncation.truncate_array(rows, 12) is rows
    zero = np.zeros((1, 12), np.float32)
    assert not truncation.truncate_array(zero, 5).any()  # and not nan


@pytest.mark.parametrize("dim", [0, -1, 13, 5.0, True])
def test_sizes_outside_of_the_embeddings_are_refused(dim):
    with pytest.raises(UserError, match=f"`dim={dim}`: expected a size from 1 to 12, the width"):
        truncation.truncate(unit_rows(2, 12), dim)


def test_an_embedder_returns_and_reports_its_size():
    model = keras_trainers.make_model()
    model.tokenizer = keras_trainers.make_tokenizer()
    model.preprocessing = tf_mural.data.Preprocessing(36, 32)
    texts, images = ["a", "b c"], [np.full((40, 40, 3), 90, np.uint8)]
    whole = tf_mural.Embedder.from_model(model)
    small = tf_mural.Embedder.from_model(model, dim=5)
    assert (small.width, small.dim, whole.dim) == (5, 5, None) and whole.width > 5
    for method, items in (("embed_texts", texts), ("embed_images", images)):
        rows, expected = (getattr(e, method)(items) for e in (small, whole))
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, cut(expected, 5), atol=1e-6)
    again = small.truncated(None)
    assert again.width == whole.width and again.fingerprint == small.fingerprint
    with pytest.raises(UserError, match=f"expected a size from 1 to {whole.width}"):
        tf_mural.Embedder.from_model(model, dim=whole.width + 1)


# --- evaluation -----------------------------------------------------------------------------------


@pytest.fixture
def records(tmp_path):
    made = [
        Record(str(i), (bytes([i, 7]),), (("en", f"text {i}"), ("de", f"Text {i}")))
        for i in range(20)
    ]
    write(tmp_path / "set" / "val", made)
    return tmp_path / "set" / "val"


def test_an_evaluation_by_size_equals_one_evaluation_per_size_and_embeds_once(records):
    evaluation = prepare_evaluation("retrieval", "", str(records))
    embed = RandomEmbedder()
    result = evaluation.run(embed, dims=(12, 6, 2))
    calls = embed.calls
    assert list(result.sizes) == ["12", "6", "2"]
    assert result.values == evaluation.run(embed).values
    assert calls == embed.calls - calls
    for dim in (6, 2):
        expected = evaluation.run(truncation.TruncatedEmbedder(embed, dim))
        actual = result.of_size(dim)
        assert (actual.values, actual.intervals) == (expected.values, expected.intervals)
        assert actual.values != result.values
    with pytest.raises(UserError, match="unknown size '3'; known: 12, 6, 2"):
        result.of_size(3)
    assert "sizes" in result.as_dict() and "sizes" not in evaluation.run(embed).as_dict()


def test_the_tables_have_a_column_per_size_or_a_table_per_size():
    sizes = {
        str(dim): {"values": {"en": {"average_recall": float(dim), "chance": 1.0}}, "intervals": {}}
        for dim in (12, 6)
    }
    table = sizes_table(Result("retrieval", "retrieval/v1", {}, {}, {}, sizes))
    assert table.splitlines()[0].split() == ["AR", "(%)", "chance", "12", "6"]
    assert table.splitlines()[-1].split() == ["en", "1.0", "12.0", "6.0"]
    sizes = {key: {"values": {"en": {"accuracy": 3.0}}, "intervals": {}} for key in ("12", "6")}
    table = sizes_table(Result("zero_shot", "zero_shot/v1", {}, {}, {}, sizes))
    assert table.count("accuracy") == 2 and "size 12:\n" in table and "size 6:\n" in table


def test_the_command_evaluates_each_size(tools, finished, data_dir, tmp_path):
    workdir = tmp_path / "model"
    shutil.copytree(finished[0], workdir, ignore=shutil.ignore_patterns("checkpoints"))
    flags = (f"--model={workdir}", f"--data_dir={data_dir}", "--records=scenes/test")
    done = tools.run(tmp_path, "evaluate.py", *flags, "--languages=en,de,ko", "--dims=128,16")
    assert done.code == 0, done.err
    name = "retrieval-scenes-test-languages-en-de-ko-dims-128-16.json"
    result = json.loads((workdir / "evals" / name).read_text())
    expected = json.loads((workdir / "results.json").read_text())["evaluation"]["retrieval"]
    assert result["dims"] == [128, 16] and result["values"] == expected["values"]
    assert result["sizes"]["128"]["values"] == expected["values"]
    assert result["sizes"]["16"]["values"] != expected["values"]
    columns = next(line.split() for line in done.out.splitlines() if line.startswith("AR (%)"))
    assert columns[2:] == ["chance", "128", "16"] and "note:" not in done.out


@pytest.mark.parametrize(
    "dims, message",
    [
        ("128,0", "--dims=0: expected a size from 1 to 128"),
        ("129", "--dims=129: expected a size from 1 to 128, the width of the model"),
        ("128,x", "--dims=128,x: expected sizes such as 640,128"),
        ("8,16,8", "--dims=8,16,8: a size occurs twice"),
    ],
)
def test_wrong_sizes_write_no_result(finished, data_dir, dims, message):
    flags = [f"--model={finished[0]}", f"--data_dir={data_dir}", "--records=scenes/test"]
    with pytest.raises(UserError) as error:
        evaluate_command.main([*flags, f"--dims={dims}"])
    assert message in with_flags(str(error.value))
    assert not (finished[0] / "evals").exists()


# --- search and export ----------------------------------------------------------------------------


def test_queries_of_another_size_are_refused(tmp_path):
    index = make_vector_index(tmp_path / "index", unit_rows(5, 4))
    assert (index.dim(12), index.dim(4)) == (4, None)
    with pytest.raises(UserError, match=r"of the size 4, but .* Embedder.load\(model, dim=4\)"):
        index.search(unit_rows(2, 12), 3)


def test_a_preset_and_two_reductions_are_refused(tmp_path):
    flags = ["--model=m", f"--out={tmp_path}/out", "--dim=8"]
    with pytest.raises(UserError, match=r"a preset contains the whole model.* dim=8. truncates"):
        export_command.main([*flags, "--format=preset"])
    with pytest.raises(UserError, match="give one of the two flags"):
        export_command.main([*flags, "--format=onnx", "--dimensions=8"])
    with pytest.raises(UserError, match="--dim=0: .*positive"):
        export_command.main([*flags, "--dim=0"])


@pytest.fixture(scope="module")
def sized(tools, data_dir, make_once):
    """The workdir of a run whose terms name the sizes 16, 8 and 4."""

    def make(folder):
        config = f"--config={ROOT}/tests/sizes_config.py"
        arguments = (config, "--stage=mural", f"--data_dir={data_dir}", "--strategy=one")
        done = tools.run(folder, "train.py", *arguments, f"--workdir={folder}/run")
        assert not done.code, done.err
        (folder / "out.txt").write_text(done.out)

    return make_once("sized", make) / "run"


@pytest.mark.slow
def test_a_run_reports_the_sizes_of_its_terms(sized, data_dir):
    result = json.loads((sized / "results.json").read_text())["evaluation"]["retrieval"]
    assert list(result["sizes"]) == ["16", "8", "4"]
    options = {"records": "scenes/test", "data_dir": data_dir, "languages": ["en"]}
    again = tf_mural.evaluate(sized, dims=(16, 8, 4), **options)
    assert again.values == result["values"]
    assert again.sizes["4"]["values"] == result["sizes"]["4"]["values"]
    assert "average recall of mural by the size of the embeddings:" in (
        (sized.parent / "out.txt").read_text()
    )
    small = tf_mural.Embedder.load(sized, dim=4)
    assert tf_mural.evaluate(small, **options).values == result["sizes"]["4"]["values"]
    for model, dim in ((sized, 17), (small, 5)):
        with pytest.raises(UserError, match=f"`dims={dim}`: expected a size from 1 to {dim - 1}"):
            tf_mural.evaluate(model, dims=(dim,), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tf_mural.Embedder.load(sized, dim=8).dims == (16, 8, 4)
    with pytest.warns(UserWarning, match="of the sizes 16, 8, 4, but the size is 5"):
        tf_mural.Embedder.load(sized, dim=5)


@pytest.mark.slow
def test_an_index_remembers_its_size(tools, sized, data_dir, tmp_path):
    flags = (f"--model={sized}", f"--records={data_dir}/scenes/test", "--out=index")
    done = tools.run(tmp_path, "index.py", *flags, "--dim=5")
    assert done.code == 0, done.err
    assert "note: the model was trained with embeddings of the sizes 16, 8, 4" in done.out
    done = tools.run(tmp_path, "search.py", "a red circle", "--index=index", "--json=hits.json")
    assert done.code == 0, done.err
    hits = json.loads((tmp_path / "hits.json").read_text())["results"]
    embedder = tf_mural.Embedder.load(sized)
    images = [record.images[0] for record in RecordSet.open(data_dir / "scenes" / "test")]
    scores = (
        cut(embedder.embed_texts(["a red circle"]), 5) @ cut(embedder.embed_images(images), 5).T
    )
    order = np.argsort(-scores[0], kind="stable")
    assert [hit["record"] for hit in hits] == order[: len(hits)].tolist()
    np.testing.assert_allclose(
        [hit["score"] for hit in hits], scores[0][order[: len(hits)]], atol=1e-5
    )
    done = tools.run(tmp_path, "index.py", *flags, "--dim=8")
    assert done.code == 2 and "index with width 5, but this command has width 8" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["saved_model", "onnx"])
def test_an_export_has_the_chosen_size(tools, sized, tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("tf2onnx", reason="pip install -r requirements-export.txt")
    out = tmp_path / "out"
    flags = (f"--model={sized}", f"--format={kind}", f"--out={out}", "--dim=8")
    done = tools.run(tmp_path, "export.py", *flags)
    assert done.code == 0 and "maximum differences" in done.out, done.err
    embedder = tf_mural.Embedder.load(sized)
    expected = cut(embedder.embed_texts(["a red circle", "ein Stern"]), 8)
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(out / "text.onnx")
        tokens = np.asarray(embedder.model.tokenizer(["a red circle", "ein Stern"]))
        (rows,) = session.run(None, {"tokens": tokens})
        assert "has the first 8 values of each embedding" in (out / "README.md").read_text()
    else:
        import tensorflow as tf

        signature = tf.saved_model.load(str(out)).signatures["embed_texts"]
        rows = signature(texts=tf.constant(["a red circle", "ein Stern"]))["embeddings"]
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    done = tools.run(tmp_path, "export.py", *flags[:2], "--out=other", "--dim=17")
    assert done.code == 2 and "--dim=17: expected a size from 1 to 16" in done.err
