"""Converters of XM3600, XFlickrCO, WIT, XTD200, Flickr30k-200, GLAMI-1M, CVQA and MVL-SIB."""

import json
import os

import pytest
from conftest import ROOT
from helpers import benchmark_files, raw_folders
from helpers.datasets import convert, read_items, read_parts
from helpers.files import write_files
from helpers.images import plain_image

from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets import cvqa, flores_captions, glami, mvl_sib, wit, xflickrco, xm3600
from tf_mural.errors import UserError

OFFICIAL = os.path.join(ROOT, "..", "shared", "data")
COLORS = ("red", "blue", "lime", "black", "white")
KEYS = benchmark_files.XM3600_KEYS


@pytest.fixture(autouse=True)
def colored(monkeypatch):
    """Makes the photographs of a raw folder differ."""
    colors = iter(COLORS * 3)
    monkeypatch.setattr(raw_folders, "photograph", lambda _: plain_image(next(colors)))


def expected_xm3600(order=xm3600.LANGUAGES):
    return [
        Record(
            key,
            (plain_image(COLORS[number]),),
            tuple((c, t) for c in order for t in benchmark_files.xm3600_captions(c, number)),
        )
        for number, key in enumerate(KEYS)
    ]


# --- XM3600 ---------------------------------------------------------------------------------------


def test_both_layouts_of_xm3600_give_the_same_records(tmp_path, monkeypatch):
    raw_folders.write_xm3600(tmp_path / "jsonl")
    actual = read_items(xm3600, tmp_path / "jsonl", "test")
    assert actual == expected_xm3600()
    assert ("quz", "quz 0b") in actual[0].texts and ("he", "he 0a") in actual[0].texts
    assert [code for code, _ in actual[0].texts].count("bn") == 1
    for name, write in (
        ("packed", lambda folder: raw_folders.write_xm3600(folder, True)),
        ("parquet", raw_folders.write_xm3600_parquet),
    ):
        colors = iter(COLORS)
        monkeypatch.setattr(raw_folders, "photograph", lambda _, c=colors: plain_image(next(c)))
        write(tmp_path / name)
        assert read_items(xm3600, tmp_path / name, "test") == expected_xm3600(), name


def test_captions_and_images_of_xm3600_are_joined_by_key_not_by_order(tmp_path):
    """The rows of every second language are in the opposite order."""
    raw_folders.write_xm3600_parquet(tmp_path)
    for number, record in enumerate(read_items(xm3600, tmp_path, "test", languages=("de", "fr"))):
        texts = benchmark_files.xm3600_captions("de", number)
        texts += benchmark_files.xm3600_captions("fr", number)
        assert [text for _, text in record.texts] == texts


def test_missing_languages_of_xm3600_are_named(tmp_path):
    raw_folders.write_xm3600(tmp_path / "jsonl")
    path = tmp_path / "jsonl/captions.jsonl"
    path.write_text(path.read_text().replace('"quz":', '"x":').replace('"mi":', '"y":'))
    with pytest.raises(UserError, match="captions.jsonl lacks 2 of 36 languages: mi, quz; downl"):
        xm3600.plan(str(tmp_path / "jsonl"), "test")
    assert len(read_items(xm3600, tmp_path / "jsonl", "test", languages=("German", "el"))) == 2
    with pytest.raises(UserError, match="unknown language .*captions.jsonl.* 'quz'; known: ar,"):
        xm3600.plan(str(tmp_path / "jsonl"), "test", languages=("quz",))
    raw_folders.write_xm3600_parquet(tmp_path / "parquet")
    (tmp_path / "parquet/data/de-00000-of-00001.parquet").rename(
        tmp_path / "parquet/data/de-00000-of-00002.parquet"
    )
    with pytest.raises(UserError, match="has 1 of 2 Parquet files of the language de"):
        xm3600.plan(str(tmp_path / "parquet"), "test")


