import io
import json
import os
import pickle

import pytest
from PIL import Image

from tf_mural.data.records import Dropped, Record
from tf_mural.datasets import table
from tf_mural.errors import UserError

DATA = os.path.join(os.path.dirname(__file__), "..", "..", "shared", "data")


def picture(format="PNG", mode="RGB", size=(3, 2)):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").convert(mode).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """A folder with the pictures a.png and b/c.jpg; folder.table(...) puts a table beside them."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "b" / "c.jpg").write_bytes(picture("JPEG"))
    return tmp_path


def items(folder, content, name="t.tsv", split="train", **options):
    """What reading a table of that content yields."""
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    units = table.plan(str(folder), split, file=name, **options)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in table.read(unit)]


def texts(*args, **kwargs):
    return [item.texts for item in items(*args, **kwargs)]


def lines(*objects):
    return "".join(json.dumps(one) + "\n" for one in objects)


# --- layouts --------------------------------------------------------------------------------------


def test_wide(folder):
    content = "image\ten\tde\nb/c.jpg\ta cup\teine Tasse\na.png\t\t ein Ball \n"
    jpg, png = (folder / "b/c.jpg").read_bytes(), (folder / "a.png").read_bytes()
    assert items(folder, content) == [
        Record("b/c.jpg", (jpg,), (("en", "a cup"), ("de", "eine Tasse"))),
        Record("a.png", (png,), (("de", " ein Ball "),)),
    ]


def test_wide_without_images_is_bitext(folder):
    assert items(folder, "en\tde\nred\trot\nblue\tblau\n") == [
        Record("2", (), (("en", "red"), ("de", "rot"))),
        Record("3", (), (("en", "blue"), ("de", "blau"))),
    ]


def test_several_texts_by_repeated_columns_or_separator(folder):
    assert texts(folder, "en\tde\ten\none\teins\tuno\n\tzwei\ttwo\n") == [
        (("en", "one"), ("en", "uno"), ("de", "eins")),
        (("en", "two"), ("de", "zwei")),
    ]
    assert texts(folder, "en\tde\none | uno||\teins\n", texts_separator="|") == [
        (("en", "one"), ("en", "uno"), ("de", "eins"))
    ]
    assert texts(folder, "en\none|uno\n") == [(("en", "one|uno"),)]


def test_long_gathers_scattered_rows(folder):
    content = "image,language,text\na.png,en,red\nb/c.jpg,en,cup\na.png,de,rot\na.png,en,crimson\n"
    found = items(folder, content, "t.csv")
    assert [(record.id, record.texts) for record in found] == [
        ("a.png", (("en", "red"), ("de", "rot"), ("en", "crimson"))),
        ("b/c.jpg", (("en", "cup"),)),
    ]


def test_long_bitext_by_id(folder):
    content = "pair,lang,sentence\n7,en,red\n8,en,blue\n7,de,rot\n"
    options = {"id_column": "pair", "language_column": "lang", "text_column": "sentence"}
    assert items(folder, content, "t.csv", **options) == [
        Record("7", (), (("en", "red"), ("de", "rot"))),
        Record("8", (), (("en", "blue"),)),
    ]


def test_long_with_odd_languages(folder):
    content = "id,language,text\n1,german,rot\n1,en,red\n1,,none\n"
    assert items(folder, content, "t.csv") == [
        Dropped("not a language code", "line 2: 'german'", text=True),
        Dropped("not a language code", "line 2: ''", text=True),
        Record("1", (), (("en", "red"),)),
    ]


def test_jsonl_captions(folder):
    content = lines(
        {"image": "a.png", "captions": {"en": ["red", "crimson"], "de": "rot", "fr": None}},
        {"image": "b/c.jpg", "captions": {"ja": "カップ", "german": "Tasse", "cs": [3]}},
    )
    first, bad_code, bad_text, second = items(folder, content, "t.jsonl")
    assert first.texts == (("en", "red"), ("en", "crimson"), ("de", "rot"))
    assert bad_code == Dropped("not a language code", "line 2: 'german'", text=True)
    assert bad_text == Dropped("text is not a string", "line 2: 3", text=True)
    assert (second.id, second.texts) == ("b/c.jpg", (("ja", "カップ"),))


def test_jsonl_merges_keys_and_drops_repeats(folder):
    content = lines(
        {"meta": {"one": {"en": "x", "de": "y"}}, "two": {"en": ["x", "z"]}},
        {"two": {"en": "x"}},
    )
    assert items(folder, content, "t.jsonl", texts_keys=("meta.one", "two")) == [
        Dropped("repeated in its record", "line 1: x", text=True),
        Record("1", (), (("en", "x"), ("de", "y"), ("en", "z"))),
        Record("2", (), (("en", "x"),)),
    ]


