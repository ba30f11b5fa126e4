"""`table`: your own images and texts in TSV, CSV and JSONL tables."""

import json
import os

import pytest
from conftest import ROOT
from helpers.datasets import read_items
from helpers.files import write_files
from helpers.images import plain_image

from tf_mural.data.records import Record, Skipped
from tf_mural.datasets import table
from tf_mural.errors import UserError

DATA = os.path.join(ROOT, "..", "shared", "data")
PNG, JPEG = plain_image("red", "PNG"), plain_image("red", "JPEG")


@pytest.fixture
def folder(tmp_path):
    """A folder with the images a.png and b/c.jpg."""
    return write_files(tmp_path, {"a.png": PNG, "b/c.jpg": JPEG})


def read(folder, content, name="t.tsv", split="train", **options):
    """Writes a table into the folder and returns the list of all items that `table.read` yields."""
    write_files(folder, {name: content})
    return read_items(table, folder, split, file=name, **options)


def read_texts(*args, **kwargs):
    return [item.texts for item in read(*args, **kwargs)]


def records(unit):
    return [item for item in table.read(unit) if isinstance(item, Record)]


def jsonl(*objects):
    return "".join(json.dumps(row) + "\n" for row in objects)


# --- layouts --------------------------------------------------------------------------------------


def test_wide_layout_has_one_row_a_record(folder):
    content = "image\ten\tde\nb/c.jpg\ta cup\teine Tasse\na.png\t\t ein Ball \n"
    assert read(folder, content) == [
        Record("b/c.jpg", (JPEG,), (("en", "a cup"), ("de", "eine Tasse"))),
        Record("a.png", (PNG,), (("de", " ein Ball "),)),
    ]


def test_a_table_without_images_is_a_bitext(folder):
    assert read(folder, "en\tde\nred\trot\nblue\tblau\n") == [
        Record("2", (), (("en", "red"), ("de", "rot"))),
        Record("3", (), (("en", "blue"), ("de", "blau"))),
    ]


def test_several_texts_are_in_repeated_columns_or_separated(folder):
    assert read_texts(folder, "en\tde\ten\none\teins\tuno\n\tzwei\ttwo\n") == [
        (("en", "one"), ("en", "uno"), ("de", "eins")),
        (("en", "two"), ("de", "zwei")),
    ]
    assert read_texts(folder, "en\tde\none | uno||\teins\n", texts_separator="|") == [
        (("en", "one"), ("en", "uno"), ("de", "eins"))
    ]
    assert read_texts(folder, "en\none|uno\n") == [(("en", "one|uno"),)]


def test_long_layout_joins_scattered_rows(folder):
    content = "image,language,text\na.png,en,red\nb/c.jpg,en,cup\na.png,de,rot\na.png,en,crimson\n"
    records = read(folder, content, "t.csv")
    assert [(record.id, record.texts) for record in records] == [
        ("a.png", (("en", "red"), ("de", "rot"), ("en", "crimson"))),
        ("b/c.jpg", (("en", "cup"),)),
    ]


def test_long_bitext_is_joined_by_id(folder):
    content = "pair,lang,sentence\n7,en,red\n8,en,blue\n7,de,rot\n"
    options = {"id_column": "pair", "language_column": "lang", "text_column": "sentence"}
    assert read(folder, content, "t.csv", **options) == [
        Record("7", (), (("en", "red"), ("de", "rot"))),
        Record("8", (), (("en", "blue"),)),
    ]


def test_invalid_language_codes_are_skipped(folder):
    content = "id,language,text\n1,germn,rot\n1,en,red\n1,cz,červená\n1,,none\n1,German,rot\n"
    assert read(folder, content, "t.csv") == [
        Skipped("not a language code", "line 2: 'germn'; did you mean 'german'?", text_only=True),
        Skipped("not a language code", "line 4: 'cz'; did you mean 'cs'?", text_only=True),
        Skipped("no language named", "line 5: none", text_only=True),
        Record("1", (), (("en", "red"), ("de", "rot"))),
    ]


