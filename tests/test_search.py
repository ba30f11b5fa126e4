"""Image search: building, resuming and searching an index, the commands, and the demo page."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import tf_mural
from tf_mural import search
from tf_mural.errors import UserError

WIDTH = 6


class Unreadable(UserError):
    reason = "not a picture"

    def __init__(self, position):
        super().__init__(f"image {position}")
        self.position = position


def embed(images):
    """Returns a unit-norm embedding per image, derived from its bytes; b"bad..." is unreadable."""
    rows = []
    for position, data in enumerate(images):
        if data.startswith(b"bad"):
            raise Unreadable(position)
        rng = np.random.default_rng(list(data))
        vector = rng.normal(size=WIDTH)
        rows.append(vector / np.linalg.norm(vector))
    return np.array(rows, np.float32).reshape(-1, WIDTH)


@pytest.fixture
def folder(tmp_path):
    """Creates a folder with seven "images", one of which is unreadable, and with a text file."""
    images = tmp_path / "photos"
    (images / "sub ü").mkdir(parents=True)
    for i in range(6):
        (images / ("sub ü" if i % 2 else "") / f"{i}.JPG").write_bytes(bytes([i, i + 1]))
    (images / "bad.png").write_bytes(b"bad")
    (images / "notes.txt").write_text("no image")
    return images


def make(folder, out, model="m" * 32, **options):
    """Builds an index of a folder of images in `out`."""
    source = search.FolderSource(str(folder))
    return search.make_index(
        str(out), source, embed, model, "runs/model", WIDTH, print_fn=str, **options
    )


def test_an_index_contains_every_readable_image(folder, tmp_path):
    manifest = make(folder, tmp_path / "index", images_per_part=3)
    assert manifest["count"] == 6 and manifest["skipped"] == {"not a picture": 1}
    assert manifest["examples"] == [f"{folder}/bad.png: not a picture"]
    index = search.Index(str(tmp_path / "index"))
    paths = {index.item(row)["path"] for row in range(len(index))}
    assert paths == {"0.JPG", "2.JPG", "4.JPG", "sub ü/1.JPG", "sub ü/3.JPG", "sub ü/5.JPG"}
    source = search.open_source(index.manifest["source"])
    for row in range(len(index)):
        ((hit, *_),) = index.search(embed([source.read(index.item(row))]), 1)
        assert hit.row == row and hit.score == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["none", "flat", "hnsw"])
def test_search_equals_a_full_sort(tmp_path, kind):
    if kind != "none":
        pytest.importorskip("faiss", reason="pip install -r requirements-demo.txt")
    images = tmp_path / "many"
    images.mkdir()
    for i in range(300):
        (images / f"{i:03d}.png").write_bytes(i.to_bytes(2, "big"))
    make(images, tmp_path / "index", images_per_part=64, faiss_kind=kind)
    index = search.Index(str(tmp_path / "index"))
    rows = embed([i.to_bytes(2, "big") for i in range(300)])
    queries = embed([b"one", b"two", b"three"])
    for query, hits in zip(queries, index.search(queries, 10), strict=True):
        scores = rows.astype(np.float64) @ query
        expected = np.argsort(-scores)[:10]
        assert [hit.row for hit in hits] == list(expected)
        np.testing.assert_allclose([hit.score for hit in hits], scores[expected], atol=1e-6)
    assert (tmp_path / "index" / "index.faiss").exists() == (kind != "none")
    assert len(index.search(queries[:1], 1000)[0]) == 300


def test_equal_scores_keep_the_order_of_the_rows(tmp_path):
    images = tmp_path / "same"
    images.mkdir()
    for i in range(9):
        (images / f"{i}.png").write_bytes(b"same")
    make(images, tmp_path / "index", images_per_part=4)
    (hits,) = search.Index(str(tmp_path / "index")).search(embed([b"same"]), 5)
    assert [hit.row for hit in hits] == [0, 1, 2, 3, 4]


def test_an_interrupted_build_is_resumed_with_the_same_result(folder, tmp_path):
    uninterrupted = make(folder, tmp_path / "uninterrupted", images_per_part=2)
    calls = []

    def interrupted_embed(images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(images)

    source = search.FolderSource(str(folder))
    model = ("m" * 32, "runs/model", WIDTH)
    out = str(tmp_path / "resumed")
    with pytest.raises(KeyboardInterrupt):
        search.make_index(out, source, interrupted_embed, *model, images_per_part=2, print_fn=str)
    with pytest.raises(UserError, match="unfinished"):
        search.Index(out)
    lines = []
    search.make_index(out, source, embed, *model, images_per_part=2, print_fn=lines.append)
    assert "resuming at image 2 of 7" in lines[0]
    for name in ("uninterrupted", "resumed"):
        assert json.loads((tmp_path / name / "manifest.json").read_text()) == uninterrupted


def test_another_model_or_source_is_refused(folder, tmp_path):
    make(folder, tmp_path / "index")
    with pytest.raises(UserError, match="contains an index with model mmm"):
        make(folder, tmp_path / "index", model="n" * 32)
    index = search.Index(str(tmp_path / "index"))
    index.check_model("m" * 32, "runs/model")
    with pytest.raises(UserError, match="different models cannot be compared"):
        index.check_model("n" * 32, "runs/other")
    (folder / "new.png").write_bytes(b"new")
    with pytest.raises(UserError, match="contains an index with source"):
        make(folder, tmp_path / "index")


def test_a_changed_image_is_noticed(folder, tmp_path):
    make(folder, tmp_path / "index")
    make(folder, tmp_path / "index")  # the folder is unchanged: no error
    (folder / "0.JPG").write_bytes(b"anew")
    with pytest.raises(UserError, match="images were added, removed or changed"):
        make(folder, tmp_path / "index")


def test_skipped_files_are_reported(folder, tmp_path):
    (folder / "phone.HEIC").write_bytes(b"x")
    (folder / "scan.tif").write_bytes(b"x")
    (folder / "linked").symlink_to(folder / "sub ü")
    source = search.FolderSource(str(folder))
    assert source.skipped == [
        (f"{folder}/linked", "a link to a folder"),
        (f"{folder}/phone.HEIC", ".heic images are not supported"),
        (f"{folder}/scan.tif", ".tif images are not supported"),
    ]
    manifest = make(folder, tmp_path / "index", images_per_part=2)
    assert manifest["count"] == 6 and sum(manifest["skipped"].values()) == 4
    assert f"{folder}/linked: a link to a folder" in manifest["examples"]
    unsupported = tmp_path / "unsupported"
    unsupported.mkdir()
    (unsupported / "a.heic").write_bytes(b"x")
    with pytest.raises(
        UserError, match="contains no image.*a.heic: .heic images are not supported"
    ):
        search.FolderSource(str(unsupported))


def test_an_unreadable_folder_is_reported(folder, monkeypatch):
    original = os.scandir

    def scandir(path):
        if str(path).endswith("sub ü"):
            raise PermissionError(13, "Permission denied", path)
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = search.FolderSource(str(folder))
    assert source.skipped == [(f"{folder}/sub ü", "a folder: Permission denied")]
    assert len(source) == 4


@pytest.mark.parametrize("last_first", [False, True])
def test_each_image_is_embedded_at_most_twice_despite_unreadable_ones(tmp_path, last_first):
    images, embedded_counts = tmp_path / "many", []
    images.mkdir()
    for i in range(60):
        is_bad = i % 3 == 0 or i > 50
        (images / f"{i:02d}.png").write_bytes(b"bad" if is_bad else bytes([i, 1]))

    def counting_embed(batch):
        bad = [position for position, data in enumerate(batch) if data == b"bad"]
        if bad:
            embedded_counts.append(bad[0] + 1)
            raise Unreadable(bad[-1 if last_first else 0])
        embedded_counts.append(len(batch))
        return embed(batch)

    source = search.FolderSource(str(images))
    out = str(tmp_path / "index")
    manifest = search.make_index(out, source, counting_embed, "m", "runs/m", WIDTH, print_fn=str)
    good = [i for i in range(51) if i % 3]
    assert manifest["count"] == 34 and manifest["skipped"] == {"not a picture": 26}
    index = search.Index(out)
    assert [index.item(row)["path"] for row in range(34)] == [f"{i:02d}.png" for i in good]
    if not last_first:
        assert sum(embedded_counts) <= 60 + 34  # 60 images once, 34 readable images twice


def test_the_first_skipped_files_of_each_reason_are_named(folder, tmp_path):
    for i in range(25):
        (folder / f"{i:02d}.heic").write_bytes(b"x")
    manifest = make(folder, tmp_path / "index")
    assert manifest["skipped"] == {"not a picture": 1, ".heic images are not supported": 25}
    assert len(manifest["examples"]) == 6
    assert manifest["examples"][0] == f"{folder}/bad.png: not a picture"
    assert make(folder, tmp_path / "index") == manifest  # a second build does not change the counts


def test_unusable_folders_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        search.FolderSource(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no image: expected files .jpg"):
        search.FolderSource(str(tmp_path / "empty"))
    (tmp_path / "empty" / "a.png").write_bytes(b"bad")
    with pytest.raises(UserError, match="none of the 1 images could be read"):
        make(tmp_path / "empty", tmp_path / "index")
    with pytest.raises(UserError, match="contains other files"):
        make(folder, folder)
    with pytest.raises(UserError, match="contains no index"):
        search.Index(str(folder))


def test_file_names_need_not_be_utf8(tmp_path):
    images = tmp_path / "names"
    images.mkdir()
    with open(os.fsencode(images) + b"/\xff.png", "wb") as file:
        file.write(b"one")
    with open(os.fsencode(images) + b"/\xfe.png", "wb") as file:
        file.write(b"bad")
    manifest = make(images, tmp_path / "index")
    assert manifest["count"] == 1 and "\ufffd" in manifest["examples"][0]
    index = search.Index(str(tmp_path / "index"))
    source = search.open_source(index.manifest["source"])
    assert source.read(index.item(0)) == b"one" and source.display_name(index.item(0)).encode()


def test_a_damaged_part_is_named(folder, tmp_path):
    make(folder, tmp_path / "index")
    part = tmp_path / "index" / "part-00000.npy"
    data = part.read_bytes()
    part.write_bytes(data[:40])
    with pytest.raises(UserError, match="part-00000 cannot be read"):
        search.Index(str(tmp_path / "index"))
    part.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match="part-00000 cannot be read .*its checksum does not match"):
        search.Index(str(tmp_path / "index"))
    part.write_bytes(data)
    lines = tmp_path / "index" / "part-00000.jsonl"
    lines.write_text(lines.read_text().replace("0.JPG", "9.JPG"))
    with pytest.raises(UserError, match="part-00000 cannot be read .*its checksum does not match"):
        search.Index(str(tmp_path / "index"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"parts": [{}]}, "is damaged or not of an index: choose another folder"),
        ({"source": {}}, "is damaged or not of an index"),
        ({"read": None}, "is damaged or not of an index"),
        ({"count": "6"}, "is damaged or not of an index"),
        ({"schema": 1}, "contains an index of version 1, expected 2: build the index again"),
        ({"count": 7}, "do not agree"),
    ],
)
def test_an_invalid_manifest_is_refused(folder, tmp_path, change, message):
    manifest = make(folder, tmp_path / "index")
    (tmp_path / "index" / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(UserError, match=message):
        search.Index(str(tmp_path / "index"))
    if "count" not in change or change["count"] != 7:
        with pytest.raises(UserError, match=message):
            make(folder, tmp_path / "index")


def test_a_record_set_is_not_taken_for_an_index(data_dir, folder):
    records = str(data_dir / "scenes" / "test")  # a record set also has a manifest.json
    for function in (search.Index, lambda out: make(folder, out)):
        with pytest.raises(UserError, match="not of an index.*choose another folder"):
            function(records)


def test_a_damaged_faiss_index_is_named(folder, tmp_path):
    pytest.importorskip("faiss", reason="pip install -r requirements-demo.txt")
    make(folder, tmp_path / "index", faiss_kind="flat")
    (tmp_path / "index" / "index.faiss").write_bytes(b"not an index")
    with pytest.raises(UserError, match="index.faiss is damaged"):
        search.Index(str(tmp_path / "index")).search(embed([b"one"]), 1)
    (folder / "0.JPG").unlink()
    make(folder, tmp_path / "other", faiss_kind="flat")
    shutil.copy(tmp_path / "other" / "index.faiss", tmp_path / "index" / "index.faiss")
    with pytest.raises(UserError, match="index.faiss is of another index"):
        search.Index(str(tmp_path / "index")).search(embed([b"one"]), 1)


# --- commands -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tools, finished, data_dir, tmp_path_factory):
    """Builds an index of the test scenes with the model of a small run; returns its folder."""
    out = tmp_path_factory.mktemp("search") / "index"
    flags = [f"--model={finished[0]}", f"--records={data_dir}/scenes/test", f"--out={out}"]
    done = tools.run(out.parent, "index.py", *flags)
    assert done.code == 0 and f"{out}: 12 images of {data_dir}/scenes/test" in done.out, done
    return out


def test_search_prints_rank_score_and_name(tools, finished, index, tmp_path):
    flags = [f"--index={index}", "--k=3", f"--json={tmp_path / 'results.json'}"]
    done = tools.run(tmp_path, "search.py", "a red circle", *flags)
    assert done.code == 0 and done.out.splitlines()[0].split() == ["rank", "score", "image"]
    assert len(done.out.splitlines()) == 5
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [result["rank"] for result in results] == [1, 2, 3]
    scores = [result["score"] for result in results]
    assert scores == sorted(scores, reverse=True) and results[0]["id"] in done.out
    embedder = tf_mural.Embedder.load(finished[0])
    ((best, *_),) = search.Index(str(index)).search(embedder.embed_texts(["a red circle"]), 1)
    assert scores[0] == pytest.approx(best.score, abs=1e-5)


def test_the_query_may_be_an_image(tools, index, tmp_path):
    source = search.open_source(search.Index(str(index)).manifest["source"])
    (tmp_path / "query.png").write_bytes(source.read({"record": 5}))
    done = tools.run(tmp_path, "search.py", "--image=query.png", f"--index={index}", "--k=1")
    assert "1.000" in done.out and source.item(5)["id"] in done.out


def test_a_query_of_unknown_tokens_is_reported(tools, index, tmp_path):
    done = tools.run(tmp_path, "search.py", "☃☃☃", f"--index={index}", "--k=1")
    assert done.out.startswith("the vocabulary has no part of '☃☃☃'")


def test_a_query_in_another_language_and_a_cut_query_are_reported(tools, index, tmp_path):
    for query, note in (
        ("красный круг", "note: the vocabulary lacks letters of 'красный'"),
        ("a red circle " * 20, "note: 'a red circle a red circle a red circl...' has 60 tokens"),
    ):
        done = tools.run(tmp_path, "search.py", query, f"--index={index}", "--k=1")
        assert done.out.startswith(note) and "UserWarning" not in done.err


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("index", ["--model=x", "--out=y"], "either --images or --records"),
        ("index", ["--images=.", "--out=y"], "--model is missing"),
        ("index", ["--images=nothing", "--model=x", "--out=y"], "no folder 'nothing'"),
        ("index", ["--export_file=x"], "--export_file requires --export=parquet"),
        ("index", ["--export=parquet"], "--out is missing"),
        ("index", ["--export=parquet", "--out=nothing"], "nothing contains no index"),
        ("index", ["--export=parquet", "--model=x", "--out=y"], "either --images or --records"),
        ("index", ["--export=parquet", "--out=x", "--export_file=."], ". already exists"),
        ("index", ["--queries=x", "--images=."], "--queries requires --faiss=hnsw"),
        ("index", ["--ef_search=64"], "--ef_search.*256"),
        ("search", ["--index=x"], "give a query"),
        ("search", ["a dog"], "--index is missing"),
        ("search", ["a dog", "--index=nothing"], "nothing contains no index"),
        ("demo", [], "name the images to search"),
    ],
)
def test_invalid_flags_are_refused(command, flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(f"tf_mural.cli.{command}").main
    with pytest.raises(UserError, match=message):
        main(flags)


def test_the_recall_of_text_queries_is_measured_and_a_low_recall_is_reported(
    finished, data_dir, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("faiss", reason="pip install -r requirements-demo.txt")
    from tf_mural.cli import index as command

    out = tmp_path / "index"
    flags = [f"--model={finished[0]}", f"--records={data_dir}/scenes/test", f"--out={out}"]
    flags.append("--faiss=hnsw")
    command.main(flags)
    record_set = "texts of the record set"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["efSearch"] == 256 and manifest["text_recall"]["source"] == record_set
    assert manifest["text_recall"]["recall@10"] == 1.0  # 12 images are searched exactly
    num_queries = manifest["text_recall"]["queries"]
    assert (
        f"recall@10 of {num_queries} text queries ({record_set}): 1.000" in capsys.readouterr().out
    )
    (tmp_path / "queries.txt").write_text("a circle\nein Kreis\n")
    monkeypatch.setattr(search.recall, "measure_recall", lambda *_: 0.93)
    command.main([*flags, f"--queries={tmp_path / 'queries.txt'}"])
    output = capsys.readouterr().out
    assert "recall@10 of 2 text queries" in output and "warning: a search misses 7%" in output
    assert "--ef_search=512" in output
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["text_recall"]["recall@10"] == 0.93 and manifest["text_recall"]["queries"] == 2


def test_an_existing_index_is_exported_without_its_model(tools, index, tmp_path):
    parquet = pytest.importorskip(
        "pyarrow.parquet", reason="pip install -r requirements-convert.txt"
    )
    flags = [f"--out={index}", "--export=parquet", f"--export_file={tmp_path / 'x.parquet'}"]
    assert (
        tools.run(tmp_path, "index.py", *flags).out == f"{tmp_path / 'x.parquet'}: 12 embeddings\n"
    )
    table, opened = parquet.read_table(tmp_path / "x.parquet"), search.Index(str(index))
    assert table["id"].to_pylist() == [opened.item(row)["id"] for row in range(12)]
    assert table["model"].unique().to_pylist() == [opened.manifest["model"]]
    assert "already exists" in tools.run(tmp_path, "index.py", *flags).error()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heading", "packages"), [("Qdrant", "qdrant_client"), ("pgvector", "pgserver")]
)
def test_the_examples_of_vector_databases_return_the_results_of_a_search(
    finished, index, tmp_path, monkeypatch, heading, packages
):
    pytest.importorskip(packages, reason="see docs/vector_databases.md")
    with open(os.path.join(ROOT, "docs", "vector_databases.md"), encoding="utf-8") as file:
        section = file.read().split(f"## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall("```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(index, "my.index")
    os.makedirs("runs/tiny")
    os.symlink(finished[0], "runs/tiny/etcl-s0")
    opened = search.Index("my.index")
    search.export_parquet(opened)
    names = {}
    exec(code, names)
    (hits,) = opened.search(names["query"][None], 5)
    assert [row for row, _, _ in names["hits"]] == [hit.row for hit in hits]
    scores = [score for _, score, _ in names["hits"]]
    np.testing.assert_allclose(scores, [hit.score for hit in hits], atol=1e-5)
    folder = opened.manifest["source"]["records"]
    assert names["hits"][0][2] == f"{folder}#{hits[0].item['record']}"


def test_an_index_of_another_model_is_refused(tools, finished, index, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(finished[0], other, ignore=shutil.ignore_patterns("checkpoints"))
    with np.load(other / "weights.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["dual_encoder/temperature_shared"] = np.float32(0.3)
    np.savez(other / "weights.npz", **arrays)
    done = tools.run(tmp_path, "search.py", "a", f"--index={index}", f"--model={other}")
    assert "different models cannot be compared" in done.error()


# --- demo page ------------------------------------------------------------------------------------

HOSTILE = [
    "",
    "   ",
    "x" * 100_000,
    "مرحبا بالعالم",
    "שלום",
    "👩‍👩‍👧‍👦" * 50,
    "<script>alert(1)</script>",
    "'; DROP TABLE images; --",
    "\x00\x01\u202e",
    "**bold** [link](javascript:alert(1))",
]


@pytest.fixture(scope="module")
def handlers(finished, index):
    pytest.importorskip("gradio", reason="pip install -r requirements-demo.txt")
    from tf_mural.search import demo_page

    embedder = tf_mural.Embedder.load(finished[0])
    return demo_page.DemoHandlers(embedder, search.Index(str(index)))


@pytest.mark.parametrize("text", HOSTILE)
def test_the_page_survives_any_text(handlers, text):
    note, items = handlers.search_by_text(text, 5)
    assert len(items) == (5 if text.strip() else 0)
    assert "<script>" not in note and "](" not in note
    note, items = handlers.compare_languages(f"{text}\nde: ein Kreis")
    assert len(items) % 5 == 0 and items


def test_the_page_compares_languages(handlers):
    lines = handlers.example_queries(0)
    assert lines.startswith("en: ") and len(lines.splitlines()) == 6
    note, items = handlers.compare_languages(lines)
    assert note.startswith("Mean cosine similarity of the 6 queries") and len(items) == 30
    assert [caption.split()[0] for _, caption in items[::5]] == ["en", "cs", "de", "es", "fr", "it"]
    number, other = handlers.next_example(0, ["de"])
    assert number == 1 and other.startswith("de: ") and other not in lines
    assert handlers.compare_languages("")[1] == []


def test_the_page_notes_a_cut_query_and_another_language(handlers):
    note, items = handlers.search_by_text("красный круг", 2)
    assert "lacks letters of" in note and len(items) == 2
    assert handlers.search_by_text("a red circle", 2)[0] == ""
    note, _ = handlers.compare_languages("en: a red circle\nru: красный круг")
    assert note.startswith("Mean cosine") and "lacks letters of" in note


def test_a_missing_image_is_shown_with_the_reason(handlers, monkeypatch):
    def read_missing(item):
        raise OSError("No such file")

    monkeypatch.setattr(handlers._source, "read", read_missing)
    _, items = handlers.search_by_text("a circle", 2)
    assert all("missing: No such file" in caption for _, caption in items)


def test_a_port_in_use_is_refused(tools, index, tmp_path):
    import socket

    pytest.importorskip("gradio", reason="pip install -r requirements-demo.txt")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = tools.run(tmp_path, "demo.py", f"--index={index}", f"--port={port}")
    assert "choose another --port" in done.error()


@pytest.mark.slow
def test_the_page_searches_in_a_browser_without_other_hosts(finished, data_dir, tmp_path):
    """Runs a real browser, and checks that the page sends no request to another machine.

    This command renews the screenshot of the documentation:
    DEMO_PICTURE=docs/demo.png DEMO_MODEL=... DEMO_RECORDS=... pytest -k browser
    """
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no browser: apt-get install chromium")
    pytest.importorskip("gradio", reason="pip install -r requirements-demo.txt")
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    command = [sys.executable, os.path.join(ROOT, "tools", "demo.py"), "--port=0"]
    model = os.path.abspath(os.environ.get("DEMO_MODEL", finished[0]))
    records = os.path.abspath(os.environ.get("DEMO_RECORDS", data_dir / "scenes" / "test"))
    screenshot_path = os.path.abspath(os.environ.get("DEMO_PICTURE", tmp_path / "page.png"))
    command += [f"--model={model}", f"--records={records}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        url = ""
        for line in process.stdout:
            if " images at " in line:
                url = line.split(" at ")[1].split()[0]
                break
        assert url.startswith("http://127.0.0.1:")
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER)
            page = browser.new_page(viewport={"width": 1200, "height": 800})
            outside = []
            page.on("request", lambda r: None if _is_inside(r.url, url) else outside.append(r.url))
            page.goto(url)
            page.get_by_label("Text").fill(QUERY)
            page.get_by_role("button", name="Search", exact=True).click()
            page.wait_for_function("document.querySelectorAll('.thumbnail-item img').length == 10")
            page.wait_for_timeout(1000)  # waits until the images have faded in
            page.screenshot(path=screenshot_path)
            page.get_by_role("tab", name="Languages side by side").click()
            page.get_by_role("button", name="Compare").click()
            page.get_by_text("Mean cosine similarity of the 6 queries").wait_for()
            browser.close()
        assert not outside
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


QUERY = "Ein kleiner grüner Kreis rechts von einem großen weißen Mond auf gestreiftem Hintergrund."
# Without these flags, Chromium sends requests to Google's hosts at every start.
BROWSER = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
BROWSER += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


def _is_inside(request, url):
    return request.startswith((url, "data:", "blob:"))