def test_jsonl_flat_and_long(folder):
    flat = lines({"id": "r1", "pic": {"path": "a.png"}, "en": "red", "kind": "no", "de": ["rot"]})
    (record,) = items(folder, flat, "t.jsonl", image_column="pic.path")
    assert (record.id, record.texts) == ("r1", (("en", "red"), ("de", "rot")))
    long = lines(
        {"image": "a.png", "language": "en", "text": "red"},
        {"image": "a.png", "language": "de", "text": ["rot", "hellrot"]},
    )
    (record,) = items(folder, long, "t.jsonl")
    assert record.texts == (("en", "red"), ("de", "rot"), ("de", "hellrot"))


# --- what a column means --------------------------------------------------------------------------


def test_id_is_a_name_in_front_and_indonesian_elsewhere(folder):
    assert items(folder, "id\ten\nr1\tred\n") == [Record("r1", (), (("en", "red"),))]
    assert items(folder, "en\tid\nred\tmerah\n") == [
        Record("2", (), (("en", "red"), ("id", "merah")))
    ]
    (record,) = items(folder, "en\tid\nred\tr1\n", id_column="id")
    assert record == Record("r1", (), (("en", "red"),))


def test_named_columns_are_no_languages(folder):
    content = "img\tset\ten\tnotes\na\ttrain\tred\tx\n"
    options = {"image_column": "img", "image_suffix": ".png", "split_column": "set"}
    assert texts(folder, content, **options) == [(("en", "red"),)]


def test_languages_are_a_choice(folder):
    content = "en\tde\tfr\nred\trot\trouge\nblue\t\t\n"
    assert items(folder, content, languages=("fr", "de")) == [
        Record("2", (), (("de", "rot"), ("fr", "rouge"))),
        Dropped("no text", "line 3"),
    ]


def test_fewer_texts_than_asked(folder):
    assert items(folder, "en\tde\nred\trot\nblue\t\n", min_texts=2) == [
        Record("2", (), (("en", "red"), ("de", "rot"))),
        Dropped("fewer than 2 texts", "line 3"),
    ]


def test_split_column(folder):
    content = "set\ten\ntrain\tone\nval\ttwo\ntrain\tthree\n"
    options = {"split_column": "set"}
    assert texts(folder, content, **options) == [(("en", "one"),), (("en", "three"),)]
    assert texts(folder, content, split="val", **options) == [(("en", "two"),)]
    assert table.splits(str(folder), file="t.tsv", **options) == ("train", "val")
    with pytest.raises(UserError, match="the split 'vla' in 'set'; it has: train, val"):
        items(folder, content, split="vla", **options)


def test_rows_that_name_no_split_are_told(folder):
    content = "split,en\ntrain,one\n,two\nval,three\n"
    assert items(folder, content, "t.csv") == [
        Record("2", (), (("en", "one"),)),
        Dropped("no split named", "line 3"),
    ]
    long = "id,language,text,split\na,en,one,train\na,de,eins,\nb,en,two,val\n"
    assert items(folder, long, "t.csv") == [
        Record("a", (), (("en", "one"),)),
        Dropped("no split named", "line 3"),
    ]
    with pytest.raises(UserError, match="names no split in 'split'; .* split_column to another"):
        (folder / "t.csv").write_text("split,en\n,two\n")
        table.splits(str(folder))


def test_a_later_object_may_be_the_first_to_name_its_split(folder):
    content = lines({"en": "a split"}, {"en": 'a "split"'}, {"en": "b", "split": "val"})
    assert items(folder, content, "t.jsonl", split="val") == [
        Dropped("no split named", "line 1"),
        Dropped("no split named", "line 2"),
        Record("3", (), (("en", "b"),)),
    ]
    assert len(texts(folder, lines({"en": 'a "split"'}), "t.jsonl")) == 1


def test_split_in_the_file_name(folder):
    for split in ("val", "train"):
        (folder / f"c.{split}.tsv").write_text(f"en\n{split}\n")
    options = {"file": "c.{split}.tsv"}
    assert table.splits(str(folder), **options) == ("train", "val")
    (unit,) = table.plan(str(folder), "val", **options)
    assert [record.texts for record in table.read(unit)] == [(("en", "val"),)]
    with pytest.raises(UserError, match=r"c.test.tsv does not exist; .* c.train.tsv, c.val.tsv"):
        table.plan(str(folder), "test", **options)


def test_split_is_train_if_nothing_says(folder):
    (folder / "t.tsv").write_text("en\nred\n")
    assert table.splits(str(folder)) == ("train",)


