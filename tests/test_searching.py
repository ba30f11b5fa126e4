"""Indexes of images: made, stopped and gone on with, searched; and the tools around them."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import tf_mural
from tf_mural import search as searching
from tf_mural.errors import UserError

WIDTH = 6


class Unreadable(UserError):
    reason = "not a picture"

    def __init__(self, position):
        super().__init__(f"image {position}")
        self.position = position


def embed(images):
    """Unit rows that the bytes decide; b"bad..." cannot be read."""
    rows = []
    for position, data in enumerate(images):
        if data.startswith(b"bad"):
            raise Unreadable(position)
        rng = np.random.default_rng(list(data))
        row = rng.normal(size=WIDTH)
        rows.append(row / np.linalg.norm(row))
    return np.array(rows, np.float32).reshape(-1, WIDTH)


@pytest.fixture
def folder(tmp_path):
    """A folder with seven "images" in it and below it, one of them broken, and other files."""
    images = tmp_path / "photos"
    (images / "sub ü").mkdir(parents=True)
    for i in range(6):
        (images / ("sub ü" if i % 2 else "") / f"{i}.JPG").write_bytes(bytes([i, i + 1]))
    (images / "broken.png").write_bytes(b"bad")
    (images / "notes.txt").write_text("no image")
    return images


def make(folder, out, model="m" * 32, **options):
    source = searching.FolderSource(str(folder))
    return searching.make_index(
        str(out), source, embed, model, "runs/model", WIDTH, say=str, **options
    )


def test_an_index_holds_every_image_that_can_be_read(folder, tmp_path):
    manifest = make(folder, tmp_path / "index", rows=3)
    assert manifest["count"] == 6 and manifest["skipped"] == {"not a picture": 1}
    assert manifest["examples"] == [f"{folder}/broken.png: not a picture"]
    index = searching.Index(str(tmp_path / "index"))
    paths = {index.item(row)["path"] for row in range(len(index))}
    assert paths == {"0.JPG", "2.JPG", "4.JPG", "sub ü/1.JPG", "sub ü/3.JPG", "sub ü/5.JPG"}
    source = searching.open_source(index.manifest["source"])
    for row in range(len(index)):
        ((hit, *_),) = index.search(embed([source.read(index.item(row))]), 1)
        assert hit.row == row and hit.score == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["none", "flat", "hnsw"])
def test_search_is_that_of_a_full_sort(tmp_path, kind):
    if kind != "none":
        pytest.importorskip("faiss", reason="pip install -r requirements-demo.txt")
    images = tmp_path / "many"
    images.mkdir()
    for i in range(300):
        (images / f"{i:03d}.png").write_bytes(i.to_bytes(2, "big"))
    make(images, tmp_path / "index", rows=64, kind=kind)
    index = searching.Index(str(tmp_path / "index"))
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
    make(images, tmp_path / "index", rows=4)
    (hits,) = searching.Index(str(tmp_path / "index")).search(embed([b"same"]), 5)
    assert [hit.row for hit in hits] == [0, 1, 2, 3, 4]


def test_an_index_that_was_stopped_goes_on_where_it_stood(folder, tmp_path):
    whole = make(folder, tmp_path / "whole", rows=2)
    calls = []

    def stopped(images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(images)

    source = searching.FolderSource(str(folder))
    arguments = (source, "m" * 32, "runs/model", WIDTH)
    out = str(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        searching.make_index(out, source, stopped, *arguments[1:], rows=2, say=str)
    with pytest.raises(UserError, match="unfinished"):
        searching.Index(out)
    said = []
    searching.make_index(out, source, embed, *arguments[1:], rows=2, say=said.append)
    assert "going on at image 2 of 7" in said[0]
    one, other = (
        json.loads((tmp_path / n / "manifest.json").read_text()) for n in ("whole", "parts")
    )
    assert one == other == whole


def test_another_model_or_source_is_refused(folder, tmp_path):
    make(folder, tmp_path / "index")
    with pytest.raises(UserError, match="holds an index with model mmm"):
        make(folder, tmp_path / "index", model="n" * 32)
    index = searching.Index(str(tmp_path / "index"))
    index.check("m" * 32, "runs/model")
    with pytest.raises(UserError, match="their spaces have nothing in common"):
        index.check("n" * 32, "runs/other")
    (folder / "new.png").write_bytes(b"new")
    with pytest.raises(UserError, match="holds an index with source"):
        make(folder, tmp_path / "index")


def test_a_picture_that_changed_is_noticed(folder, tmp_path):
    make(folder, tmp_path / "index")
    make(folder, tmp_path / "index")  # the same again is fine
    (folder / "0.JPG").write_bytes(b"anew")
    with pytest.raises(UserError, match="images came, went or changed"):
        make(folder, tmp_path / "index")


def test_what_is_passed_over_is_said(folder, tmp_path):
    (folder / "phone.HEIC").write_bytes(b"x")
    (folder / "scan.tif").write_bytes(b"x")
    (folder / "linked").symlink_to(folder / "sub ü")
    source = searching.FolderSource(str(folder))
    assert source.passed_over == [
        (f"{folder}/linked", "a link to a folder"),
        (f"{folder}/phone.HEIC", "images .heic are not read"),
        (f"{folder}/scan.tif", "images .tif are not read"),
    ]
    manifest = make(folder, tmp_path / "index", rows=2)
    assert manifest["count"] == 6 and sum(manifest["skipped"].values()) == 4
    assert f"{folder}/linked: a link to a folder" in manifest["examples"]
    only = tmp_path / "only"
    only.mkdir()
    (only / "a.heic").write_bytes(b"x")
    with pytest.raises(UserError, match="holds no image.*a.heic: images .heic are not read"):
        searching.FolderSource(str(only))


def test_a_folder_that_cannot_be_read_is_said(folder, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("sub ü"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = searching.FolderSource(str(folder))
    assert source.passed_over == [(f"{folder}/sub ü", "a folder: Permission denied")]
    assert len(source) == 4


@pytest.mark.parametrize("last_first", [False, True])
def test_bad_pictures_cost_no_more_the_more_they_are(tmp_path, last_first):
    images, looked_at = tmp_path / "many", []
    images.mkdir()
    for i in range(60):
        bad = i % 3 == 0 or i > 50
        (images / f"{i:02d}.png").write_bytes(b"bad" if bad else bytes([i, 1]))

    def counting(chunk):
        bad = [position for position, data in enumerate(chunk) if data == b"bad"]
        if bad:
            looked_at.append(bad[0] + 1)
            raise Unreadable(bad[-1 if last_first else 0])
        looked_at.append(len(chunk))
        return embed(chunk)

    source = searching.FolderSource(str(images))
    out = str(tmp_path / "index")
    manifest = searching.make_index(out, source, counting, "m", "runs/m", WIDTH, say=str)
    good = [i for i in range(51) if i % 3]
    assert manifest["count"] == 34 and manifest["skipped"] == {"not a picture": 26}
    index = searching.Index(out)
    assert [index.item(row)["path"] for row in range(34)] == [f"{i:02d}.png" for i in good]
    if not last_first:
        assert sum(looked_at) <= 60 + 34  # each once to find the bad ones, and the good once more


def test_the_first_of_each_reason_is_named(folder, tmp_path):
    for i in range(25):
        (folder / f"{i:02d}.heic").write_bytes(b"x")
    manifest = make(folder, tmp_path / "index")
    assert manifest["skipped"] == {"not a picture": 1, "images .heic are not read": 25}
    assert len(manifest["examples"]) == 6
    assert manifest["examples"][0] == f"{folder}/broken.png: not a picture"
    assert make(folder, tmp_path / "index") == manifest  # the same again counts nothing twice


def test_what_cannot_be_indexed_is_said(folder, tmp_path):
    with pytest.raises(UserError, match="no folder"):
        searching.FolderSource(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image: expected files .jpg"):
        searching.FolderSource(str(tmp_path / "empty"))
    (tmp_path / "empty" / "a.png").write_bytes(b"bad")
    with pytest.raises(UserError, match="none of the 1 images could be read"):
        make(tmp_path / "empty", tmp_path / "index")
    with pytest.raises(UserError, match="holds something else"):
        make(folder, folder)
    with pytest.raises(UserError, match="holds no index"):
        searching.Index(str(folder))


def test_names_of_files_need_not_be_utf8(tmp_path):
    images = tmp_path / "names"
    images.mkdir()
    with open(os.fsencode(images) + b"/\xff.png", "wb") as file:
        file.write(b"one")
    with open(os.fsencode(images) + b"/\xfe.png", "wb") as file:
        file.write(b"bad")
    manifest = make(images, tmp_path / "index")
    assert manifest["count"] == 1 and "\ufffd" in manifest["examples"][0]
    index = searching.Index(str(tmp_path / "index"))
    source = searching.open_source(index.manifest["source"])
    assert source.read(index.item(0)) == b"one" and source.name(index.item(0)).encode()


def test_a_damaged_index_is_named(folder, tmp_path):
    make(folder, tmp_path / "index")
    part = tmp_path / "index" / "part-00000.npy"
    data = part.read_bytes()
    part.write_bytes(data[:40])
    with pytest.raises(UserError, match="part-00000 cannot be read"):
        searching.Index(str(tmp_path / "index"))
    part.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match="part-00000 cannot be read .*its checksum does not fit"):
        searching.Index(str(tmp_path / "index"))
    part.write_bytes(data)
    lines = tmp_path / "index" / "part-00000.jsonl"
    whole = lines.read_text()
    lines.write_text(whole.replace("0.JPG", "9.JPG"))
    with pytest.raises(UserError, match="part-00000 cannot be read .*its checksum does not fit"):
        searching.Index(str(tmp_path / "index"))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"parts": [{}]}, "is of no index, or is damaged: choose another folder"),
        ({"source": {}}, "is of no index, or is damaged"),
        ({"read": None}, "is of no index, or is damaged"),
        ({"count": "6"}, "is of no index, or is damaged"),
        ({"schema": 1}, "holds an index of version 1, expected 2: index again, into another"),
        ({"count": 7}, "do not agree"),
    ],
)
def test_a_manifest_is_checked(folder, tmp_path, change, words):
    manifest = make(folder, tmp_path / "index")
    (tmp_path / "index" / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(UserError, match=words):
        searching.Index(str(tmp_path / "index"))
    if "count" not in change or change["count"] != 7:
        with pytest.raises(UserError, match=words):
            make(folder, tmp_path / "index")


def test_what_is_no_index_is_not_told_to_be_removed(data_dir, folder):
    records = str(data_dir / "scenes" / "test")  # a manifest.json of another kind
    for use in (searching.Index, lambda out: make(folder, out)):
        with pytest.raises(UserError, match="is of no index.*choose another folder"):
            use(records)


def test_a_damaged_file_of_faiss_is_named(folder, tmp_path):
    pytest.importorskip("faiss", reason="pip install -r requirements-demo.txt")
    make(folder, tmp_path / "index", kind="flat")
    (tmp_path / "index" / "index.faiss").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="index.faiss is damaged"):
        searching.Index(str(tmp_path / "index")).search(embed([b"one"]), 1)
    (folder / "0.JPG").unlink()
    make(folder, tmp_path / "other", kind="flat")
    shutil.copy(tmp_path / "other" / "index.faiss", tmp_path / "index" / "index.faiss")
    with pytest.raises(UserError, match="index.faiss is of another index"):
        searching.Index(str(tmp_path / "index")).search(embed([b"one"]), 1)


# --- the tools ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tools, finished, data_dir, tmp_path_factory):
    """Folder of an index of the test scenes, by the model of a small run."""
    out = tmp_path_factory.mktemp("search") / "index"
    flags = [f"--model={finished[0]}", f"--records={data_dir}/scenes/test", f"--out={out}"]
    done = tools.run(out.parent, "index.py", *flags)
    assert done.code == 0 and f"{out}: 12 images of {data_dir}/scenes/test" in done.out, done
    return out


def test_search_prints_rank_score_and_name(tools, finished, index, tmp_path):
    flags = [f"--index={index}", "--k=3", f"--json={tmp_path / 'found.json'}"]
    done = tools.run(tmp_path, "search.py", "a red circle", *flags)
    assert done.code == 0 and done.out.splitlines()[0].split() == ["rank", "score", "image"]
    assert len(done.out.splitlines()) == 5
    found = json.loads((tmp_path / "found.json").read_text())["found"]
    assert [of["rank"] for of in found] == [1, 2, 3]
    scores = [of["score"] for of in found]
    assert scores == sorted(scores, reverse=True) and found[0]["id"] in done.out
    embedder = tf_mural.Embedder.load(finished[0])
    ((best, *_),) = searching.Index(str(index)).search(embedder.texts(["a red circle"]), 1)
    assert scores[0] == pytest.approx(best.score, abs=1e-5)


def test_search_takes_an_image(tools, index, tmp_path):
    source = searching.open_source(searching.Index(str(index)).manifest["source"])
    (tmp_path / "query.png").write_bytes(source.read({"record": 5}))
    done = tools.run(tmp_path, "search.py", "--image=query.png", f"--index={index}", "--k=1")
    assert "1.000" in done.out and source.item(5)["id"] in done.out


def test_unknown_words_are_said(tools, index, tmp_path):
    done = tools.run(tmp_path, "search.py", "☃☃☃", f"--index={index}", "--k=1")
    assert done.out.startswith("no part of '☃☃☃' is in the vocabulary")


@pytest.mark.parametrize(
    ("tool", "flags", "words"),
    [
        ("index.py", ["--model=x", "--out=y"], "either --images or --records"),
        ("index.py", ["--images=.", "--out=y"], "--model is missing"),
        ("index.py", ["--images=nothing", "--model=x", "--out=y"], "no folder 'nothing'"),
        ("search.py", ["--index=x"], "say what to look for"),
        ("search.py", ["a dog"], "--index is missing"),
        ("search.py", ["a dog", "--index=nothing"], "nothing holds no index"),
        ("demo.py", [], "say what to search in"),
    ],
)
def test_bad_flags_are_refused(tools, tmp_path, tool, flags, words):
    assert words in tools.run(tmp_path, tool, *flags).error()


def test_an_index_of_another_model_is_refused(tools, finished, index, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(finished[0], other, ignore=shutil.ignore_patterns("checkpoints"))
    with np.load(other / "weights.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["dual_encoder/temperature_shared"] = np.float32(0.3)
    np.savez(other / "weights.npz", **arrays)
    done = tools.run(tmp_path, "search.py", "a", f"--index={index}", f"--model={other}")
    assert "nothing in common" in done.error()


# --- the page -------------------------------------------------------------------------------------

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
def answers(finished, index):
    pytest.importorskip("gradio", reason="pip install -r requirements-demo.txt")
    import demo_page

    embedder = tf_mural.Embedder.load(finished[0])
    return demo_page.Search(embedder, searching.Index(str(index)))


@pytest.mark.parametrize("text", HOSTILE)
def test_the_page_survives_any_text(answers, text):
    note, found = answers.by_text(text, 5)
    assert len(found) == (5 if text.strip() else 0)
    assert "<script>" not in note and "](" not in note
    note, found = answers.side_by_side(f"{text}\nde: ein Kreis")
    assert len(found) % 5 == 0 and found


def test_the_page_compares_languages(answers):
    lines = answers.example_lines(0)
    assert lines.startswith("en: ") and len(lines.splitlines()) == 6
    note, found = answers.side_by_side(lines)
    assert note.startswith("Mean cosine similarity of the 6 queries") and len(found) == 30
    assert [caption.split()[0] for _, caption in found[::5]] == ["en", "cs", "de", "es", "fr", "it"]
    number, other = answers.another(0, ["de"])
    assert number == 1 and other.startswith("de: ") and other not in lines
    assert answers.side_by_side("")[1] == []


def test_an_image_that_is_gone_is_said(answers, monkeypatch):
    def gone(item):
        raise OSError("No such file")

    monkeypatch.setattr(answers._source, "read", gone)
    _, found = answers.by_text("a circle", 2)
    assert all("gone: No such file" in caption for _, caption in found)


def test_a_port_in_use_is_said(tools, index, tmp_path):
    import socket

    pytest.importorskip("gradio", reason="pip install -r requirements-demo.txt")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        done = tools.run(tmp_path, "demo.py", f"--index={index}", f"--port={port}")
    assert "choose another --port" in done.error()


def test_a_person_types_sees_and_clicks(finished, data_dir, tmp_path):
    """In a real browser, of which nothing goes to any other machine.

    The README's picture: DEMO_PICTURE=docs/demo.png DEMO_MODEL=... DEMO_RECORDS=... pytest -k types
    """
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no browser here: apt-get install chromium")
    pytest.importorskip("gradio", reason="pip install -r requirements-demo.txt")
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    command = [sys.executable, os.path.join(ROOT, "tools", "demo.py"), "--port=0"]
    model = os.path.abspath(os.environ.get("DEMO_MODEL", finished[0]))
    records = os.path.abspath(os.environ.get("DEMO_RECORDS", data_dir / "scenes" / "test"))
    picture = os.path.abspath(os.environ.get("DEMO_PICTURE", tmp_path / "page.png"))
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
            page.wait_for_timeout(1000)  # until pictures have faded in
            page.screenshot(path=picture)
            page.get_by_role("tab", name="Languages side by side").click()
            page.get_by_role("button", name="Compare").click()
            page.get_by_text("Mean cosine similarity of the 6 queries").wait_for()
            browser.close()
        assert not outside
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


QUERY = "Ein kleiner grüner Kreis rechts von einem großen weißen Mond auf gestreiftem Hintergrund."
# Else it looks for Google's hosts at every start.
BROWSER = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
BROWSER += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


def _is_inside(request, url):
    return request.startswith((url, "data:", "blob:"))
