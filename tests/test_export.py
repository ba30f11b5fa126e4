"""Exports models to SavedModel and ONNX, and checks the flags of tools/export.py."""

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from helpers.image_cases import png16, with_alpha, with_exif
from helpers.images import encode

import tf_mural
from tf_mural import experiment, export
from tf_mural.data.records import Record
from tf_mural.errors import UserError
from tf_mural.experiment import run_report
from tf_mural.export import image_decoding, saved_model
from tf_mural.export.parity import assert_close

TEXTS = ["a red circle", "ein roter Kreis", ""]
SLOW = pytest.mark.slow
QUANTIZATIONS = {"fp16": "float16 weights", "int8": "int8 matrix products in the text encoder"}


@pytest.mark.parametrize("end, expected", [((), 3), ((9,), 3), ((0,), 4)])
def test_a_saved_model_encodes_only_the_columns_that_a_batch_of_texts_uses(end, expected):
    class Rows:
        pad_id = 0

        def __init__(self, end):
            self.end = end

        def __call__(self, texts):
            rows = [[2, 7, 3, 0, 0, 0], [2, 0, 0, 0, 0, 0]]
            return tf.constant(rows, tf.int32)[: tf.shape(texts)[0]]

    tokens = saved_model._shortest_tokens(Rows(end), tf.constant(["a", "b"]))
    assert tokens.shape == (2, expected)
    assert tokens.numpy()[0].tolist() == [2, 7, 3, 0][:expected]
    assert saved_model._shortest_tokens(Rows(()), tf.constant([], tf.string)).shape == (0, 1)


@pytest.mark.slow
def test_a_saved_model_takes_encoded_images_and_strings(tools, finished, tmp_path):
    folder = tmp_path / "saved"
    flags = (f"--model={finished[0]}", "--format=saved_model", f"--out={folder}")
    assert "maximum differences from the model" in tools.run(tmp_path, "export.py", *flags).out
    # A process loads the SavedModel like a server, without importing this package.
    code = (
        "import sys, numpy as np, tensorflow as tf, tensorflow_text\n"
        "loaded = tf.saved_model.load(sys.argv[1])\n"
        "texts = loaded.signatures['serving_default'](texts=tf.constant(['a red circle', '']))\n"
        "files = tf.constant([open(path, 'rb').read() for path in sys.argv[3:]])\n"
        "images = loaded.signatures['embed_images'](images=files)['embeddings']\n"
        "pixels = np.load(sys.argv[1] + '.npy')\n"
        "pixels = loaded.signatures['embed_pixels'](pixels=pixels)['embeddings']\n"
        "np.savez(sys.argv[2], texts=texts['embeddings'], images=images, pixels=pixels)\n"
        "assert not [name for name in sys.modules if name.startswith('tf_mural')]\n"
    )
    contents = [
        encode(np.zeros((33, 20, 3), np.uint8)),
        with_exif(6, format="PNG"),
        with_exif(8, quality=95),
        encode(with_alpha()),
        png16(np.random.default_rng(0).integers(0, 1 << 16, (50, 40, 4), np.uint16)),
    ]
    files = [str(tmp_path / f"{number}.image") for number in range(len(contents))]
    for path, data in zip(files, contents, strict=True):
        (tmp_path / path).write_bytes(data)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 50, 70, 3), np.uint8)
    np.save(f"{folder}.npy", pixels)
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "out.npz"), *files]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-2000:]
    embedder = tf_mural.Embedder.load(finished[0])
    with np.load(tmp_path / "out.npz") as actual:
        expected = embedder.embed_texts(["a red circle", ""])
        np.testing.assert_allclose(actual["texts"], expected, atol=1e-5)
        # The graph decodes rotated JPEGs with TensorFlow, and the embedder with Pillow.
        expected = embedder.embed_images(files)
        np.testing.assert_allclose(actual["images"][[0, 1]], expected[[0, 1]], atol=1e-5)
        np.testing.assert_allclose(actual["images"], expected, atol=5e-3)
        expected = embedder.embed_images(list(pixels))
        np.testing.assert_allclose(actual["pixels"], expected, atol=1e-5)
    card = (folder / "README.md").read_text()
    assert "`embed_pixels`" in card and image_decoding.LIMITS in card


