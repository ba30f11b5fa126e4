"""Names of files in tars and folders: dots, languages, captions in JSON, and ignored files."""

import json

import pytest
from helpers.crawl_files import BLUE, GREEN, RED, write_tar
from helpers.datasets import convert, read_items, read_parts
from helpers.files import write_files
from helpers.shapes import given

from tf_mural.conversion.ledger import format_summary
from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets import crawl
from tf_mural.datasets.crawl import sample_readers
from tf_mural.errors import UserError


def read(raw, **options):
    return read_items(crawl, raw, "train", **options)


def convert_given(name, tmp_path, **options):
    manifest = convert("crawl", given(f"04_tars/{name}"), tmp_path / "out", "train", **options)
    ledger = manifest["ledger"]
    assert ledger["kept"] + sum(ledger["dropped"].values()) == ledger["read"]
    members = ledger["parts"]["members"]
    assert members["used"] + sum(members["ignored"].values()) == members["read"]
    return manifest, list(RecordSet.open(tmp_path / "out/train"))


# --- tars of ../shared/data/inputs ----------------------------------------------------------------


def test_given_names_with_dots_keep_their_captions(tmp_path):
    manifest, records = convert_given("dots", tmp_path)
    assert {(record.id, record.texts) for record in records} == {
        ("shapes:img.v1", (("en", "a red circle"),)),
        ("shapes:img.v2", (("en", "a blue square"),)),
        ("shapes:plain", (("en", "a green triangle"),)),
        ("shapes:Track 2.0", (("en", "a yellow star"),)),
    }
    # The four captions belong to four different images.
    oracle = {}
    for record in records:
        oracle.setdefault(record.images[0], []).append(record.texts[0][1])
    assert all(len(texts) == 1 for texts in oracle.values()) and len(oracle) == 4
    assert manifest["ledger"]["parts"]["members"]["used"] == 8


def test_given_captions_by_language(tmp_path):
    manifest, (first, second) = convert_given("languages", tmp_path, language="fr")
    assert first.id == "shapes:a" and set(first.texts) == {
        ("de", "ein roter Kreis"),
        ("en", "a red circle"),
    }
    assert (second.id, second.texts) == ("shapes:b", (("fr", "a blue square"),))
    assert manifest["ledger"]["parts"]["members"]["used"] == 5


def test_given_lists_of_captions(tmp_path):
    _, (first, second) = convert_given("lists", tmp_path)
    assert first.texts == (("en", "a yellow star"), ("en", "a star, yellow"))
    assert second.texts == (("en", "a blue square"),)


# --- names of members -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["tar", "folder"])
def test_a_language_in_a_name_is_part_of_the_key_if_an_image_has_that_key(tmp_path, layout):
    files = {
        "a.de.jpg": RED,
        "a.de.txt": b"key a.de",
        "b.DEU.txt": b"deutsch",
        "b.jpg": GREEN,
        "b.txt": b"plain",
        "b.zh_CN.txt": "中文".encode(),
        "c.1.jpg": BLUE,
        "c.1.v2.txt": b"of no image",
        "d.2.5.en.txt": b"key d.2.5",
        "d.2.5.png": RED,
    }
    if layout == "tar":
        write_tar(tmp_path / "x.tar", files.items())
    else:
        write_files(tmp_path / "x", files)
    items = {getattr(item, "id", None) or item.example: item for item in read(tmp_path)}
    assert items["x:a.de"].texts == (("en", "key a.de"),)
    assert set(items["x:b"].texts) == {("de", "deutsch"), ("en", "plain"), ("zh", "中文")}
    assert items["x:c.1"] == Skipped("no caption", "x:c.1")
    assert items["x:c.1.v2"] == Skipped("no image", "x:c.1.v2")
    assert items["x:d.2.5"].texts == (("en", "key d.2.5"),)
    codes = read_parts(crawl, tmp_path, "train")["language codes"][None]
    assert codes == (3, ["DEU", "zh_CN", "en"])


def test_texts_may_come_before_their_image(tmp_path):
    files = [("a.de.txt", b"rot"), ("a.fr.txt", b"rouge"), ("a.jpg", RED), ("b.de.txt", b"nichts")]
    write_tar(tmp_path / "x.tar", files)
    assert read(tmp_path) == [
        Record("x:a", (RED,), (("de", "rot"), ("fr", "rouge"))),
        Skipped("no image", "x:b.de"),
    ]