def test_a_column_called_split_is_one(folder):
    content = "split\ten\ntrain\tone\nval\ttwo\n"
    assert texts(folder, content) == [(("en", "one"),)]
    assert table.splits(str(folder)) == ("train", "val")
    assert texts(folder, content, split="val") == [(("en", "two"),)]
    assert len(texts(folder, content, split_column="")) == 2
    assert table.splits(str(folder), split_column="") == ("train",)
    content = "split\tde\na.png\trot\n"
    for other in ({"image_column": "split"}, {"id_column": "split"}):  # it is that already
        (found,) = items(folder, content, **other)
        assert found.id == "a.png"
        assert table.splits(str(folder), **other) == ("train",)
    (folder / "t.tsv").write_text("split\ten\ntrain\tone\nval\ttwo\n")
    (folder / "t.tsv").rename(folder / "c.val.tsv")  # where the name says it, the column does not
    (unit,) = table.plan(str(folder), "val", file="c.{split}.tsv")
    assert len(list(table.read(unit))) == 2


# --- quotes, line ends, encodings -----------------------------------------------------------------


def test_quotes_that_mean_something(folder):
    content = 'en,de\r\n"red, ""dark""\nand deep",rot\r\n\r\nblue,"bl\u2028au"\r\n'
    assert items(folder, content, "t.csv") == [
        Record("2", (), (("en", 'red, "dark"\nand deep'), ("de", "rot"))),
        Dropped("blank row", "line 4"),
        Record("5", (), (("en", "blue"), ("de", "bl\u2028au"))),
    ]


def test_quotes_that_mean_nothing(folder):
    content = 'en\tde\n"red\trot"\n"blue"\t""\n'
    assert texts(folder, content, quoting="none") == [
        (("en", '"red'), ("de", 'rot"')),
        (("en", '"blue"'), ("de", '""')),
    ]
    with pytest.raises(UserError, match="t.tsv, line 3: .*pass the option quoting=none"):
        items(folder, 'en\tde\nred\trot\n"blue" sky\tblau\n')


