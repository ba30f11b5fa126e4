"""`tf_mural.Embedder`, the public interface of a trained model."""

import io
import os
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from helpers.images import encode, random_pixels

import tf_mural
from tf_mural import experiment
from tf_mural.data import image_headers, image_ops
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.errors import UserError
from tf_mural.evaluation.batch_embedder import BadImage


@pytest.fixture(scope="module")
def embedder(finished):
    return tf_mural.Embedder.load(finished[0], batch_size=4)


def test_importing_the_package_does_not_import_keras():
    code = (
        "import sys, tf_mural\n"
        "assert 'Embedder' in dir(tf_mural) and 'keras' not in sys.modules\n"
        "try:\n    tf_mural.Embeder\nexcept AttributeError as error:\n    print(error)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.stdout == "module 'tf_mural' has no attribute 'Embeder'\n", process.stderr


def test_texts_become_unit_rows_in_order(embedder):
    rows = embedder.embed_texts(["a red circle", "ein Kreis", "一个圆", "a red circle", ""])
    assert rows.shape == (5, embedder.width) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(rows[0], rows[3], atol=1e-6)
    assert np.abs(rows[0] - rows[1]).max() > 1e-4
    assert embedder.embed_texts([]).shape == (0, embedder.width)
    assert embedder.embed_texts(["broken \udcff text"]).shape == (1, embedder.width)


def test_images_are_accepted_as_bytes_paths_arrays_and_pillow_images(embedder, tmp_path):
    from PIL import Image

    array = random_pixels()
    encoded = tf.io.encode_png(array).numpy()
    path = tmp_path / "image ü.png"
    path.write_bytes(encoded)
    rows = embedder.embed_images([encoded, str(path), path, array, Image.fromarray(array)])
    np.testing.assert_allclose(rows, np.tile(rows[:1], (5, 1)), atol=1e-6)
    gray = random_pixels(channels=1)
    with_and_without_axis = embedder.embed_images([gray, gray[..., 0]])
    np.testing.assert_allclose(*with_and_without_axis, atol=1e-6)
    assert embedder.embed_images([random_pixels(channels=4)]).shape == (1, embedder.width)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)


def test_a_webp_image_equals_its_pixels(embedder):
    array = random_pixels()
    rows = embedder.embed_images([encode(array, "WEBP", lossless=True), array])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_a_16_bit_pillow_image_equals_its_file(embedder, tmp_path):
    from PIL import Image

    path = tmp_path / "16_bits.png"
    gray = np.random.default_rng(0).integers(0, 1 << 16, (40, 30), np.uint16)
    Image.fromarray(gray).save(path)
    assert image_ops.decode(path.read_bytes()).numpy().max() > 200
    with Image.open(path) as image:
        rows = embedder.embed_images([path, image])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_a_truncated_or_closed_pillow_image_is_named(embedder):
    from PIL import Image

    jpeg = encode(random_pixels(), "JPEG")
    truncated = Image.open(io.BytesIO(jpeg[:-200]))
    with pytest.raises(BadImage, match="position 1 cannot be read .*truncated"):
        embedder.embed_images([random_pixels(), truncated])
    with Image.open(io.BytesIO(jpeg)) as closed:
        pass
    with pytest.raises(BadImage, match="position 0 cannot be read"):
        embedder.embed_images([closed])


def test_integer_gray_values_must_be_below_256(embedder):
    from PIL import Image

    gray = random_pixels(channels=1)[..., 0]
    rows = embedder.embed_images([gray, Image.fromarray(gray.astype(np.int32))])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    too_large = Image.fromarray(gray.astype(np.int32) * 1000)
    with pytest.raises(BadImage, match="gray values from 0 to 255000, expected 0 to 255"):
        embedder.embed_images([too_large])


def test_a_webp_image_with_too_many_pixels_is_rejected(embedder, monkeypatch):
    monkeypatch.setattr(image_headers, "MAX_PIXELS", 1_000)
    with pytest.raises(BadImage, match="30 x 40 pixels, above 1,000"):
        embedder.embed_images([encode(random_pixels(), "WEBP")])


def test_the_first_of_several_bad_images_is_named(embedder):
    """Images are checked before they are decoded, so a later image may be rejected first."""
    large = bytearray(tf.io.encode_png(random_pixels()).numpy())
    large[16:24] = struct.pack(">II", 10_000, 10_000)
    for _ in range(5):
        with pytest.raises(BadImage) as caught:
            embedder.embed_images(
                [random_pixels(), b"no image", random_pixels(), random_pixels(), bytes(large)]
            )
        assert caught.value.position == 1


def test_a_batch_size_of_0_is_rejected(finished):
    with pytest.raises(UserError, match="batch_size is 0, expected at least 1"):
        tf_mural.Embedder.load(finished[0], batch_size=0)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (b"RIFF\x00\x00\x00\x00WEBPcut", "image does not decode"),
        (b"no image", "position 1 cannot be read"),
        ("/no/such/file.jpg", "/no/such/file.jpg: No such file"),
        (np.zeros((4, 4, 3), np.float32), r"\(4, 4, 3\) of float32, expected uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\) of uint8"),
        (3, r"expected uint8 \(h, w, 3\)"),
    ],
)
def test_a_bad_image_is_named_by_its_position(embedder, item, message):
    with pytest.raises(BadImage, match=message) as caught:
        embedder.embed_images([random_pixels(), item, random_pixels()])
    assert caught.value.position == 1