def test_duplicate_ids_are_refused(tmp_path):
    raw_folders.write_xm3600(tmp_path / "a")
    path = tmp_path / "a/captions.jsonl"
    path.write_text(path.read_text() * 2)
    with pytest.raises(UserError, match=f"the id '{KEYS[0]}' occurs twice"):
        xm3600.plan(str(tmp_path / "a"), "test")
    images = [plain_image("red")] * 2
    columns = {"image_id": ["x", "x"], "captions": [["a"], ["b"]], "image": images}
    benchmark_files.write_parquet(tmp_path / "b/de-00000-of-00001.parquet", columns)
    with pytest.raises(UserError, match="parquet, row 2: the row repeats the id 'x': expected one"):
        xm3600.plan(str(tmp_path / "b"), "test", languages=("de",))
    write_files(tmp_path / "c", benchmark_files.xflickrco_files())
    path = tmp_path / "c/annotations/de/test.jsonl"
    path.write_text(path.read_text().replace('"id": 7', '"id": 1001'))
    with pytest.raises(UserError, match="de/test.jsonl, line 2: the id '1001' occurs twice"):
        xflickrco.plan(str(tmp_path / "c"), "test")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/GLAMI-1M-test.csv").write_text(benchmark_files.GLAMI + "5,i9,de,a,,1,b,NA\n")
    with pytest.raises(UserError, match="line .*: the item_id '5' occurs twice"):
        glami.plan(str(tmp_path / "d"), "test")
    columns = benchmark_files.cvqa_columns([plain_image("red")] * 2)
    columns["ID"] = ["1_0", "1_0"]
    benchmark_files.write_parquet(tmp_path / "e/test-00000-of-00001.parquet", columns)
    with pytest.raises(UserError, match="row 2: the id 'Japanese-Japan/1_0' occurs twice"):
        cvqa.plan(str(tmp_path / "e"), "test")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page or a message.* needs a login; log"),
        (b'{"error":"Access to dataset afaji/cvqa is restricted"}', "the data set needs a login"),
        (b"Access to dataset x is restricted. You must have access", "needs a login"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS"),
    ],
)
def test_gated_data_without_a_login_are_refused(tmp_path, content, message):
    write_files(tmp_path, {"data/test-00000-of-00001.parquet": content})
    with pytest.raises(UserError, match=message):
        cvqa.plan(str(tmp_path), "test")


def test_parquet_without_pyarrow_names_the_command_that_installs_it(tmp_path, monkeypatch):
    raw_folders.write_cvqa(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match="needs pyarrow: pip install pyarrow"):
        cvqa.plan(str(tmp_path), "test")


# --- XFlickrCO and WIT ----------------------------------------------------------------------------


def test_both_layouts_of_xflickrco_give_clean_captions_or_those_of_mteb(tmp_path):
    raw_folders.write_xflickrco(tmp_path / "jsonl")
    raw_folders.write_xflickrco_parquet(tmp_path / "parquet")
    for split in ("test", "mteb"):
        records = {n: read_items(xflickrco, tmp_path / n, split) for n in ("jsonl", "parquet")}
        texts = {name: [(r.id, r.texts) for r in items] for name, items in records.items()}
        assert texts["jsonl"] == texts["parquet"]
        first = dict(records["jsonl"][0].texts)
        assert first["de"] == ("de eins" if split == "test" else "[' de eins\\n']")
    assert [record.id for record in records["jsonl"]] == ["1001", "7"]
    assert records["jsonl"][1].images == (plain_image("blue"),)


def test_an_empty_caption_of_xflickrco_is_kept_only_as_mteb_publishes_it(tmp_path):
    raw_folders.write_xflickrco(tmp_path)
    path = tmp_path / "annotations/de/test.jsonl"
    path.write_text(path.read_text().replace("de zwei", ""))
    items = read_items(xflickrco, tmp_path, "test")
    blank = Skipped("blank text", "COCO_val2014_000000000007.jpg, de", text_only=True)
    assert blank in items
    kept = [r for r in read_items(xflickrco, tmp_path, "mteb") if isinstance(r, Record)]
    assert ("de", "['']") in kept[1].texts