@pytest.mark.parametrize("quoting", ["minimal", "none"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_mark(folder, quoting, end, start):
    content = start + end.join(["en\tde", "red\trot", "blue\tblå"]).encode()
    assert texts(folder, content, quoting=quoting) == [
        (("en", "red"), ("de", "rot")),
        (("en", "blue"), ("de", "blå")),
    ]


def test_not_utf8(folder):
    content = "en\tde\nred\trot\nblue\tbl\xe5\n".encode("latin-1")
    for options in ({}, {"quoting": "none"}):
        with pytest.raises(UserError, match=r"t.tsv, line 3: expected UTF-8, got b'\\xe5'"):
            items(folder, content, **options)


# --- what cannot be used --------------------------------------------------------------------------


def test_rows_that_are_broken(folder):
    content = "en\tde\n\nred\n \t \nblue\tblau\tx\ngreen\tgrün\n"
    assert items(folder, content) == [
        Dropped("blank row", "line 2"),
        Dropped("number of cells is not the header's", "line 3"),
        Dropped("blank row", "line 4"),
        Dropped("number of cells is not the header's", "line 5"),
        Record("6", (), (("en", "green"), ("de", "grün"))),
    ]


def test_objects_that_are_broken(folder):
    content = '{"en": "red"}\n\n{"en": \n[1]\n{"image": 3}\n'
    assert items(folder, content, "t.jsonl")[1:] == [
        Dropped("blank row", "line 2"),
        Dropped("not JSON", "line 3"),
        Dropped("not a JSON object", "line 4"),
        Dropped("no text", "line 5"),
    ]


def test_images_that_cannot_be_used(folder):
    (folder / "text.png").write_text("no picture")
    (folder / "cut.jpg").write_bytes(picture("JPEG", size=(64, 64))[:-50])
    (folder / "cut.png").write_bytes(picture("PNG", size=(64, 64))[:-30])
    (folder / "page.tif").write_bytes(picture("TIFF"))
    (folder / "empty.png").write_bytes(b"")
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
    assert [(item.reason, item.what) for item in items(folder, content)] == [
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
def test_images_that_can(folder, format, mode):
    (folder / "x").write_bytes(picture(format, mode))
    (record,) = items(folder, "image\ten\nx\tred\n")
    assert record.images == ((folder / "x").read_bytes(),)


@pytest.mark.parametrize("name", ["../a.png", "c/../../a.png", "/etc/hostname", "../bb/x.png"])
def test_images_stay_in_their_folder(folder, name):
    with pytest.raises(UserError, match=r"line 2: the image .* lies outside .*/b; set image_dir"):
        items(folder, f"image\ten\n{name}\tx\n", image_dir="b")


def test_paths_inside_the_folder(folder):
    content = f"image\ten\n{folder}/b/c.jpg\tx\n./c.jpg\ty\n../b/c.jpg\tz\n"
    assert [len(item.images) for item in items(folder, content, image_dir="b")] == [1, 1, 1]


@pytest.mark.parametrize(
    "content, options, message",
    [
        ("image\ten\n", {"image_column": "img"}, "no column 'img', which the option image_column"),
        ("image\ten\n", {"languages": ("de",)}, "columns found: image, en"),
        ("image\ttext\n", {}, r"language codes such as 'de' .*columns found: image, text"),
        ("image\ten\n", {"layout": "long"}, "no column 'language', which the option language_colu"),
        ("language\ttext\n", {}, "the long layout needs image_column or id_column"),
        ("pic\ten\n", {"image_dir": "x"}, "of images, but no column is: .* found: pic, en"),
        ("pic\ten\n", {"image_suffix": ".png"}, "say which with image_column"),
        ("en\n", {"layout": "tall"}, "unknown layout 'tall'; known: auto, wide, long"),
        ("en\n", {"quoting": "minimum"}, "unknown quoting 'minimum'; .*did you mean 'minimal'"),
        ("en\n", {"format": "xls"}, "unknown format .* 'xls'; known: tsv, csv, jsonl"),
        ("", {}, "is empty; expected a header"),
        ("[1]\n", {"format": "jsonl"}, "line 1: expected a JSON object"),
    ],
)
def test_tables_that_are_refused(folder, content, options, message):
    with pytest.raises(UserError, match=message):
        items(folder, content, **options)


def test_finding_the_table(folder):
    with pytest.raises(UserError, match="say which table with the option file; found: none"):
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


def test_fingerprint_follows_the_table(folder):
    (folder / "t.tsv").write_text("en\nred\n")
    before = table.fingerprint(str(folder), "train", quoting="none")
    assert before == table.fingerprint(str(folder / "t.tsv"), "train")
    (folder / "t.tsv").write_text("en\nblue\n")
    assert table.fingerprint(str(folder), "train") != before


def test_units_part_the_table(folder, monkeypatch):
    monkeypatch.setattr(table, "_RECORDS_PER_UNIT", 3)
    content = "id,language,text\n" + "".join(f"{i % 8},en,t{i}\n" for i in range(48))
    (folder / "t.csv").write_text(content)
    units = table.plan(str(folder), "train")
    found = [[record.id for record in table.read(unit)] for unit in units]
    assert found == [["0", "1"], ["2", "3", "4"], ["5", "6", "7"]]
    first = next(iter(table.read(units[1])))
    assert first.texts == tuple(("en", f"t{i}") for i in (2, 10, 18, 26, 34, 42))
    monkeypatch.setattr(table, "_MOST_UNITS", 2)
    assert len(table.plan(str(folder), "train")) == 2


# --- real tables ----------------------------------------------------------------------------------


def real(name):
    folder = os.path.join(DATA, name)
    if not os.path.isdir(folder):
        pytest.skip(f"{folder} is not there")
    return folder


def test_emoji():
    units = table.plan(
        real("emoji"),
        "val",
        image_column="image_id",
        image_dir="images",
        image_suffix=".png",
        split_column="split",
        quoting="none",
    )
    found = [item for unit in units for item in table.read(unit)]
    assert len(found) == 176 and all(isinstance(item, Record) for item in found)
    assert len({code for record in found for code, _ in record.texts}) == 95
    # Counted apart with awk: the filled cells of the rows whose fourth column is "val".
    assert sum(len(record.texts) for record in found) == 16633
    with open(os.path.join(real("emoji"), "images", found[0].id + ".png"), "rb") as file:
        assert found[0].images == (file.read(),)


def test_flickr30k():
    units = table.plan(
        real("flickr30k"),
        "val",
        file="captions.{split}.jsonl",
        image_column="id",
        image_dir="flickr30k-images",
        image_suffix=".jpg",
        texts_keys=("parallel", "independent", "human_translated"),
    )
    found = [item for unit in units for item in table.read(unit)]
    kept = [item for item in found if isinstance(item, Record)]
    assert len(kept) == 242
    assert {item.reason for item in found if isinstance(item, Dropped)} == {
        "repeated in its record"
    }
    with open(os.path.join(real("flickr30k"), "captions.val.jsonl"), encoding="utf-8") as file:
        row = json.loads(file.readline())
    assert kept[0].id == row["id"]
    expected = {("cs", row["parallel"]["cs"])} | {("de", t) for t in row["independent"]["de"]}
    assert expected <= set(kept[0].texts)