def test_an_error_of_an_item_prints_no_traceback():
    """Runs the code in a process in which TensorFlow prints all of its log messages."""
    code = (
        "import numpy as np\n"
        "from tf_mural.evaluation.batch_embedder import BatchEmbedder\n"
        "from tf_mural.experiment.embedder import _encode\n"
        "embed = BatchEmbedder(None, None, None, lambda x: x, width=2)\n"
        "images = [np.zeros((4, 4, 3), 'uint8'), np.zeros((4, 4, 3), 'float32')]\n"
        "try:\n    list(embed._decode(_encode(images, {})))\n"
        "except Exception as error:\n    print(error)\n"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert "image at position 1 cannot be read (an array (4, 4, 3) of float32" in process.stdout
    assert "expected uint8 (h, w, 3) with values from 0 to 255" in process.stdout
    assert "Traceback" not in process.stderr and "BadImage" not in process.stderr


def test_a_damaged_file_is_named(embedder, tmp_path):
    path = tmp_path / "damaged.png"
    path.write_bytes(tf.io.encode_png(random_pixels()).numpy()[:60])
    with pytest.raises(BadImage, match="damaged.png"):
        embedder.embed_images([str(path)])


def test_an_image_with_too_many_pixels_is_rejected_before_it_is_decoded(embedder):
    encoded = bytearray(tf.io.encode_png(random_pixels()).numpy())
    encoded[16:24] = struct.pack(">II", 10_000, 10_000)
    with pytest.raises(BadImage, match="10000 x 10000 pixels, above 89,478,485: shrink it first"):
        embedder.embed_images([bytes(encoded)])


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_the_size_is_read_from_the_header(image_format):
    encoded = encode(random_pixels(height=37, width=91), image_format)
    assert image_headers.header_size(encoded) == (91, 37)
    if image_format == "WEBP":
        pixels = random_pixels(height=37, width=91, channels=4)
        for options in ({"lossless": True}, {"quality": 50}):
            for array in (pixels, pixels[..., :3]):  # the chunks VP8X, VP8L and "VP8 "
                webp = encode(np.ascontiguousarray(array), "WEBP", **options)
                assert image_headers.header_size(webp) == (91, 37)
    assert image_headers.header_size(encoded[:9]) is None
    assert image_headers.header_size(b"") is None


@pytest.mark.parametrize("method", ["embed_texts", "embed_images"])
def test_a_single_string_is_rejected(embedder, method):
    with pytest.raises(UserError, match="expected a list"):
        getattr(embedder, method)("a red circle")


def test_an_item_that_is_not_a_string_is_named(embedder):
    with pytest.raises(UserError, match="text at position 1 is of type int"):
        embedder.embed_texts(["a", 3])


def test_texts_without_known_tokens_are_detected(embedder):
    assert list(embedder.has_known_tokens(["a red circle", "☃☃", ""])) == [True, False, False]
    assert embedder.has_known_tokens([]).shape == (0,)


def test_progress_has_rate_and_remaining_time(embedder, capsys, monkeypatch):
    monkeypatch.setattr("tf_mural.experiment.embedder._PROGRESS_SECONDS", 0.0)
    embedder.embed_texts(["a red circle"] * 10, progress=True)
    printed = capsys.readouterr().err
    assert printed.startswith("4 of 10 texts, ")
    assert re.fullmatch(r"(\d+ of 10 texts, [\d,]+ a second, \d+ s left\n)+", printed)
    embedder.embed_texts(iter(["a red circle"] * 10), progress=True)
    assert "10 texts, " in capsys.readouterr().err
    embedder.embed_texts(["a red circle"] * 10, progress=False)
    assert not capsys.readouterr().err


def test_the_fingerprint_depends_on_weights_and_image_sizes(embedder, finished):
    same = tf_mural.Embedder.load(finished[0])
    assert same.fingerprint == embedder.fingerprint and len(same.fingerprint) == 32
    model = experiment.load(str(finished[0]))
    other_sizes = experiment.fingerprint(model.encoder, model.tokenizer, Preprocessing(80, 64))
    model.encoder.scalars["temperature"]["shared"].assign(0.5)
    other_weights = experiment.fingerprint(model.encoder, model.tokenizer, model.preprocessing)
    assert len({other_sizes, other_weights, embedder.fingerprint}) == 3


def test_a_path_without_a_model_is_rejected(tmp_path):
    with pytest.raises(UserError, match="holds no trained model"):
        tf_mural.Embedder.load(tmp_path)


@pytest.mark.slow
def test_replicas_share_the_work(finished):
    """Two virtual devices give the same embeddings as one; virtual devices need a new process."""
    code = f"""
import sys; sys.path.insert(0, {ROOT!r})
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import tf_mural
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
texts = ["a red circle", "ein Kreis", "un cercle", "kruh", "a"]
arrays = list(np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), np.uint8))
single = tf_mural.Embedder.load({str(finished[0])!r})
replicated = tf_mural.Embedder.load({str(finished[0])!r}, strategy, batch_size=3)
np.testing.assert_allclose(replicated.embed_texts(texts), single.embed_texts(texts), atol=1e-6)
np.testing.assert_allclose(replicated.embed_images(arrays), single.embed_images(arrays), atol=1e-6)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
