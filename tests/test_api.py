"""`tf_mural.Embedder`: a trained model as one object."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

import tf_mural
from tf_mural import experiment
from tf_mural.data import image_ops
from tf_mural.errors import UserError
from tf_mural.evaluation.batch_embedder import BadImage


@pytest.fixture(scope="module")
def embedder(finished):
    return tf_mural.Embedder.load(finished[0], batch_size=4)


def picture(height=40, width=30, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def test_the_package_offers_it_and_stays_light():
    code = (
        "import sys, tf_mural\n"
        "assert 'Embedder' in dir(tf_mural) and 'keras' not in sys.modules\n"
        "try:\n    tf_mural.Embeder\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "module 'tf_mural' has no attribute 'Embeder'\n", done.stderr


def test_texts_are_unit_rows_in_order(embedder):
    rows = embedder.texts(["a red circle", "ein Kreis", "一个圆", "a red circle", ""])
    assert rows.shape == (5, embedder.width) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(rows[0], rows[3], atol=1e-6)
    assert np.abs(rows[0] - rows[1]).max() > 1e-4
    assert embedder.texts([]).shape == (0, embedder.width)
    assert embedder.texts(["broken \udcff text"]).shape == (1, embedder.width)


def test_images_come_as_bytes_paths_arrays_and_pictures(embedder, tmp_path):
    from PIL import Image

    array = picture()
    encoded = tf.io.encode_png(array).numpy()
    path = tmp_path / "bild ü.png"
    path.write_bytes(encoded)
    rows = embedder.images([encoded, str(path), path, array, Image.fromarray(array)])
    np.testing.assert_allclose(rows, np.tile(rows[:1], (5, 1)), atol=1e-6)
    grey = picture(channels=1)
    both = embedder.images([grey, grey[..., 0]])
    np.testing.assert_allclose(both[0], both[1], atol=1e-6)
    assert embedder.images([picture(channels=4)]).shape == (1, embedder.width)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)


def test_webp_is_that_of_its_pixels(embedder):
    from PIL import Image

    array, file = picture(), io.BytesIO()
    Image.fromarray(array).save(file, "WEBP", lossless=True)
    rows = embedder.images([file.getvalue(), array])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_grey_of_16_bits_is_that_of_its_file(embedder, tmp_path):
    from PIL import Image

    path = tmp_path / "deep.png"
    grey = np.random.default_rng(0).integers(0, 1 << 16, (40, 30), np.uint16)
    Image.fromarray(grey).save(path)
    assert image_ops.decode(path.read_bytes()).numpy().max() > 200
    with Image.open(path) as picture_of_pillow:
        rows = embedder.images([path, picture_of_pillow])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_a_picture_of_pillow_whose_file_is_cut_is_named(embedder):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture()).save(file, "JPEG")
    cut = Image.open(io.BytesIO(file.getvalue()[:-200]))
    with pytest.raises(BadImage, match="position 1 cannot be read .*truncated"):
        embedder.images([picture(), cut])
    with Image.open(io.BytesIO(file.getvalue())) as closed:
        pass
    with pytest.raises(BadImage, match="position 0 cannot be read"):
        embedder.images([closed])


def test_grey_of_whole_numbers_is_taken_as_it_is_or_refused(embedder):
    from PIL import Image

    grey = picture(channels=1)[..., 0]
    rows = embedder.images([grey, Image.fromarray(grey.astype(np.int32))])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    deep = Image.fromarray(grey.astype(np.int32) * 1000)
    with pytest.raises(BadImage, match="grey from 0 to 255000, expected 0 to 255"):
        embedder.images([deep])


def test_webp_of_too_many_pixels_is_refused_too(embedder, monkeypatch):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture()).save(file, "WEBP")
    monkeypatch.setattr(image_ops, "MAX_PIXELS", 1_000)
    with pytest.raises(BadImage, match="30 x 40 pixels, above 1,000"):
        embedder.images([file.getvalue()])


def test_the_first_of_several_bad_images_is_named(embedder):
    """Reading goes ahead of decoding: what it refuses may come after one that does not decode."""
    large = bytearray(tf.io.encode_png(picture()).numpy())
    large[16:24] = struct.pack(">II", 10_000, 10_000)
    for _ in range(5):
        with pytest.raises(BadImage) as caught:
            embedder.images([picture(), b"no image", picture(), picture(), bytes(large)])
        assert caught.value.position == 1


def test_no_rows_at_a_time_are_refused(finished):
    with pytest.raises(UserError, match="batch_size is 0, expected rows, 1 or more"):
        tf_mural.Embedder.load(finished[0], batch_size=0)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (b"RIFF\x00\x00\x00\x00WEBPcut", "image does not decode"),
        (b"no image", "position 1 cannot be read"),
        ("/no/such/file.jpg", "/no/such/file.jpg: No such file"),
        (np.zeros((4, 4, 3), np.float32), r"\(4, 4, 3\) of float32, expected uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\) of uint8"),
        (3, r"expected uint8 \(h, w, 3\)"),
    ],
)
def test_a_bad_image_is_named_by_its_position(embedder, item, words):
    with pytest.raises(BadImage, match=words) as caught:
        embedder.images([picture(), item, picture()])
    assert caught.value.position == 1


def test_a_damaged_file_is_named(embedder, tmp_path):
    path = tmp_path / "damaged.png"
    path.write_bytes(tf.io.encode_png(picture()).numpy()[:60])
    with pytest.raises(BadImage, match="damaged.png"):
        embedder.images([str(path)])


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(embedder):
    encoded = bytearray(tf.io.encode_png(picture()).numpy())
    encoded[16:24] = struct.pack(">II", 10_000, 10_000)
    with pytest.raises(BadImage, match="10000 x 10000 pixels, above 89,478,485: shrink it first"):
        embedder.images([bytes(encoded)])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_headers_state_sizes(kind):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture(37, 91)).save(file, kind)
    assert image_ops.stated_size(file.getvalue()) == (91, 37)
    assert image_ops.stated_size(file.getvalue()[:9]) is None
    assert image_ops.stated_size(b"") is None


@pytest.mark.parametrize("method", ["texts", "images"])
def test_a_single_one_is_not_taken_for_many(embedder, method):
    with pytest.raises(UserError, match="expected a list"):
        getattr(embedder, method)("a red circle")


def test_something_else_than_a_string_is_named(embedder):
    with pytest.raises(UserError, match="text at position 1 is of type int"):
        embedder.texts(["a", 3])


def test_unknown_texts_are_told_apart(embedder):
    assert list(embedder.knows(["a red circle", "☃☃", ""])) == [True, False, False]
    assert embedder.knows([]).shape == (0,)


def test_progress_tells_rate_and_time_left(embedder, capsys, monkeypatch):
    from tf_mural.experiment import embedder as embedding

    monkeypatch.setattr(embedding, "_FIRST_WORD", 0.0)
    monkeypatch.setattr(embedding, "_EVERY", 0.0)
    embedder.texts(["a red circle"] * 10, progress=True)
    told = capsys.readouterr().err
    assert "texts: 4 of 10" in told and "a second" in told and "left" in told
    embedder.texts(iter(["a red circle"] * 10), progress=True)
    assert "texts: 10, " in capsys.readouterr().err
    embedder.texts(["a red circle"] * 10, progress=False)
    assert not capsys.readouterr().err


def test_the_fingerprint_is_that_of_the_model(embedder, finished):
    again = tf_mural.Embedder.load(finished[0])
    assert again.fingerprint == embedder.fingerprint and len(again.fingerprint) == 32
    model = experiment.load(str(finished[0]))
    other = experiment.fingerprint(model.encoder, model.tokenizer, {"resize": 80, "crop": 64})
    model.encoder.temperatures["shared"].assign(0.5)
    changed = experiment.fingerprint(model.encoder, model.tokenizer, model.sizes)
    assert len({other, changed, embedder.fingerprint}) == 3


def test_a_path_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no trained model"):
        tf_mural.Embedder.load(tmp_path)


def test_replicas_share_the_work(finished):
    """In a process of its own: two virtual devices give what one does, whatever the batch."""
    code = f"""
import sys; sys.path.insert(0, {ROOT!r})
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import tf_mural
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
texts = ["a red circle", "ein Kreis", "un cercle", "kruh", "a"]
pictures = list(np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), np.uint8))
one = tf_mural.Embedder.load({str(finished[0])!r})
both = tf_mural.Embedder.load({str(finished[0])!r}, two, batch_size=3)
np.testing.assert_allclose(both.texts(texts), one.texts(texts), atol=1e-6)
np.testing.assert_allclose(both.images(pictures), one.images(pictures), atol=1e-6)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
