"""Vectors that a model adds to record sets: resuming, bad images, and the command."""

import json

import numpy as np
import pytest
from helpers import vector_records

import tf_mural
from tf_mural import conversion
from tf_mural.conversion import Extractor, extraction
from tf_mural.data import records
from tf_mural.data.records import Record, RecordSet
from tf_mural.errors import UserError
from tf_mural.evaluation.batch_embedder import BadImage

LONG = Record("long", (b"12345", b"1"), (("en", "abc"), ("de", "a"), ("en", "ab")), roles=(1, 2, 2))


def lengths(items):
    """Embeds strings or bytes: their lengths, and the number of embedded items before them."""
    rows = []
    for position, item in enumerate(items):
        if item == b"bad":
            raise BadImage(position, "not an image")
        rows.append([len(item), 0.5])
    return np.array(rows, np.float32).reshape(-1, 2)


def make_extractor(name="x", of="texts", embed=lengths, dtype="float16", **options):
    description = records.describe_vectors(
        of, 2, dtype, {"name": "m", "fingerprint": "f"}, **options
    )
    return Extractor(name, description, embed, {"features": False})


def extract(source, folder, extractor, **options):
    manifest = conversion.extract(source, folder, "train", extractor, print_fn=str, **options)
    return RecordSet.open(folder / "train"), manifest


@pytest.fixture
def source(tmp_path):
    made = [Record(str(i), (b"x" * i,), (("en", "t" * (i + 1)),), label=i) for i in range(9)]
    records.write(tmp_path / "source", [LONG, *made], shards=3, augmentations=("flip",))
    return RecordSet.open(tmp_path / "source")


def test_each_text_or_image_gets_a_row_and_models_add_theirs_one_after_the_other(source, tmp_path):
    first, manifest = extract(source, tmp_path / "a", make_extractor())
    assert first[0].vectors["x"].tolist() == [[3, 0.5], [1, 0.5], [2, 0.5]]
    assert manifest["vectors"]["x"]["rows"] == 12 and manifest["augmentations"] == ["flip"]
    assert [r.id for r in first] == [r.id for r in source] and first[0].roles == LONG.roles
    english = make_extractor("english", languages=("en",))
    second, _ = extract(first, tmp_path / "b", english)
    assert second[0].vectors["english"].tolist() == [[3, 0.5], [2, 0.5]]
    images = make_extractor("y", "images", dtype="float32")
    third, manifest = extract(second, tmp_path / "c", images, drop_images=True)
    record = third[0]
    assert (
        not record.images
        and record.texts == LONG.texts
        and set(record.vectors)
        == {
            "x",
            "english",
            "y",
        }
    )
    assert record.vectors["y"].dtype == np.float32 and record.vectors["y"][:, 0].tolist() == [5, 1]
    assert third.manifest["images"] == 0 and [e["name"] for e in manifest["made_by"]["extracted"]]
    assert manifest["made_by"]["extracted"][2]["records"] == second.digest


def test_records_with_bad_images_are_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "_CHUNK", 3)
    made = [
        Record(str(i), (b"x" * i, b"bad") if i % 4 == 1 else (b"x" * i,) * (i % 3), (("en", "t"),))
        for i in range(11)
    ]
    records.write(tmp_path / "source", made)
    embedded = []

    def embed(items):
        rows = lengths(items)
        embedded.extend(items)
        return rows

    extractor = make_extractor(of="images", embed=embed)
    result, manifest = extract(RecordSet.open(tmp_path / "source"), tmp_path / "out", extractor)
    kept = [record for i, record in enumerate(made) if i % 4 != 1]
    assert [r.id for r in result] == [r.id for r in kept]
    for record in result:
        rows = record.vectors.get("x", np.zeros((0, 2)))
        assert rows[:, 0].tolist() == [len(image) for image in record.images]
    assert manifest["ledger"]["dropped"] == {"image does not decode": 3}
    assert manifest["ledger"]["examples"]["image does not decode"] == [
        f"{i}: not an image" for i in (1, 5, 9)
    ]
    assert len(embedded) == sum(len(r.images) for r in made) - 3  # each image is embedded once