def test_jsonl_has_texts_by_language(folder):
    content = jsonl(
        {"image": "a.png", "captions": {"en": ["red", "crimson"], "de": "rot", "fr": None}},
        {"image": "b/c.jpg", "captions": {"ja": "カップ", "url": "Tasse", "cs": [3]}},
    )
    first, bad_code, bad_text, second = read(folder, content, "t.jsonl")
    assert first.texts == (("en", "red"), ("en", "crimson"), ("de", "rot"))
    assert bad_code == Skipped("not a language code", "line 2: 'url'", text_only=True)
    assert bad_text == Skipped("text is not a string", "line 2: 3", text_only=True)
    assert (second.id, second.texts) == ("b/c.jpg", (("ja", "カップ"),))


def test_jsonl_merges_keys_and_skips_repeated_texts(folder):
    content = jsonl(
        {"meta": {"one": {"en": "x", "de": "y"}}, "two": {"en": ["x", "z"]}},
        {"two": {"en": "x"}},
    )
    assert read(folder, content, "t.jsonl", texts_keys=("meta.one", "two")) == [
        Skipped("repeated in its record", "line 1: x", text_only=True),
        Record("1", (), (("en", "x"), ("de", "y"), ("en", "z"))),
        Record("2", (), (("en", "x"),)),
    ]


def test_jsonl_may_be_wide_or_long(folder):
    flat = jsonl({"id": "r1", "pic": {"path": "a.png"}, "en": "red", "kind": "no", "de": ["rot"]})
    (record,) = read(folder, flat, "t.jsonl", image_column="pic.path")
    assert (record.id, record.texts) == ("r1", (("en", "red"), ("de", "rot")))
    long = jsonl(
        {"image": "a.png", "language": "en", "text": "red"},
        {"image": "a.png", "language": "de", "text": ["rot", "hellrot"]},
    )
    (record,) = read(folder, long, "t.jsonl")
    assert record.texts == (("en", "red"), ("de", "rot"), ("de", "hellrot"))


# --- columns --------------------------------------------------------------------------------------


def test_id_is_a_name_in_the_first_column_and_indonesian_elsewhere(folder):
    assert read(folder, "id\ten\nr1\tred\n") == [Record("r1", (), (("en", "red"),))]
    assert read(folder, "en\tid\nred\tmerah\n") == [
        Record("2", (), (("en", "red"), ("id", "merah")))
    ]
    (record,) = read(folder, "en\tid\nred\tr1\n", id_column="id")
    assert record == Record("r1", (), (("en", "red"),))


def test_columns_named_by_options_are_no_languages(folder):
    content = "img\tset\ten\tnotes\na\ttrain\tred\tx\n"
    options = {"image_column": "img", "image_suffix": ".png", "split_column": "set"}
    assert read_texts(folder, content, **options) == [(("en", "red"),)]


def test_only_chosen_languages_are_kept(folder):
    content = "en\tde\tfr\nred\trot\trouge\nblue\t\t\n"
    assert read(folder, content, languages=("fr", "de")) == [
        Record("2", (), (("de", "rot"), ("fr", "rouge"))),
        Skipped("no text", "line 3"),
    ]


def test_records_with_fewer_than_min_texts_are_skipped(folder):
    assert read(folder, "en\tde\nred\trot\nblue\t\n", min_texts=2) == [
        Record("2", (), (("en", "red"), ("de", "rot"))),
        Skipped("fewer than 2 texts", "line 3"),
    ]


def test_split_column_selects_rows(folder):
    content = "set\ten\ntrain\tone\nval\ttwo\ntrain\tthree\n"
    options = {"split_column": "set"}
    assert read_texts(folder, content, **options) == [(("en", "one"),), (("en", "three"),)]
    assert read_texts(folder, content, split="val", **options) == [(("en", "two"),)]
    assert table.splits(str(folder), file="t.tsv", **options) == ("train", "val")
    with pytest.raises(UserError, match="the split 'vla' in 'set'; it has: train, val"):
        read(folder, content, split="vla", **options)


def test_rows_without_a_split_are_skipped(folder):
    content = "split,en\ntrain,one\n,two\nval,three\n"
    assert read(folder, content, "t.csv") == [
        Record("2", (), (("en", "one"),)),
        Skipped("no split named", "line 3"),
    ]
    long = "id,language,text,split\na,en,one,train\na,de,eins,\nb,en,two,val\n"
    assert read(folder, long, "t.csv") == [
        Record("a", (), (("en", "one"),)),
        Skipped("no split named", "line 3"),
    ]
    with pytest.raises(UserError, match="names no split in 'split'; .* split_column to another"):
        (folder / "t.csv").write_text("split,en\n,two\n")
        table.splits(str(folder))