@pytest.mark.parametrize(
    "content, texts, dropped",
    [
        ({"caption": "one"}, [("en", "one")], []),
        ({"captions": ["one", "two"]}, [("en", "one"), ("en", "two")], []),
        (["one", "two"], [("en", "one"), ("en", "two")], []),
        ("one", [("en", "one")], []),
        ({"caption": {"de": "eins", "zh_TW": ["一", "二"]}}, None, []),
        ({"de": "eins", "width": 3}, [("de", "eins")], []),
        ({"caption": ["one", 2, None]}, [("en", "one")], ["2", "None"]),
        ({"caption": {"en": "one", "url": "x"}}, [("en", "one")], ["'url'"]),
        ({"caption": None, "text": "one"}, [("en", "one")], []),
    ],
)
def test_captions_in_json(tmp_path, content, texts, dropped):
    write_tar(tmp_path / "x.tar", [("a.jpg", RED), ("a.json", json.dumps(content).encode())])
    *skipped, record = read(tmp_path)
    texts = texts or [("de", "eins"), ("zh-Hant", "一"), ("zh-Hant", "二")]
    assert record.texts == tuple(texts)
    assert [item.example for item in skipped] == [f"x:a: {example}" for example in dropped]
    assert all(item.text_only for item in skipped)


def test_a_caption_that_a_txt_replaces_is_counted(tmp_path):
    files = [("a.jpg", RED), ("a.txt", b"better"), ("b.jpg", RED), ("b.txt", b"same\n")]
    files.insert(2, ("a.json", b'{"caption": "alt-text", "url": "http://x"}'))
    files.append(("b.json", b'{"caption": "same"}'))
    write_tar(tmp_path / "x.tar", files)
    assert read(tmp_path) == [
        Skipped("caption in .json next to a .txt", "x:a: alt-text", text_only=True),
        Record("x:a", (RED,), (("en", "better"),)),
        Record("x:b", (RED,), (("en", "same"),)),
    ]


def test_members_that_are_not_used_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_readers, "_MAX_BYTES", 5000)
    files = [
        ("README", b"read me"),
        ("a.jpg", RED),
        ("a.png", GREEN),
        ("a.npy", b"x"),
        ("a.cls", b"1"),
        ("a.txt", b"first"),
        ("a.txt", b"second"),
        (".hidden.jpg", RED),
        ("b.jpg", RED + b" " * 5000),
        ("b.txt", b"too large"),
    ]
    write_tar(tmp_path / "x.tar", files)
    assert read(tmp_path) == [
        Record("x:a", (RED,), (("en", "second"),)),
        Skipped("no image", "x:b"),
    ]
    members = read_parts(crawl, tmp_path, "train")["members"]
    assert members.pop(None) == (3, [])
    assert members == {
        "they are neither images nor captions": (4, ["README"]),
        "their sample has another image": (1, ["a.png"]),
        "a later member has their name": (1, ["a.txt"]),
        "they have more than 5,000 bytes": (1, ["b.jpg"]),
    }
    assert sum(count for count, _ in members.values()) + 3 == len(files)
    manifest = convert("crawl", tmp_path, tmp_path / "out", "train")
    note = "train: 4 members ignored because they are neither images nor captions: README, ..."
    assert note in format_summary([manifest])


def test_files_of_a_crawl_that_are_not_used_are_counted(tmp_path):
    write_tar(tmp_path / "00000.tar", [("a.jpg", RED), ("a.txt", b"red")])
    write_files(tmp_path, {"notes.md": "x", "00000_stats.json": "{}", "sub/c.zip": b"PK"})
    assert read_parts(crawl, tmp_path, "train")["files"] == {
        None: (1, []),
        "they are neither images nor captions": (2, ["notes.md", "sub/c.zip"]),
    }


def test_the_language_of_the_option_may_have_any_form(tmp_path):
    write_tar(tmp_path / "x.tar", [("a.jpg", RED), ("a.txt", b"rot")])
    assert read(tmp_path, language="German")[0].texts == (("de", "rot"),)
    with pytest.raises(UserError, match="the option language: expected .* 'dk'; did you mean 'da'"):
        read(tmp_path, language="dk")