def test_captions_in_another_order_than_the_images_are_refused(tmp_path):
    raw_folders.write_xflickrco(tmp_path / "a")
    path = tmp_path / "a/annotations/ja/test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["img_path"], rows[1]["img_path"] = rows[1]["img_path"], rows[0]["img_path"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="'1001' is COCO_val.*: captions and images are in diff"):
        xflickrco.plan(str(tmp_path / "a"), "test")


def test_each_language_of_wit_has_its_own_images(tmp_path):
    raw_folders.write_wit(tmp_path)
    records = read_items(wit, tmp_path, "test")
    assert [(record.id, record.texts) for record in records] == [
        ("ar/wit-test_0", (("ar", "ar 0"), ("ar", "ar 0"))),
        ("ar/wit-test_1", (("ar", "ar 1"), ("ar", "ar 1"))),
    ]
    assert wit.splits(str(tmp_path)) == ("test",)


def test_captions_of_wit_without_images_are_grouped_by_image_and_blank_ones_are_counted(tmp_path):
    rows = [("wit-test_3", "بيت"), ("wit-test_4", "\u00a0"), ("wit-test_3", "a\u0085b")]
    lines = [
        {"image_idx": 7, "caption_reference_description": text, "wit_ix": id} for id, text in rows
    ]
    for code in wit.LANGUAGES:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_files(tmp_path, {f"annotations/test_{code}.jsonl": text})
    items = read_items(wit, tmp_path, "texts", languages=("ar",))
    assert items == [
        Record("ar/wit-test_3", (), (("ar", "بيت"), ("ar", "a\u0085b"))),
        Skipped("blank text", "wit-test_4, ar", text_only=True),
        Skipped("no text", "wit-test_4"),
    ]


# --- XTD200 and Flickr30k-200 ---------------------------------------------------------------------


def test_only_line_feeds_end_a_line_and_codes_are_those_of_flores(tmp_path):
    raw_folders.write_flickr30k_200(tmp_path)
    write_files(tmp_path, {"zho_Hant.txt": "一\u2028二\n三\x0b\x85四\r\n"})
    records = read_items(flores_captions, tmp_path, "test")
    assert records[0].texts == (("de", "eins"), ("en", "one"), ("zh-Hant", "一\u2028二"))
    assert records[1].texts[2] == ("zh-Hant", "三\x0b\x85四")
    assert [record.id for record in records] == ["1", "2"]
    files = read_parts(flores_captions, tmp_path, "texts", languages=("de", "en"))["files"]
    assert files == {
        None: (3, []),
        "the option languages does not name their languages": (1, ["zho_Hant.txt"]),
        "their names are not FLORES-200 codes": (1, ["eng_captions.txt"]),
    }
    with pytest.raises(UserError, match="deu_Latn.txt has 1 lines, but filenames.txt names 2"):
        read_items(flores_captions, write_files(tmp_path, {"deu_Latn.txt": "eins"}), "test")


@pytest.mark.skipif(not os.path.isdir(f"{OFFICIAL}/xtd10"), reason="needs shared/data/xtd10")
def test_the_images_of_xtd200_in_another_order_are_refused(tmp_path):
    path = os.path.join(OFFICIAL, "xtd10/XTD10/test_image_names.txt")
    with open(path, encoding="utf-8") as file:
        names = file.read().split()
    captions = "".join(f"caption {number}\n" for number in range(1000))
    write_files(tmp_path, {"eng_Latn.txt": captions, "test_image_names.txt": "\n".join(names)})
    assert len(read_items(flores_captions, tmp_path, "texts")) == 1000
    write_files(tmp_path, {"test_image_names.txt": "\n".join(names[::-1])})
    with pytest.raises(UserError, match="names.txt: the images are in another order than the capt"):
        flores_captions.plan(str(tmp_path), "texts")