def test_split_column_is_found_in_later_objects(folder):
    content = jsonl({"en": "a split"}, {"en": 'a "split"'}, {"en": "b", "split": "val"})
    assert read(folder, content, "t.jsonl", split="val") == [
        Skipped("no split named", "line 1"),
        Skipped("no split named", "line 2"),
        Record("3", (), (("en", "b"),)),
    ]
    assert len(read_texts(folder, jsonl({"en": 'a "split"'}), "t.jsonl")) == 1


def test_split_is_in_the_file_name(folder):
    for split in ("val", "train"):
        (folder / f"c.{split}.tsv").write_text(f"en\n{split}\n")
    options = {"file": "c.{split}.tsv"}
    assert table.splits(str(folder), **options) == ("train", "val")
    (unit,) = table.plan(str(folder), "val", **options)
    assert [record.texts for record in records(unit)] == [(("en", "val"),)]
    with pytest.raises(UserError, match=r"c.test.tsv does not exist; .* c.train.tsv, c.val.tsv"):
        table.plan(str(folder), "test", **options)


def test_split_is_train_by_default(folder):
    (folder / "t.tsv").write_text("en\nred\n")
    assert table.splits(str(folder)) == ("train",)


def test_a_column_named_split_is_the_split_column(folder):
    content = "split\ten\ntrain\tone\nval\ttwo\n"
    assert read_texts(folder, content) == [(("en", "one"),)]
    assert table.splits(str(folder)) == ("train", "val")
    assert read_texts(folder, content, split="val") == [(("en", "two"),)]
    assert len(read_texts(folder, content, split_column="")) == 2
    assert table.splits(str(folder), split_column="") == ("train",)
    content = "split\tde\na.png\trot\n"
    for other in ({"image_column": "split"}, {"id_column": "split"}):
        (record,) = read(folder, content, **other)
        assert record.id == "a.png"
        assert table.splits(str(folder), **other) == ("train",)
    (folder / "t.tsv").write_text("split\ten\ntrain\tone\nval\ttwo\n")
    (folder / "t.tsv").rename(folder / "c.val.tsv")  # The split in the file name has priority.
    (unit,) = table.plan(str(folder), "val", file="c.{split}.tsv")
    assert len(records(unit)) == 2


# --- quotes, line ends, encodings -----------------------------------------------------------------


def test_quoted_cells_may_contain_delimiters_and_line_ends(folder):
    content = 'en,de\r\n"red, ""dark""\nand deep",rot\r\n\r\nblue,"bl\u2028au"\r\n'
    assert read(folder, content, "t.csv") == [
        Record("2", (), (("en", 'red, "dark"\nand deep'), ("de", "rot"))),
        Skipped("blank row", "line 4"),
        Record("5", (), (("en", "blue"), ("de", "bl\u2028au"))),
    ]


def test_quoting_none_keeps_quotes(folder):
    content = 'en\tde\n"red\trot"\n"blue"\t""\n'
    assert read_texts(folder, content, quoting="none") == [
        (("en", '"red'), ("de", 'rot"')),
        (("en", '"blue"'), ("de", '""')),
    ]
    with pytest.raises(UserError, match="t.tsv, line 3: .*pass the option quoting=none"):
        read(folder, 'en\tde\nred\trot\n"blue" sky\tblau\n')


