"""Commands of tools/ with a public model in a folder, as "hf:FOLDER"."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from helpers import public_checkpoints
from helpers.images import encode, random_pixels

import tf_mural
from tf_mural.data import load_tokenizer
from tf_mural.experiment import config_loading, dry_run

TEXTS = [*public_checkpoints.TEXTS, "ein roter Hund, 红色的狗"]
FILES = ["a.png", "b.png", "c.png", "d.png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder with the public models "siglip_2" and "clip", and with four photographs."""
    root = tmp_path_factory.mktemp("commands")
    for family in ("siglip_2", "clip"):
        public_checkpoints.FAMILIES[family](str(root / family))
    (root / "photos").mkdir()
    for seed, name in enumerate(FILES):
        (root / "photos" / name).write_bytes(encode(random_pixels(seed)))
    return root


@pytest.fixture(scope="module")
def embedder(folder):
    return tf_mural.Embedder.load(f"hf:{folder / 'siglip_2'}")


@pytest.fixture
def run(tools, folder):
    """Returns a function that runs a command in `folder`, and returns what it printed."""

    def run_command(tool, *arguments, **options):
        done = tools.run(folder, tool, *arguments, **options)
        assert done.code == 0, (done.out, done.err)
        return done.out

    return run_command


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


@pytest.fixture(scope="module")
def index(tools, folder):
    """Returns the index of the photographs, which a command made from a relative name."""
    arguments = ("--model=hf:siglip_2", "--images=photos", "--out=photos.index")
    done = tools.run(folder, "index.py", *arguments)
    assert done.code == 0 and "photos.index: 4 images of photos" in done.out, done.err
    return folder / "photos.index"


def test_an_index_is_searched_with_texts_and_images(index, run, folder, embedder, tmp_path):
    out = run("search.py", "a red dog", "--index=photos.index", f"--json={tmp_path / 'hits.json'}")
    assert "rank" in out and "a.png" in out
    images = embedder.embed_images([folder / "photos" / name for name in FILES])
    scores = (images @ embedder.embed_texts(["a red dog"], warn=False)[0]).astype(float)
    hits = {hit["path"]: hit["score"] for hit in read(tmp_path / "hits.json")["results"]}
    assert list(hits) == [FILES[i] for i in np.argsort(-scores)]
    np.testing.assert_allclose([hits[name] for name in FILES], scores, atol=1e-5)
    # The index stores the absolute path of the model, which is found from any folder.
    image = f"--image={folder / 'photos' / 'c.png'}"
    out = run("search.py", image, f"--index={index}", f"--json={tmp_path / 'image.json'}")
    best = read(tmp_path / "image.json")["results"][0]
    assert best["path"] == "c.png" and best["score"] == pytest.approx(1.0, abs=1e-5)
    assert read(index / "manifest.json")["model_path"] == f"hf:{folder / 'siglip_2'}"


def test_an_index_is_not_searched_with_another_public_model(index, tools, folder):
    arguments = ("a dog", "--index=photos.index", "--model=hf:clip")
    message = tools.run(folder, "search.py", *arguments).error()
    assert "hf:clip is" in message and str(folder / "siglip_2") in message


@pytest.mark.slow
def test_the_demo_page_starts(run, folder):
    pytest.importorskip("gradio", reason="pip install -r requirements-demo.txt")
    arguments = ("--model=hf:siglip_2", "--images=photos", "--port=0")
    out = run("demo.py", *arguments, interrupt_at=" images at ")
    assert "4 images at http://127.0.0.1:" in out


def test_a_public_model_is_evaluated(run, folder, embedder, data_dir):
    arguments = ("--records=scenes/test", f"--data_dir={data_dir}", "--languages=en,de")
    out = run("evaluate.py", "--model=hf:siglip_2", "--task=retrieval", *arguments)
    assert "written to runs/hub/siglip_2/evals/retrieval-scenes-test" in out
    (path,) = (folder / "runs" / "hub" / "siglip_2" / "evals").glob("*.json")
    result = read(path)
    assert result["model"] == "hf:siglip_2"
    assert embedder.fingerprint.startswith(result["weights_hash"])
    options = {"records": "scenes/test", "data_dir": data_dir, "languages": ["en", "de"]}
    assert tf_mural.evaluate(embedder, "retrieval", **options).values == result["values"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["siglip_2", "clip"])