def test_a_stopped_extraction_continues_with_the_next_unit(source, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "_MIN_UNIT", 4)
    monkeypatch.setattr(extraction, "_MAX_UNITS", 3)
    expected, _ = extract(source, tmp_path / "expected", make_extractor())
    assert len(expected.manifest["shards"]) == 3
    calls, lines = [], []

    def embed(items):
        calls.append(len(calls))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return lengths(items)

    extractor = make_extractor(embed=embed)
    with pytest.raises(KeyboardInterrupt):
        extract(source, tmp_path / "out", extractor)
    assert not (tmp_path / "out" / "train").exists()
    conversion.extract(source, tmp_path / "out", "train", extractor, print_fn=lines.append)
    assert len(calls) == 4  # the first unit is not computed again
    assert any("resuming after 4 of 10 records" in line for line in lines)
    assert RecordSet.open(tmp_path / "out" / "train").digest == expected.digest
    conversion.extract(source, tmp_path / "out", "train", extractor, print_fn=lines.append)
    assert len(calls) == 4 and lines[-1].endswith("already there, 10 records")


@pytest.mark.parametrize("languages, shards", [(None, 4), (("de",), 1)])
def test_a_part_of_an_extraction_has_a_number_of_rows(tmp_path, monkeypatch, languages, shards):
    """Captions in several languages are divided into more parts than images."""
    monkeypatch.setattr(extraction, "_MIN_UNIT", 20)
    texts = (*(("en", "t" * i) for i in range(1, 10)), ("de", "t"))
    records.write(tmp_path / "source", [Record(str(i), texts=texts) for i in range(8)])
    source = RecordSet.open(tmp_path / "source")
    options = {} if languages is None else {"languages": languages}
    _, manifest = extract(source, tmp_path / "out", make_extractor(**options))
    assert len(manifest["shards"]) == shards


def test_what_cannot_be_extracted_is_refused(source, tmp_path):
    first, _ = extract(source, tmp_path / "a", make_extractor())
    with pytest.raises(UserError, match="already has vectors 'x': choose another name"):
        extract(first, tmp_path / "b", make_extractor())
    with pytest.raises(UserError, match="holds a record set of another recipe .*extracted was"):
        extract(source, tmp_path / "a", make_extractor(dtype="float32"))
    with pytest.raises(UserError, match="is the record set that is read: choose another folder"):
        extract(first, tmp_path / "a", make_extractor("y"))
    with pytest.raises(UserError, match="has no texts in 'fr'; it has texts in de, en"):
        extract(source, tmp_path / "b", make_extractor(languages=("fr",)))
    large = make_extractor(embed=lambda items: lengths(items) * 1e5)
    with pytest.raises(UserError, match="not finite in float16 .the largest one is 9e.05.: use fl"):
        extract(source, tmp_path / "b", large)
    assert not (tmp_path / "b" / "train").exists()
    records.write(tmp_path / "texts", [Record("a", texts=(("en", "x"),))])
    with pytest.raises(UserError, match="has no images to compute vectors of"):
        extract(RecordSet.open(tmp_path / "texts"), tmp_path / "b", make_extractor(of="images"))


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extracted(tools, data_dir, finished, make_once):
    """A folder with the scenes of `data_dir`, with vectors of the small run `finished`."""

    def make(folder):
        common = (f"--model={finished[0]}", "--batch_size=32")
        for name, flags in {
            "teacher": ["--of=texts", f"--records={data_dir}/scenes/train,{data_dir}/scenes/test"],
            "features": ["--of=images", "--features", "--records=teacher/train", "--drop_images"],
        }.items():
            arguments = (*common, *flags, f"--name={name}", f"--out_dir={name}")
            done = tools.run(folder, "extract.py", *arguments)
            (folder / f"{name}.txt").write_text(done.out)
            assert not done.code, done.err

    return make_once("extracted", make)