@pytest.mark.parametrize("quoting", ["minimal", "none"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_mark_are_removed(folder, quoting, end, start):
    content = start + end.join(["en\tde", "red\trot", "blue\tblå"]).encode()
    assert read_texts(folder, content, quoting=quoting) == [
        (("en", "red"), ("de", "rot")),
        (("en", "blue"), ("de", "blå")),
    ]


def test_a_table_that_is_not_utf8_is_refused(folder):
    # In texts of Western Europe, these bytes would be taken for Windows-1252.
    content = "en\tcs\nred\trot\nblue\tbl\xe5\n".encode("latin-1")
    for options in ({}, {"quoting": "none"}):
        with pytest.raises(UserError, match=r"t.tsv, line 3: expected UTF-8, got b'\\xe5'"):
            read(folder, content, **options)


# --- invalid rows, images and tables --------------------------------------------------------------


def test_invalid_rows_are_skipped(folder):
    content = "en\tde\n\nred\n \t \nblue\tblau\tx\ngreen\tgrün\n"
    assert read(folder, content) == [
        Skipped("blank row", "line 2"),
        Skipped("number of cells is not the header's", "line 3"),
        Skipped("blank row", "line 4"),
        Skipped("number of cells is not the header's", "line 5"),
        Record("6", (), (("en", "green"), ("de", "grün"))),
    ]


def test_invalid_objects_are_skipped(folder):
    content = '{"en": "red"}\n\n{"en": \n[1]\n{"image": 3}\n'
    assert read(folder, content, "t.jsonl")[1:] == [
        Skipped("blank row", "line 2"),
        Skipped("not JSON", "line 3"),
        Skipped("not a JSON object", "line 4"),
        Skipped("no text", "line 5"),
    ]


def test_invalid_images_are_skipped(folder):
    files = {
        "text.png": "no image",
        "cut.jpg": plain_image(format="JPEG", size=(64, 64))[:-50],
        "cut.png": plain_image(format="PNG", size=(64, 64))[:-30],
        "page.tif": plain_image(format="TIFF"),
        "empty.png": b"",
    }
    write_files(folder, files)
    names = [
        "gone.png",
        "b",
        "text.png",
        "cut.jpg",
        "cut.png",
        "page.tif",
        "empty.png",
        "",
        "a\x00",
    ]
    content = "image\ten\n" + "".join(f"{name}\tx\n" for name in names)
    assert [(item.reason, item.example) for item in read(folder, content)] == [
        ("image missing", "line 2: gone.png"),
        ("image missing", "line 3: b"),
        ("image does not decode", "line 4: text.png"),
        ("image does not decode", "line 5: cut.jpg"),
        ("image does not decode", "line 6: cut.png"),
        ("image format is none of JPEG, PNG, GIF, BMP, WebP", "line 7: page.tif"),
        ("image does not decode", "line 8: empty.png"),
        ("no image named", "line 9"),
        ("image missing", "line 10: a\x00"),
    ]


@pytest.mark.parametrize(
    "format, mode",
    [
        (f, m)
        for f in ("JPEG", "PNG", "GIF", "BMP")
        for m in ("RGB", "L", "P")
        if f + m not in ("JPEGP", "BMPP")
    ],
)
def test_valid_images_keep_their_bytes(folder, format, mode):
    (folder / "x").write_bytes(plain_image("red", format, mode))
    (record,) = read(folder, "image\ten\nx\tred\n")
    assert record.images == ((folder / "x").read_bytes(),)


@pytest.mark.parametrize("name", ["../a.png", "c/../../a.png", "/etc/hostname", "../bb/x.png"])
def test_images_outside_of_their_folder_are_refused(folder, name):
    with pytest.raises(UserError, match=r"line 2: the image .* lies outside .*/b; set image_dir"):
        read(folder, f"image\ten\n{name}\tx\n", image_dir="b")


def test_any_path_inside_the_folder_is_accepted(folder):
    content = f"image\ten\n{folder}/b/c.jpg\tx\n./c.jpg\ty\n../b/c.jpg\tz\n"
    assert [len(item.images) for item in read(folder, content, image_dir="b")] == [1, 1, 1]


@pytest.mark.parametrize(
    "content, options, message",
    [
        ("image\ten\n", {"image_column": "img"}, "no column 'img', which the option image_column"),
        ("image\ten\n", {"languages": ("de",)}, "columns found: image, en"),
        ("image\talt\n", {}, r"language codes such as 'de' .*columns found: image, alt; .*alt:en"),
        ("image\ttext\n", {}, "column 'text'; name it with the option language=en, or .*text:en"),
        ("image\ten\n", {"layout": "long"}, "no column 'language', which the option language_colu"),
        ("language\ttext\n", {}, "the long layout needs image_column or id_column"),
        (
            "pic\ten\n",
            {"image_dir": "x"},
            "but there is no column of images: .* found: pic, en",
        ),
        ("pic\ten\n", {"image_suffix": ".png"}, "name it with image_column"),
        ("en\n", {"layout": "tall"}, "unknown layout 'tall'; known: auto, wide, long"),
        ("en\n", {"quoting": "minimum"}, "unknown quoting 'minimum'; .*did you mean 'minimal'"),
        ("en\n", {"format": "xls"}, "unknown format .* 'xls'; known: tsv, csv, jsonl"),
        ("", {}, "is empty; expected a header"),
        ("[1]\n", {"format": "jsonl"}, "line 1: expected a JSON object"),
    ],
)
def test_invalid_tables_and_options_are_refused(folder, content, options, message):
    with pytest.raises(UserError, match=message):
        read(folder, content, **options)


def test_the_table_is_the_only_one_or_named(folder):
    with pytest.raises(UserError, match="name the table with the option file; found: none"):
        table.plan(str(folder), "train")
    (folder / "t.TSV").write_text("en\nred\n")
    assert len(table.plan(str(folder), "train")) == 1
    assert len(table.plan(str(folder / "t.TSV"), "train")) == 1
    (folder / "u.csv").write_text("en\nred\n")
    with pytest.raises(UserError, match="found: t.TSV, u.csv"):
        table.plan(str(folder), "train")
    for raw_dir in (None, str(folder / "nowhere")):
        with pytest.raises(UserError, match="expected raw_dir to be a table or its folder"):
            table.plan(raw_dir, "train")


def test_fingerprint_depends_on_the_table(folder):
    (folder / "t.tsv").write_text("en\nred\n")
    before = table.fingerprint(str(folder), "train", quoting="none")
    assert before == table.fingerprint(str(folder / "t.tsv"), "train")
    (folder / "t.tsv").write_text("en\nblue\n")
    assert table.fingerprint(str(folder), "train") != before


def test_units_divide_the_records(folder, monkeypatch):
    monkeypatch.setattr(table, "_RECORDS_PER_UNIT", 3)
    content = "id,language,text\n" + "".join(f"{i % 8},en,t{i}\n" for i in range(48))
    (folder / "t.csv").write_text(content)
    units = table.plan(str(folder), "train")
    ids = [[record.id for record in records(unit)] for unit in units]
    assert ids == [["0", "1"], ["2", "3", "4"], ["5", "6", "7"]]
    assert records(units[1])[0].texts == tuple(("en", f"t{i}") for i in (2, 10, 18, 26, 34, 42))
    monkeypatch.setattr(table, "_MAX_UNITS", 2)
    assert len(table.plan(str(folder), "train")) == 2


# --- real tables ----------------------------------------------------------------------------------


def real_folder(name):
    folder = os.path.join(DATA, name)
    if not os.path.isdir(folder):
        pytest.skip(f"{folder} does not exist")
    return folder


def test_emoji_has_the_expected_records():
    records = read_items(
        table,
        real_folder("emoji"),
        "val",
        image_column="image_id",
        image_dir="images",
        image_suffix=".png",
        split_column="split",
        quoting="none",
    )
    assert len(records) == 176 and all(isinstance(item, Record) for item in records)
    assert len({code for record in records for code, _ in record.texts}) == 95
    # awk counts the same number of non-empty cells in the rows whose fourth column is "val".
    assert sum(len(record.texts) for record in records) == 16633
    path = os.path.join(real_folder("emoji"), "images", records[0].id + ".png")
    with open(path, "rb") as file:
        assert records[0].images == (file.read(),)


def test_flickr30k_has_the_expected_records():
    items = read_items(
        table,
        real_folder("flickr30k"),
        "val",
        file="captions.{split}.jsonl",
        image_column="id",
        image_dir="flickr30k-images",
        image_suffix=".jpg",
        texts_keys=("parallel", "independent", "human_translated"),
    )
    kept = [item for item in items if isinstance(item, Record)]
    assert len(kept) == 242
    reasons = {item.reason for item in items if isinstance(item, Skipped)}
    assert reasons == {"repeated in its record"}
    path = os.path.join(real_folder("flickr30k"), "captions.val.jsonl")
    with open(path, encoding="utf-8") as file:
        row = json.loads(file.readline())
    assert kept[0].id == row["id"]
    expected = {("cs", row["parallel"]["cs"])} | {("de", t) for t in row["independent"]["de"]}
    assert expected <= set(kept[0].texts)
