"""Models of this package inside mteb, and in the place of a SentenceTransformer."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from tf_mural.errors import UserError
from tf_mural.experiment import sentence_encoding

SCRIPT = os.path.join(ROOT, "tests", "mteb_script.py")
# Interpreter of an environment with the requirements of this package and mteb.
PYTHON = os.environ.get("MTEB_PYTHON") or os.path.join(ROOT, "build", "venv-mteb", "bin", "python")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists(PYTHON), reason="needs mteb: see MTEB_PYTHON in BUILD.md")
def test_a_model_runs_inside_mteb_and_where_a_sentence_transformer_is_expected(tmp_path):
    """Scores of mteb equal those of the protocol retrieval/mteb; encode has the same signature."""
    done = subprocess.run(
        [PYTHON, SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert done.returncode == 0 and done.stdout.endswith("ok\n"), done.stderr[-3000:]


class Encoder:
    """Embeds a text by its length, and any image as the last axis; width 3."""

    width = 3
    encode = sentence_encoding.encode
    similarity = sentence_encoding.similarity
    similarity_pairwise = sentence_encoding.similarity_pairwise

    def embed_texts(self, texts, progress=None):
        rows = np.array([[len(text), 1.0, 1.0] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_images(self, images, progress=None):
        return np.eye(3, dtype=np.float32)[[2] * len(images)]


def test_encode_returns_a_vector_for_one_input_and_a_matrix_for_a_list():
    encoder = Encoder()
    np.testing.assert_allclose(encoder.encode("a"), np.full(3, 3**-0.5), rtol=1e-6)
    assert encoder.encode(["a"]).shape == encoder.encode(("a",)).shape == (1, 3)
    assert encoder.encode([]).shape == (0, 3)
    pixels = np.zeros((4, 4, 3), np.uint8)
    for image in (pixels, Path("dog.jpg"), b"png", {"image": "dog.jpg"}):
        assert encoder.encode(image).tolist() == [0, 0, 1]
    rows = encoder.encode([{"text": "a"}, pixels, "aaaa", {"image": pixels}])
    np.testing.assert_allclose(rows[[0, 2]], encoder.embed_texts(["a", "aaaa"]))
    assert rows[1].tolist() == rows[3].tolist() == [0, 0, 1]


def test_encode_applies_prompt_and_truncation():
    encoder = Encoder()
    np.testing.assert_allclose(encoder.encode("a", prompt="q: "), encoder.encode("q: a"))
    np.testing.assert_allclose(encoder.encode(sentences=["a"]), encoder.encode(["a"]))
    cut = encoder.encode(["a"], truncate_dim=2)
    np.testing.assert_allclose(cut, encoder.encode(["a"])[:, :2])
    unit = encoder.encode(["a"], truncate_dim=2, normalize_embeddings=True)
    np.testing.assert_allclose(unit, [[0.5**0.5] * 2], rtol=1e-6)
    with pytest.warns(UserWarning, match="device='cuda' is ignored: Embedder.load"):
        encoder.encode("a", device="cuda")
    np.testing.assert_allclose(encoder.similarity(unit, unit), [[1.0]], rtol=1e-6)
    np.testing.assert_allclose(encoder.similarity_pairwise(unit, -unit), [-1.0], rtol=1e-6)


@pytest.mark.parametrize(
    "inputs, arguments, message",
    [
        ("a", {"batch_size": 0}, "batch_size=0: expected at least 1"),
        ("a", {"nonsense": 1}, "does not support nonsense=1: omit it"),
        ("a", {"prompt_name": "query"}, "does not support prompt_name='query'"),
        ("a", {"precision": "int8"}, "does not support precision='int8': expected 'float32'"),
        ("a", {"output_value": "token_embeddings"}, "output_value='token_embeddings': expected 's"),
        (
            "a",
            {"convert_to_tensor": True},
            "convert_to_tensor=True needs PyTorch: pip insta",
        ),
        ("a", {"convert_to_numpy": False}, "convert_to_numpy=False needs PyTorch: pip install tor"),
        ("a", {"truncate_dim": 4}, "truncate_dim=4: expected 1 to 3"),
        (["a", 3], {}, "input 1 is a int: expected a text or an image"),
        ({"text": "a", "image": b""}, {}, "input 0 has the keys text, image: expected either"),
    ],
)
def test_encode_refuses_what_it_would_ignore(monkeypatch, inputs, arguments, message):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=message):
        Encoder().encode(inputs, **arguments)


def test_batches_of_mteb_become_rows_in_order():
    from tf_mural.integrations.mteb import MTEBEncoder

    encoder = MTEBEncoder.__new__(MTEBEncoder)
    encoder.embedder = Encoder()
    encoder.embedder.embed_texts = lambda texts, progress, warn: Encoder().embed_texts(texts)
    rows = encoder.encode([{"text": ["a", "bb"]}, {"image": [b""]}], hf_subset="de")
    np.testing.assert_allclose(rows[:2], Encoder().embed_texts(["a", "bb"]))
    both = encoder.encode([{"text": ["a"], "image": [b""]}])
    total = Encoder().embed_texts(["a"]) + [[0, 0, 1]]
    np.testing.assert_allclose(both, total / np.linalg.norm(total), rtol=1e-6)
    assert encoder.encode([]).shape == (0, 3)
    with pytest.raises(UserError, match="a batch has the keys audio: expected text or image"):
        encoder.encode([{"audio": [1]}])