@pytest.mark.slow
def test_the_command_stores_the_rows_of_the_model(extracted, finished, data_dir):
    embedder = tf_mural.Embedder.load(finished[0])
    features, projection = embedder.model.towers["image"].split()
    originals = RecordSet.open(data_dir / "scenes" / "train")
    record_set = RecordSet.open(extracted / "features" / "train")
    indices = (0, 7, 95)
    texts = [text for i in indices for _, text in originals[i].texts]
    rows = np.concatenate([record_set[i].vectors["teacher"] for i in indices]).astype(np.float32)
    assert np.linalg.norm(rows, axis=1).max() > 2  # the rows are not normalized
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(rows, embedder.embed_texts(texts, warn=False), atol=2e-3)
    rows = np.concatenate([record_set[i].vectors["features"] for i in indices]).astype(np.float32)
    embedded = np.asarray(projection(rows))
    embedded = embedded / np.linalg.norm(embedded, axis=1, keepdims=True)
    images = embedder.embed_images([originals[i].images[0] for i in indices])
    np.testing.assert_allclose(embedded, images, atol=5e-3)
    assert not record_set[0].images and record_set[0].texts == originals[0].texts
    model = record_set.vectors["teacher"]["model"]
    assert model["name"] == str(finished[0]) and len(model["fingerprint"]) == 32
    assert f"digest {record_set.digest}" in (extracted / "features.txt").read_text()


SMALL = ("--stage=etcl", "--strategy=one", "--config.batch_size=8", "--config.steps=4")
SMALL += ("--config.optimizer.warmup_steps=1", "--config.evaluation.retrieval.languages=en")
SMALL += ("--config.report.show=0", "--config.report.compare_with=", "--config.report.control=none")
SMALL += ("--config.log_every=1", "--config.checkpoint_every=2")


@pytest.mark.slow
def test_a_run_reads_features_in_the_place_of_images(
    tools, extracted, finished, data_dir, tmp_path
):
    stored = ("--config.model.image.vectors=features", "--config.model.image.adapt=last:0")
    stored += (f"--init={finished[0]}", "--workdir=run")
    folder = f"--config.sources.triples.records={extracted}/features/train"
    arguments = (*SMALL, *stored, folder, f"--data_dir={data_dir}")
    done = tools.run(tmp_path, "train.py", *arguments)
    assert not done.code, done.err
    assert "only its projection runs in a step, and its images are not augmented" in done.out
    with (
        np.load(tmp_path / "run" / "weights.npz") as after,
        np.load(finished[0] / "weights.npz") as before,
    ):
        changed = {name for name in after.files if (after[name] != before[name]).any()}
        of_image = {name for name in changed if not name.startswith(("token", "trans", "embed"))}
        assert "image_projection/kernel" in of_image
        assert not any("_conv" in name or "_bn" in name for name in changed)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["evaluation"]["retrieval"]["values"]
    # The features of another backbone are refused.
    records_ = RecordSet.open(extracted / "features" / "train")
    vectors = {n: {k: v for k, v in d.items() if k != "rows"} for n, d in records_.vectors.items()}
    vectors["features"]["model"] = {"name": "other", "fingerprint": "0"}
    records.write(tmp_path / "other", list(records_), vectors=vectors)
    other = ("--workdir=other-run", f"--config.sources.triples.records={tmp_path}/other")
    done = tools.run(tmp_path, "train.py", *arguments, *other)
    assert done.code == 2 and "Traceback" not in done.err
    assert "come from another backbone, pooling or preprocessing (model other" in done.err


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--of=images",), "--name is missing"),
        (("--name=a/b", "--of=images"), "the name of vectors is 'a/b'"),
        (("--name=a", "--of=images", "--languages=en"), "--languages requires --of=texts"),
        (
            ("--name=a", "--of=texts", "--records=x/train,y/train"),
            "two of the record sets have the",
        ),
    ],
)
def test_wrong_flags_are_refused(flags, message, tmp_path, monkeypatch):
    from tf_mural.cli import extract as command

    for name in ("x/train", "y/train"):
        vector_records.write(tmp_path / name, count=2)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        command.main(["--model=m", "--records=x/train", "--out_dir=o", *flags])