@pytest.mark.parametrize("quantize", ["", *(pytest.param(q, marks=SLOW) for q in QUANTIZATIONS)])
def test_onnx_runs_without_this_package(tools, finished, data_dir, tmp_path, quantize):
    pytest.importorskip("tf2onnx", reason="pip install -r requirements-export.txt")
    import onnxruntime

    folder = tmp_path / "onnx"
    flags = (f"--model={finished[0]}", "--format=onnx", f"--out={folder}")
    if quantize:
        flags += (f"--quantize={quantize}", f"--records={data_dir}/scenes/test")
        flags += ("--max_recall_loss=100",)
    output = tools.run(tmp_path, "export.py", *flags).out
    assert "image " in output and "text " in output
    card = (folder / "README.md").read_text()
    for text in (output, card):
        assert ("| language | before | after | difference |" in text) == bool(quantize)
    if quantize:
        assert QUANTIZATIONS[quantize] in card and "with 12\nimages of" in card
    files = ["README.md", "image.onnx", "preprocessing.json", "text.onnx", "tokenizer.json"]
    files.append("vocab.txt")
    assert sorted(os.listdir(folder)) == files
    preprocessing = json.loads((folder / "preprocessing.json").read_text())
    assert preprocessing["images"]["crop"] == 64 and preprocessing["texts"]["max_tokens"] == 32
    model = experiment.load(str(finished[0]))
    session = onnxruntime.InferenceSession(str(folder / "text.onnx"))
    tokens = np.asarray(model.tokenizer(TEXTS))
    exported = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [encoding.ids for encoding in exported.encode_batch(TEXTS)] == tokens.tolist()
    (actual,) = session.run(None, {"tokens": tokens})
    tolerance = 1e-2 if quantize else 1e-4
    np.testing.assert_allclose(actual, model.embed.embed_texts(TEXTS), atol=tolerance)


def test_a_file_that_onnxruntime_cannot_load_gives_one_clear_line(tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install -r requirements-export.txt")
    (tmp_path / "text.onnx").write_bytes(b"damaged")
    onnx = importlib.import_module("tf_mural.export.onnx")
    with pytest.raises(UserError, match="cannot load .*text.onnx, .*choose the format") as error:
        onnx._open_session(str(tmp_path / "text.onnx"))
    assert "\n" not in str(error.value)


def test_an_export_that_differs_from_the_model_is_refused():
    assert_close("x", {"image": 1e-5}, 1e-4)
    for value in (2e-4, float("nan")):
        with pytest.raises(UserError, match="x: image differs by .* from the model"):
            assert_close("x", {"image": value}, 1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=tflite"], "unknown format 'tflite'"),
        (["--out="], "--out is missing"),
        (["--model="], "--model is missing"),
        (["--quantize=int8"], "--quantize requires --format=onnx"),
        (["--dimensions=8"], "--dimensions requires --format=onnx"),
        (["--format=onnx", "--records=x"], "--records requires --quantize or --dimensions"),
        (["--format=onnx", "--max_recall_loss=2"], "--max_recall_loss requires --quantize"),
        (["--format=onnx", "--quantize=int8", "--records=nothing"], "nothing"),
        (["--format=onnx", "--dimensions=4096"], "dimensions is 4096, expected a number from 1 to"),
    ],
)
def test_invalid_flags_are_refused(tools, finished, tmp_path, flags, message):
    defaults = [f"--model={finished[0]}", f"--out={tmp_path / 'out'}"]
    result = tools.run(tmp_path, "export.py", *defaults, *flags)
    assert message in result.err and not (tmp_path / "out").exists()


# --- recall before and after ----------------------------------------------------------------------