def test_an_onnx_export_contains_the_tokenizer(family, run, folder):
    onnxruntime = pytest.importorskip("onnxruntime", reason="requirements-export.txt")
    run("export.py", f"--model=hf:{family}", "--format=onnx", f"--out={family}.onnx")
    exported = folder / f"{family}.onnx"
    model = tf_mural.Embedder.load(f"hf:{folder / family}")
    tokenizer = load_tokenizer(str(exported / "tokenizer"))
    tokens = np.asarray(tokenizer(TEXTS))
    np.testing.assert_array_equal(tokens, model.model.tokenizer(TEXTS))
    session = onnxruntime.InferenceSession(str(exported / "text.onnx"))
    (rows,) = session.run(None, {"tokens": tokens})
    np.testing.assert_allclose(rows, model.embed_texts(TEXTS, warn=False), atol=1e-4)
    # preprocessing.json describes the rows of tokens for programs without this package.
    settings = read(exported / "preprocessing.json")
    texts = settings["texts"]
    assert settings["images"]["crop"] == 32 and texts["tokenizer"] == "tokenizer/"
    for row, pieces in zip(tokens, tokenizer.pieces(TEXTS).to_list(), strict=True):
        pieces = pieces[: texts["max_tokens"] - len(texts["start"]) - len(texts["end"])]
        expected = [*texts["start"], *pieces, *texts["end"]]
        expected += [texts["pad_id"]] * (texts["max_tokens"] - len(expected))
        assert row.tolist() == expected


@pytest.mark.slow
def test_a_saved_model_and_a_preset_are_exported(run, folder, embedder):
    images = [folder / "photos" / name for name in FILES]
    for kind in ("saved_model", "preset"):
        out = run("export.py", "--model=hf:siglip_2", f"--format={kind}", f"--out={kind}")
        assert f"{kind}: {kind}, maximum differences from the model's embeddings: " in out
    preset = tf_mural.Embedder.load(folder / "preset")
    assert preset.fingerprint == embedder.fingerprint
    np.testing.assert_allclose(preset.embed_images(images), embedder.embed_images(images))


def test_a_dry_run_needs_no_weights(folder, tmp_path):
    ignore = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(folder / "siglip_2", tmp_path / "described", ignore=ignore)
    config = config_loading.load_config("etcl", "tiny")
    config.batch_size = 4
    config.model.image.backbone = config.model.text.backbone = f"hf:{tmp_path / 'described'}"
    _, loss = dry_run.trial_step(config)
    assert 0 < loss < 30


@pytest.mark.slow
def test_a_run_on_tpus_is_planned(folder, embedder):
    pytest.importorskip("libtpu", reason="libtpu is not installed: requirements-plan.txt")
    backbones = [f"--config.model.{x}.backbone=hf:siglip_2" for x in ("image", "text")]
    command = [sys.executable, os.path.join(ROOT, "tools", "plan_tpu.py"), "--stage=etcl"]
    command += ["--size=tiny", "--topology=v5e:2x2", "--batch=16", "--cache=", "--out=plan.json"]
    done = subprocess.run([*command, *backbones], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and "the step fits" in done.stdout, done.stderr
    plan = read(folder / "plan.json")
    assert plan["config"]["model"]["embedding_dim"] == 16 and plan["batch"] == 16
    expected = sum(4 * np.prod(variable.shape) for variable in embedder.model.variables)
    assert plan["weights"] == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_train_starts_from_a_public_model(run, folder, data_dir):
    arguments = ("--stage=align", "--workdir=run", "--init=hf:siglip_2", "--strategy=one")
    changes = {"batch_size": 8, "steps": 2, "optimizer.warmup_steps": 1, "report.show": 0}
    changes |= {"evaluation.retrieval.languages": "en"}
    changes = [f"--config.{name}={value}" for name, value in changes.items()]
    out = run("train.py", *arguments, f"--data_dir={data_dir}", *changes)
    assert "align: training in run, from hf:siglip_2" in out
    assert "hf:siglip_2 was trained with the sigmoid loss, and this stage has" in out
    results = read(folder / "run" / "results.json")
    assert results["steps"] == 2 and results["evaluation"]["retrieval"]["values"]
    assert tf_mural.Embedder.load(folder / "run").width == 16
