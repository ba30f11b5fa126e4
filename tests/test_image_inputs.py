"""Tests transparency, EXIF orientation and CMYK in files, arrays, records and the index."""

import functools
import io
import json
import os
import shutil
import types

import numpy as np
import pytest
from helpers import shared_inputs
from helpers.image_cases import (
    PHOTO,
    composite,
    tensorflow_pixels,
    with_alpha,
    with_exif,
    without_adobe,
)
from helpers.images import encode, random_pixels
from helpers.pipeline import make_tokenizer, read_batches
from helpers.shared_inputs import ROTATIONS, TRANSPARENT
from PIL import Image

from tf_mural import conversion, search
from tf_mural.conversion.ledger import format_summary
from tf_mural.data import image_ops, input_pipeline
from tf_mural.data.image_normalization import (
    AMBIGUOUS_CMYK,
    FLATTENED,
    ROTATED,
    stored_images_note,
)
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.records import Record, RecordSet, write
from tf_mural.data.sampling import IndexSampler
from tf_mural.datasets import table
from tf_mural.evaluation.batch_embedder import BadImage, BatchEmbedder
from tf_mural.experiment.embedder import Embedder

EXAMPLES = {"05_transparency": TRANSPARENT, "06_orientation": ROTATIONS}


SIDE, CELL = 48, 4  # side lengths, in pixels, of an image and of a cell of `embedder`