class CountingEmbedder:
    """Embeds the image b"3" and the text "3" to row 3 of the identity matrix.

    Texts in `wrong` get the embedding of the next text.
    """

    def __init__(self, width=8, wrong=()):
        self._width, self._wrong = width, set(wrong)

    def _rows(self, numbers):
        return np.eye(self._width, dtype=np.float32)[list(numbers)]

    def embed_images(self, images):
        return self._rows(int(image) for image in images)

    def embed_texts(self, texts):
        return self._rows((int(t) + (t in self._wrong)) % self._width for t in texts)


def numbered_records(count):
    names = map(str, range(count))
    return [Record(n, (n.encode(),), tuple((code, n) for code in ("de", "en"))) for n in names]


def test_the_loss_of_recall_is_measured_by_language():
    records = numbered_records(8)
    loss = export.measure_recall_loss(
        CountingEmbedder(), CountingEmbedder(wrong="3"), records, source="numbers"
    )
    assert loss.before == {"de": 100.0, "en": 100.0} and loss.num_images == 8
    # Text 3 has the embedding of image 4, and ties count as misses. Images: the rank of image 3 is
    # 7, that of image 4 is 1. Texts: the rank of text 3 is 7. All other ranks are 0.
    expected = np.mean([75, 87.5, 100, 87.5, 87.5, 100])
    assert loss.after == {"de": pytest.approx(expected), "en": pytest.approx(expected)}
    assert loss.value == pytest.approx(100 - expected)
    table = loss.table().splitlines()
    assert table[2].startswith("| de | 100.00 |") and len(table) == 5
    assert table[4] == f"| mean | 100.00 | {loss.after['en']:.2f} | {-loss.value:+.2f} |"
    same = export.measure_recall_loss(CountingEmbedder(), CountingEmbedder(), records, ["en"])
    assert same.value == 0 and list(same.after) == ["en"] and not same.is_near_chance


def test_a_loss_above_the_maximum_is_refused():
    loss = export.RecallLoss({"de": 50.0, "en": 60.0}, {"de": 47.0, "en": 60.5}, 2.0, 9, "x", "p")
    assert loss.value == 1.25 and export.MAX_RECALL_LOSS == 1.0
    loss.check("int8", 1.25)
    with pytest.raises(UserError, match="int8 loses 1.25 points .* on x, .* de, from 50.0 to 47.0"):
        loss.check("int8")
    dataclasses.replace(loss, after={"de": 51.0, "en": 59.0}).check("int8", 0)
    with pytest.raises(UserError, match="loses nan points"):
        dataclasses.replace(loss, after={"de": float("nan"), "en": 1.0}).check("int8", 100)
    assert dataclasses.replace(loss, chance=28.0).is_near_chance and not loss.is_near_chance


def test_scenes_are_scored_in_the_languages_of_the_model():
    records, languages = export.scenes_records(["de", "en", "xx"])
    assert len(records) == 512 and languages == ["en", "de"] and records[0].images
    assert export.scenes_records(None)[1] is None and export.scenes_records(["xx"])[1] is None


class LinearEmbedder:
    """Embeds the numbers of images and texts to given rows."""

    def __init__(self, images, texts):
        self._images, self._texts = images, texts

    def embed_images(self, images):
        return self._images[[int(image) for image in images]]

    def embed_texts(self, texts):
        return self._texts[[int(text) for text in texts]]


