"""Transparency, EXIF orientation and CMYK through every way in: files, arrays, records, index."""

import io
import json
import os

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
from helpers.images import encode
from helpers.shared_inputs import ROTATIONS, TRANSPARENT
from PIL import Image

import tf_mural
from tf_mural import conversion, search
from tf_mural.conversion.ledger import format_summary
from tf_mural.data import image_ops
from tf_mural.data.image_normalization import (
    AMBIGUOUS_CMYK,
    FLATTENED,
    ROTATED,
    stored_images_note,
)
from tf_mural.data.records import RecordSet
from tf_mural.datasets import table
from tf_mural.evaluation.batch_embedder import BadImage

EXAMPLES = {"05_transparency": TRANSPARENT, "06_orientation": ROTATIONS}


@pytest.fixture(scope="module")
def embedder(finished):
    return tf_mural.Embedder.load(finished[0], batch_size=4)


def convert(raw_dir, out_dir, **filters):
    """Converts a folder with a table; returns its manifest and its records by file name."""
    config = conversion.FilterConfig(**filters)
    manifest = conversion.convert(
        table, "table", str(raw_dir), out_dir, "train", processes=1, progress=str, filters=config
    )
    lines = (raw_dir / "table.csv").read_text().splitlines()[1:]
    names = {text.strip('"'): name for name, text in (line.split(",", 1) for line in lines)}
    records = RecordSet.open(out_dir / "train")
    return manifest, {names[record.texts[0][1]]: record for record in records}


def expected_pixels(folder, name):
    """Returns the right pixels of an example, int (h, w, 3)."""
    return shared_inputs.pixels(
        f"{folder}/{'expected_half' if name == 'half.png' else 'expected'}.png"
    )


def examples(kinds=EXAMPLES):
    """Yields (folder, name) of the examples."""
    for kind in kinds:
        folder = shared_inputs.inputs(kind)
        yield from ((folder, name) for name in EXAMPLES[kind])


# --- embedder -------------------------------------------------------------------------------------


def test_an_example_has_one_vector_as_path_bytes_and_pillow_image(embedder):
    for folder, name in examples():
        path = f"{folder}/{name}"
        with Image.open(path) as image:
            ways = [path, shared_inputs.read(path), image]
            rows = embedder.embed_images([*ways, expected_pixels(folder, name).astype(np.uint8)])
        # The pixels of JPEGs differ by up to one level from those of expected.png.
        tolerance = 2e-3 if name.endswith(".jpg") else 1e-6
        np.testing.assert_allclose(rows[:3], np.tile(rows[3], (3, 1)), atol=tolerance)
        assert name == "turned_1.jpg" or np.abs(rows[0] - rows[2]).max() <= 1e-6, name


def test_an_rgba_array_equals_its_file_and_its_composite(embedder):
    rgba = with_alpha()
    flat = np.round(composite(rgba)).astype(np.uint8)
    rows = embedder.embed_images([np.asarray(rgba), encode(rgba), rgba, flat])
    np.testing.assert_allclose(rows[1:3], np.tile(rows[0], (2, 1)), atol=1e-6)
    np.testing.assert_allclose(rows[3], rows[0], atol=2e-3)
    black = embedder.embed_images([np.asarray(rgba)], background="black")
    expected = np.round(composite(rgba, (0, 0, 0))).astype(np.uint8)
    np.testing.assert_allclose(black, embedder.embed_images([expected]), atol=2e-3)
    assert np.abs(black - rows[:1]).max() > 1e-3


def test_rotated_files_and_pillow_images_equal_upright_pixels(embedder):
    upright = np.asarray(PHOTO)
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = with_exif(6, format=format, **options)
        rows = embedder.embed_images([data, Image.open(io.BytesIO(data)), upright])
        np.testing.assert_allclose(rows[:2], np.tile(rows[2], (2, 1)), atol=1e-6)
    data = with_exif(3)
    rows = embedder.embed_images([data, Image.open(io.BytesIO(data))])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_ambiguous_cmyk_is_refused_as_path_bytes_and_pillow_image(embedder, tmp_path):
    data = without_adobe(encode(PHOTO.convert("CMYK"), "JPEG"))
    path = tmp_path / "bare.jpg"
    path.write_bytes(data)
    for image in (data, path, Image.open(path)):
        with pytest.raises(BadImage, match="position 1 .*CMYK JPEG without Adobe's marker"):
            embedder.embed_images([PHOTO, image])
    marked = encode(PHOTO.convert("CMYK"), "JPEG", quality=95)
    rows = embedder.embed_images([marked, Image.open(io.BytesIO(marked))])
    np.testing.assert_allclose(rows[0], rows[1], atol=5e-3)


# --- records --------------------------------------------------------------------------------------


def copy_examples(kind, tmp_path):
    """Copies the examples of a kind, because the reader of tables looks at all files."""
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
        assert difference.mean() <= 2, name  # Resized images are JPEGs.


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
        assert score >= 1 - 1e-4, name


def test_the_search_page_shows_and_embeds_upright_images(embedder, tmp_path):
    pytest.importorskip("gradio", reason="pip install -r requirements-demo.txt")
    from tf_mural.search import demo_page

    (tmp_path / "photos").mkdir()
    path = tmp_path / "photos" / "turned.png"
    path.write_bytes(with_exif(6, format="PNG"))
    (tmp_path / "photos" / "clear.png").write_bytes(encode(with_alpha(levels=(0,))))
    out = str(tmp_path / "index")
    source = search.FolderSource(str(tmp_path / "photos"))
    search.make_index(
        out, source, embedder.embed_images, embedder.fingerprint, "m", embedder.width, print_fn=str
    )
    handlers = demo_page.DemoHandlers(embedder, search.Index(out))
    note, items = handlers.search_by_image(str(path), 2)
    (best, caption), (other, _) = items
    assert note == "" and caption.startswith("1. 1.000")
    np.testing.assert_array_equal(np.asarray(best), np.asarray(PHOTO))
    assert (np.asarray(other) == 255).all()