@pytest.fixture(scope="module")
def embedder():
    """Returns an `Embedder` whose vectors contain the mean colors of small cells of the images.

    A trained tower is not used, because it could map a wrong image to almost the same vector.
    """
    preprocessing = Preprocessing(SIDE, SIDE)

    def encode_images(pixels):
        cells = pixels.reshape(-1, SIDE // CELL, CELL, SIDE // CELL, CELL, 3).mean((2, 4)) / 255
        return (0.1 + cells).reshape(len(pixels), -1)

    width = (SIDE // CELL) ** 2 * 3
    preprocess = functools.partial(image_ops.preprocess_for_evaluation, preprocessing=preprocessing)
    embed = BatchEmbedder(encode_images, None, None, preprocess, width=width, batch_size=4)
    encoder = types.SimpleNamespace(
        towers={"text": types.SimpleNamespace(output=np.zeros((1, width)))},
        modalities={"image": "image", "text": "text"},
        variables=[],
    )
    return Embedder(embed, encoder, make_tokenizer(), preprocessing)


def distance(rows, others):
    """Returns the largest distance between corresponding rows of two arrays."""
    return np.linalg.norm(np.asarray(rows) - others, axis=-1).max()


def convert(raw_dir, out_dir, **filters):
    """Converts a folder with a table; returns the manifest, and the records by file name."""
    config = conversion.FilterConfig(**filters)
    manifest = conversion.convert(
        table, "table", str(raw_dir), out_dir, "train", processes=1, progress=str, filters=config
    )
    lines = (raw_dir / "table.csv").read_text().splitlines()[1:]
    names = {text.strip('"'): name for name, text in (line.split(",", 1) for line in lines)}
    records = RecordSet.open(out_dir / "train")
    return manifest, {names[record.texts[0][1]]: record for record in records}


def expected_pixels(folder, name):
    """Returns the correct pixels of an example, int (h, w, 3)."""
    return shared_inputs.pixels(
        f"{folder}/{'expected_half' if name == 'half.png' else 'expected'}.png"
    )


# --- embedder -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_example_has_one_vector_as_path_bytes_and_pillow_image(kind, embedder):
    folder = shared_inputs.inputs(kind)
    for name in EXAMPLES[kind]:
        path = f"{folder}/{name}"
        right = expected_pixels(folder, name).astype(np.uint8)
        with Image.open(path) as image:
            stored = np.asarray(image.convert("RGB"))
            rows = embedder.embed_images([path, shared_inputs.read(path), image, right, stored])
        # TensorFlow decodes turned_1.jpg, which is upright. Pillow decodes all other files.
        is_jpeg = name.endswith(".jpg")
        assert distance(rows[:2], rows[2]) <= (0.01 if name == "turned_1.jpg" else 1e-6), name
        assert distance(rows[:3], rows[3]) <= (0.01 if is_jpeg else 1e-6), name
        if name != "turned_1.jpg":  # The uncorrected pixels have another embedding.
            assert distance(rows[3], rows[4]) > 0.1, name


def test_an_rgba_array_equals_its_file_and_its_composite(embedder):
    rgba = with_alpha()
    flat = np.round(composite(rgba)).astype(np.uint8)
    rows = embedder.embed_images([np.asarray(rgba), encode(rgba), rgba, flat])
    assert distance(rows[1:3], rows[0]) <= 1e-6 and distance(rows[3], rows[0]) <= 0.005
    black = embedder.embed_images([np.asarray(rgba)], background="black")
    expected = np.round(composite(rgba, (0, 0, 0))).astype(np.uint8)
    assert distance(black, embedder.embed_images([expected])) <= 0.005
    assert distance(black, rows[0]) > 0.1


def test_rotated_files_and_pillow_images_equal_upright_pixels(embedder):
    upright = np.asarray(PHOTO)
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = with_exif(6, format=format, **options)
        rows = embedder.embed_images([data, Image.open(io.BytesIO(data)), upright])
        assert distance(rows[:2], rows[2]) <= 1e-6
    data = with_exif(3, quality=95)
    rows = embedder.embed_images([data, Image.open(io.BytesIO(data)), upright, upright[::-1]])
    assert distance(rows[0], rows[1]) <= 1e-6 and distance(rows[0], rows[2]) <= 0.02
    assert distance(rows[3], rows[2]) > 0.1


def test_ambiguous_cmyk_is_refused_as_path_bytes_and_pillow_image(embedder, tmp_path):
    data = without_adobe(encode(PHOTO.convert("CMYK"), "JPEG"))
    path = tmp_path / "bare.jpg"
    path.write_bytes(data)
    for image in (data, path, Image.open(path)):
        with pytest.raises(BadImage, match="position 1 .*CMYK JPEG without Adobe's marker"):
            embedder.embed_images([PHOTO, image])
    marked = encode(PHOTO.convert("CMYK"), "JPEG", quality=95)
    rows = embedder.embed_images([marked, Image.open(io.BytesIO(marked)), PHOTO])
    assert distance(rows[:2], rows[2]) <= 0.02


# --- records --------------------------------------------------------------------------------------


def copy_examples(kind, tmp_path):
    """Copies the examples of a kind, because the reader of tables reads all files of a folder."""
    folder, raw = shared_inputs.inputs(kind), tmp_path / "raw"
    raw.mkdir()
    for name in os.listdir(folder):
        (raw / name).write_bytes(shared_inputs.read(f"{folder}/{name}"))
    return raw


@pytest.mark.parametrize("kind", EXAMPLES)
def test_records_have_the_right_pixels_and_the_ledger_counts_the_changes(kind, tmp_path):
    raw = copy_examples(kind, tmp_path)
    manifest, records = convert(raw, tmp_path / "out")
    assert set(records) == set(EXAMPLES[kind])
    for name, record in records.items():
        difference = np.abs(tensorflow_pixels(record.images[0]) - expected_pixels(raw, name))
        assert difference.max() <= 1 if kind == "05_transparency" else difference.mean() <= 2
    change, count = (FLATTENED, 7) if kind == "05_transparency" else (ROTATED, 9)
    ledger = manifest["ledger"]
    assert ledger["changed_images"] == {change: count} and len(ledger["examples"][change]) == 5
    assert f"train: {count} images changed: {change} (" in format_summary([manifest])
    assert stored_images_note("x", manifest) == ""


@pytest.mark.parametrize("kind", EXAMPLES)
def test_resized_records_have_the_pixels_of_the_resized_right_image(kind, tmp_path):
    raw = copy_examples(kind, tmp_path)
    options = {"resize": 40, "resize_quality": 100, "resize_method": "bicubic"}
    _, records = convert(raw, tmp_path / "out", **options, resize_antialias=True)
    for name, record in records.items():
        right = image_ops.resize(expected_pixels(raw, name).astype(np.uint8), 40, "bicubic", True)
        difference = np.abs(tensorflow_pixels(record.images[0]) - right.numpy())
        assert difference.mean() <= 2, name  # JPEG compression of resized images changes pixels.


def test_a_conversion_has_a_background(tmp_path):
    raw = copy_examples("05_transparency", tmp_path)
    _, records = convert(raw, tmp_path / "out", background="#ff0000")
    right = np.where(expected_pixels(raw, "rgba.png") == 255, (255, 0, 0), 0)
    for name in ("rgba.png", "shape.webp", "shape.gif"):
        assert np.abs(tensorflow_pixels(records[name].images[0]) - right).max() <= 1
    manifest = json.loads((tmp_path / "out" / "train" / "manifest.json").read_text())
    assert manifest["made_by"]["steps"] == {"background": "#ff0000"}


def test_ambiguous_cmyk_is_left_out_and_counted(tmp_path):
    raw = copy_examples("07_inks", tmp_path)
    manifest, records = convert(raw, tmp_path / "out")
    assert set(records) == {"adobe_cmyk.jpg", "adobe_ycck.jpg", "usual.jpg"}
    for name, record in records.items():
        assert record.images[0] == (raw / name).read_bytes()
        difference = tensorflow_pixels(record.images[0]) - expected_pixels(raw, name)
        assert np.abs(difference).mean() <= 2
    assert manifest["ledger"]["dropped"] == {AMBIGUOUS_CMYK: 3}
    assert AMBIGUOUS_CMYK in format_summary([manifest])


def test_reading_a_record_set_of_an_earlier_version_prints_a_note(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.png").write_bytes(encode(PHOTO))
    (tmp_path / "raw" / "table.csv").write_text("image,en\na.png,x\n")
    convert(tmp_path / "raw", tmp_path / "out")
    path, lines = tmp_path / "out" / "train" / "manifest.json", []
    manifest = json.loads(path.read_text())
    del manifest["ledger"]["changed_images"]
    path.write_text(json.dumps(manifest))
    arguments = (table, "table", str(tmp_path / "raw"), tmp_path / "out", "train")
    assert conversion.convert(*arguments, processes=1, progress=lines.append) == manifest
    assert len(lines) == 2 and "was converted by an earlier version" in lines[1]
    assert "earlier version" in search.RecordsSource(str(tmp_path / "out" / "train")).note


def test_a_record_set_of_an_earlier_version_gets_a_note():
    ledger = {"read": 1, "kept": 1}
    old = {"images": 1, "ledger": ledger}
    assert stored_images_note("data/a", old).startswith(
        "data/a was converted by an earlier version"
    )
    for manifest in (
        {"images": 0, "ledger": ledger},
        {"images": 1, "ledger": {}},
        {"images": 1, "ledger": {**ledger, "changed_images": {}}},
    ):
        assert stored_images_note("data/a", manifest) == ""


# --- index and search page ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*EXAMPLES, "07_inks"])
def test_an_index_has_the_vectors_of_the_right_pixels(kind, embedder, tmp_path):
    raw = copy_examples(kind, tmp_path)

    def embed(images):
        return embedder.embed_images(images, progress=False)

    source, lines = search.FolderSource(str(raw)), []
    out = str(tmp_path / "index")
    manifest = search.make_index(
        out, source, embed, "m", "runs/m", embedder.width, print_fn=lines.append
    )
    index = search.Index(out)
    paths = [index.item(row)["path"] for row in range(len(index))]
    if kind == "07_inks":
        assert "bare_cmyk.jpg" not in paths and "usual.jpg" in paths
        assert any(AMBIGUOUS_CMYK in reason for reason in manifest["skipped"])
        return
    assert set(EXAMPLES[kind]) < set(paths)
    for name in EXAMPLES[kind]:
        right = embedder.embed_images([expected_pixels(raw, name).astype(np.uint8)])
        (hits,) = index.search(right, len(index))
        score = next(hit.score for hit in hits if hit.item["path"] == name)
        assert score >= 1 - 1e-4, name  # The distance is at most sqrt(2e-4) = 0.014.


def test_the_search_page_shows_and_embeds_upright_images(embedder, tmp_path):
    pytest.importorskip("gradio", reason="pip install -r requirements-demo.txt")
    from tf_mural.search import demo_page

    (tmp_path / "photos").mkdir()
    path = tmp_path / "photos" / "turned.png"
    path.write_bytes(with_exif(6, format="PNG"))
    (tmp_path / "photos" / "clear.png").write_bytes(encode(with_alpha(levels=(0,))))
    out = str(tmp_path / "index")
    source = search.FolderSource(str(tmp_path / "photos"))
    search.make_index(out, source, embedder.embed_images, "m", "m", embedder.width, print_fn=str)
    handlers = demo_page.DemoHandlers(embedder, search.Index(out))
    note, items = handlers.search_by_image(str(path), 2)
    (best, caption), (other, _) = items
    assert note == "" and caption.startswith("1. 1.000")
    np.testing.assert_array_equal(np.asarray(best), np.asarray(PHOTO))
    assert (np.asarray(other) == 255).all()


# --- the description of a model -------------------------------------------------------------------


def test_training_resizes_as_the_preprocessing_describes(tmp_path):
    rows = [Record(str(i), (encode(PHOTO),), (("en", "en1"),)) for i in range(2)]
    write(tmp_path / "set", rows)
    sampler = IndexSampler([RecordSet.open(tmp_path / "set")], 1, ["en"], with_image=True)
    source = input_pipeline.Source(sampler, {"image": "image", "caption": "text"})
    for options in ({}, {"method": "bicubic", "antialias": True}):
        preprocessing = Preprocessing(40, 40, **options)
        dataset = input_pipeline.training_dataset(
            [source], make_tokenizer(), preprocessing, ("en",), 2
        )
        (batch,) = read_batches(dataset, 1)
        expected = image_ops.resize_for(np.asarray(PHOTO), preprocessing)
        np.testing.assert_array_equal(batch["image"]["pixels"], np.stack([expected] * 2))


def test_a_model_is_loaded_and_saved_with_its_preprocessing(finished, tmp_path):
    from tf_mural import experiment
    from tf_mural.export import presets

    run = tmp_path / "run"
    shutil.copytree(finished[0], run, ignore=shutil.ignore_patterns("checkpoints"))
    description = json.loads((run / "model.json").read_text())
    description["images"] |= {"method": "bicubic", "antialias": True, "background": "black"}
    (run / "model.json").write_text(json.dumps(description))
    other, before = Embedder.load(run), Embedder.load(finished[0])
    expected = Preprocessing(72, 64, "bicubic", True, "black")
    assert other.preprocessing == expected and before.preprocessing == Preprocessing(72, 64)
    assert other.fingerprint != before.fingerprint
    image = random_pixels(height=300, width=200)
    assert distance(other.embed_images([image]), before.embed_images([image])) > 1e-4
    model = experiment.load(str(run))
    arguments = experiment.model_arguments(experiment.read_description(str(run)))
    parts = model.encoder, model.tokenizer, model.preprocessing
    presets.save_preset(str(tmp_path / "preset"), arguments, *parts)
    preset = Embedder.load(tmp_path / "preset")
    assert preset.preprocessing == expected
    rgba = [with_alpha()]
    np.testing.assert_allclose(preset.embed_images(rgba), other.embed_images(rgba), atol=1e-6)
    pixels = preset_pixels(str(tmp_path / "preset"), image)
    right = image_ops.preprocess_pixels(image, expected)
    np.testing.assert_array_equal(pixels, right)


def preset_pixels(path, image):
    """Returns the pixels that the image converter of a preset makes."""
    from tf_mural.export.presets import MuralImageConverter

    return np.asarray(MuralImageConverter.from_preset(path)(image))