def test_a_projection_keeps_the_inner_products_of_rows_in_a_subspace():
    random = np.random.default_rng(0)
    basis, _ = np.linalg.qr(random.normal(size=(10, 3)))
    images, texts = (random.normal(size=(20, 3)) @ basis.T for _ in range(2))
    embedder = LinearEmbedder(images.astype(np.float32), texts.astype(np.float32))
    records = [Record(str(i), (str(i).encode(),), (("en", str(i)),)) for i in range(20)]
    projection = export.fit_projection(embedder, export.EverySecond(records, 0), 3)
    assert projection.shape == (10, 3) and projection.dtype == np.float32
    np.testing.assert_allclose(projection.T @ projection, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(
        (images @ projection) @ (texts @ projection).T, images @ texts.T, atol=1e-5
    )
    # The first column has the largest second moment.
    moments = sum(((rows[::2] @ projection) ** 2).mean(0) for rows in (images, texts))
    assert moments[0] > moments[1] > moments[2]
    for dimensions in (0, 10):
        with pytest.raises(UserError, match=f"dimensions is {dimensions}, expected .* 1 to 9"):
            export.fit_projection(embedder, records, dimensions)
    with pytest.raises(UserError, match="20 images and 0 texts"):
        export.fit_projection(embedder, [dataclasses.replace(r, texts=()) for r in records], 2)


def test_every_second_record_can_be_iterated_again():
    first, second = (export.EverySecond(range(5), first) for first in (0, 1))
    assert [*first] == [*first] == [0, 2, 4] and [*second] == [1, 3]


@SLOW
def test_fewer_dimensions_are_exported_and_scored_on_other_records(tools, finished, tmp_path):
    pytest.importorskip("tf2onnx", reason="pip install -r requirements-export.txt")
    folder = tmp_path / "small"
    flags = (f"--model={finished[0]}", "--format=onnx", f"--out={folder}", "--dimensions=12")
    result = tools.run(tmp_path, "export.py", *flags, "--quantize=fp16", "--max_recall_loss=100")
    assert result.code == 0, result.err
    card = (folder / "README.md").read_text()
    assert "float16 weights and 12 dimensions" in card and "one space of 12 dimensions" in card
    assert "with 256\nimages of scenes/test" in card
    model = experiment.load(str(finished[0]))
    exported = export.onnx_embedder(str(folder), model)
    images = export.scenes_records()[0][0].images
    rows = exported.embed_texts(TEXTS)
    assert rows.shape == (3, 12) and exported.embed_images(images).shape == (1, 12)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    # Most of the similarities of an untrained model lie in few dimensions.
    expected = model.embed.embed_texts(TEXTS)
    np.testing.assert_allclose(rows @ rows.T, expected @ expected.T, atol=0.1)


@SLOW
def test_an_export_that_loses_recall_leaves_no_file(finished, data_dir, tmp_path, monkeypatch):
    pytest.importorskip("tf2onnx", reason="pip install -r requirements-export.txt")
    command = importlib.import_module("tf_mural.cli.export")
    flags = [f"--model={finished[0]}", "--format=onnx", "--quantize=fp16"]
    flags += [f"--records={data_dir}/scenes/test", f"--out={tmp_path / 'out'}"]
    measured = export.RecallLoss({"en": 50.0}, {"en": 48.5}, 2.0, 12, "x", "p")
    monkeypatch.setattr(export, "measure_recall_loss", lambda *_: measured)
    with pytest.raises(UserError, match="float16 weights loses 1.50 points"):
        command.main(flags)
    assert os.listdir(tmp_path) == []
    command.main([*flags, "--max_recall_loss=1.5"])
    assert "| en | 50.00 | 48.50 | -1.50 |" in (tmp_path / "out" / "README.md").read_text()
    files = {name: os.path.getsize(tmp_path / "out" / name) for name in ("image.onnx", "text.onnx")}
    weights = experiment.load(str(finished[0])).encoder.count_params() * 4
    assert sum(files.values()) < 0.75 * weights


def test_an_existing_folder_is_not_overwritten(tools, finished, tmp_path):
    (tmp_path / "out").mkdir()
    flags = [f"--model={finished[0]}", f"--out={tmp_path / 'out'}"]
    assert "already exists" in tools.run(tmp_path, "export.py", *flags).err


def test_the_best_step_of_a_run_has_the_model_card_of_the_run(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run, ignore=shutil.ignore_patterns("checkpoints"))
    (run / "best").mkdir()
    assert run_report.run_lineage(str(run / "best")) == [str(run)]
    assert run_report.run_lineage(str(tmp_path / "nothing")) == []