# --- GLAMI-1M -------------------------------------------------------------------------------------


def test_countries_of_glami_are_stored_as_languages_and_texts_are_unique(tmp_path):
    raw_folders.write_glami(tmp_path)
    records = {record.id: record for record in read_items(glami, tmp_path, "test")}
    assert records["et/i4"].texts == (("et", "et shirt\nred,\nwarm"),) and len(records) == 15
    assert records["cs/i12"].texts == (("cs", "kabát"),)
    assert records["cs/i5"].images == records["hr/i5"].images == (plain_image("red"),)
    path = write_files(tmp_path / "b", {"GLAMI-1M-test.csv": "item_id,image_id,name,description,"
                                        "geo\n1,i1,a,,de\n"})  # fmt: skip
    with pytest.raises(UserError, match="line 2: unknown geo 'de'; known: bg, cs"):
        glami.plan(str(path), "test")


# --- CVQA and MVL-SIB -----------------------------------------------------------------------------


def test_questions_of_cvqa_keep_their_blanks_and_have_local_and_english_options(tmp_path):
    raw_folders.write_cvqa(tmp_path)
    first, second = read_items(cvqa, tmp_path, "test")
    assert first.id == "Japanese-Japan/1234567890_0" and (first.label, second.label) == (1, 2)
    assert first.texts[:2] == (("ja", "これは何ですか?  城"), ("ja", "これは何ですか?   橋 "))
    assert first.texts[4:6] == (("en", "What is this?  castle"), ("en", "What is this?  bridge "))
    assert first.images == (plain_image("red"),) and second.images == (plain_image("blue"),)
    convert("cvqa", tmp_path, tmp_path / "out", "test")
    assert list(RecordSet.open(tmp_path / "out/test")) == [first, second]


def test_hidden_labels_of_cvqa_are_counted_and_refused(tmp_path):
    columns = benchmark_files.cvqa_columns([plain_image("red")] * 3)
    columns["Label"] = [-1, 3, 4]
    benchmark_files.write_parquet(tmp_path / "test-00000-of-00001.parquet", columns)
    with pytest.raises(UserError, match="2 of 3 questions have no label from 0 to 3: this revi"):
        cvqa.plan(str(tmp_path), "test")


def test_candidates_of_mvl_sib_are_in_descending_order_of_their_ids(tmp_path):
    raw_folders.write_mvl_sib(tmp_path)
    first, second = read_items(mvl_sib, tmp_path, "test")
    assert first.texts == (("de", "eins"), ("en", "one")) and first.id == "query-0"
    assert first.images == tuple(plain_image(COLORS[n]) for n in (3, 2, 1, 0)) and first.label == 3
    assert second.images == tuple(plain_image(COLORS[n]) for n in (4, 3, 2, 1))
    assert second.label == 0


def test_languages_of_mvl_sib_with_other_candidates_are_refused(tmp_path):
    raw_folders.write_mvl_sib(tmp_path)
    columns = {
        "query-id": ["query-0", "query-1"],
        "corpus-ids": [
            [f"image-travel_{n}" for n in four] for four in ((0, 1, 2, 4), (1, 2, 3, 4))
        ],
    }
    path = tmp_path / "eng_Latn-top_ranked/test-00000-of-00001.parquet"
    benchmark_files.write_parquet(path, columns)
    with pytest.raises(UserError, match="'query-0' has no candidates, or others than in de"):
        mvl_sib.plan(str(tmp_path), "test")
    columns["corpus-ids"][1] = ["image-travel_9"] * 4
    benchmark_files.write_parquet(path, columns)
    with pytest.raises(UserError, match="'query-1' has the candidates .*: expected 4 images of t"):
        mvl_sib.plan(str(tmp_path), "test")
