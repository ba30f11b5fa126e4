"""Tables as other tools write them: columns, language codes, and several rows of an image."""

import collections
import itertools
import json
import os

import numpy as np
import pytest
from helpers.datasets import convert, read_items, read_parts
from helpers.files import write_files
from helpers.images import plain_image
from helpers.shapes import ShapeOracle, given

from tf_mural.cli import convert as convert_command
from tf_mural.conversion.ledger import format_summary
from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets import table
from tf_mural.errors import UserError
from tf_mural.evaluation import retrieval

PNG, JPEG = plain_image("red", "PNG"), plain_image("red", "JPEG")
RECALLS = [f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in (1, 5, 10)]


@pytest.fixture
def folder(tmp_path):
    """A folder with the images a.png and b/c.jpg."""
    return write_files(tmp_path, {"a.png": PNG, "b/c.jpg": JPEG})


def read(folder, content, name="t.csv", **options):
    write_files(folder, {name: content})
    return read_items(table, folder, "train", file=name, **options)


def parts(folder, content, name="t.csv", **options):
    write_files(folder, {name: content})
    return read_parts(table, folder, "train", file=name, **options)


def texts_by_language(record_set):
    return collections.Counter(code for record in record_set for code, _ in record.texts)


# --- columns that are not languages ---------------------------------------------------------------


def test_given_columns_that_are_no_languages_are_named_once(tmp_path):
    manifest = convert("table", given("01_columns"), tmp_path / "out", "train")
    assert (manifest["records"], manifest["languages"]) == (4, {"de": 4, "en": 4})
    columns = manifest["ledger"]["parts"]["columns"]
    ignored = ["url", "alt", "src", "key", "width", "height", "license"]
    assert columns["read"] == 10 and columns["used"] == 3
    assert columns["ignored"] == {"they are not languages": 7}
    assert columns["examples"] == {"they are not languages": ignored}
    summary = format_summary([manifest])
    line = f"7 columns ignored because they are not languages: {', '.join(ignored)}. To use one: "
    assert line + "--table.columns=alt:en" in summary
    assert summary.count("license") == 1


def test_options_use_columns_that_are_no_languages(folder):
    content = "image,url,alt,en\na.png,http://x,red icon,red\n"
    assert read(folder, content)[0].texts == (("en", "red"),)
    assert read(folder, content, columns=("alt:en",))[0].texts == (
        ("en", "red icon"),
        ("en", "red"),
    )
    (record,) = read(folder, content, languages=("alt", "en"))  # Southern Altai
    assert record.texts == (("alt", "red icon"), ("en", "red"))
    long = "image,language,text,alt\na.png,de,rot,red icon\n"
    assert read(folder, long, columns=("alt:en",))[0].texts == (("de", "rot"), ("en", "red icon"))
    assert parts(folder, long)["columns"]["the table has one text in each row"] == (1, ["alt"])
    with pytest.raises(UserError, match="columns contains 'alt'; expected a column and its lang"):
        read(folder, content, columns=("alt",))
    with pytest.raises(UserError, match="the option columns: expected a language code .* 'xx'"):
        read(folder, content, columns=("alt:xx",))
    with pytest.raises(UserError, match="no column 'atl', .* columns names; .*did you mean 'alt'"):
        read(folder, content, columns=("atl:en",))


def test_a_path_into_nested_objects_may_have_a_language(folder):
    content = json.dumps({"image": "a.png", "meta": {"alt": ["red", "crimson"]}, "x": 1}) + "\n"
    (record,) = read(folder, content, "t.jsonl", columns=("meta.alt:en",))
    assert record.texts == (("en", "red"), ("en", "crimson"))
    columns = parts(folder, content, "t.jsonl", columns=("meta.alt:en",))["columns"]
    assert columns[None] == (2, ["image", "meta"])


def test_a_column_of_numbers_is_no_language(folder):
    """`no`, `lat` and `is` are also the codes of Norwegian, Latin and Icelandic."""
    content = "image,no,lat,is,en\na.png,1,48.2,true,red\nb/c.jpg,2,-3,false,a cup\n"
    assert read(folder, content)[0].texts == (("en", "red"),)
    columns = parts(folder, content)["columns"]
    assert columns["their cells are numbers"] == (3, ["no", "lat", "is"])
    assert ("no", "2") in read(folder, content, languages=("no", "en"))[1].texts


def test_nothing_remains_is_refused_with_the_names_of_the_options(folder):
    with pytest.raises(UserError, match="columns found: image, url, alt; .*columns=alt:en"):
        read(folder, "image,url,alt\na.png,x,y\n")
    with pytest.raises(UserError, match="'caption'; name it with the option language=en, or"):
        read(folder, "image,caption\na.png,red\n")
    with pytest.raises(UserError, match="'caption'; name it with the option language=en, or"):
        read(folder, json.dumps({"image": "a.png", "caption": "red"}) + "\n", "t.jsonl")


def test_the_command_names_flags(folder, tmp_path):
    (folder / "t.csv").write_text("image,caption\na.png,red\n")
    arguments = ["--dataset=table", f"--raw_dir={folder}", f"--out_dir={tmp_path}/out"]
    with pytest.raises(UserError, match="name it with --table.language=en, or --table.columns=ca"):
        convert_command.main(arguments)


def test_a_caption_column_has_the_language_of_the_option(folder):
    for name in ("caption", "Text", "title"):
        content = f"filepath\t{name}\na.png\tred\n"
        expected = [Record("a.png", (PNG,), (("de", "red"),))]
        assert read(folder, content, "t.tsv", language="German") == expected
    content = json.dumps({"file_name": "a.png", "text": ["red", "crimson"]}) + "\n"
    (record,) = read(folder, content, "metadata.jsonl", language="en")
    assert record.texts == (("en", "red"), ("en", "crimson"))


def test_captions_without_a_language_are_counted_next_to_others(folder):
    rows = [
        {"image": "a.png", "captions": {"de": "rot"}},
        {"image": "b/c.jpg", "captions": ["a cup", "a mug"]},
        {"image": "b/c.jpg", "captions": []},
        {"image": "b/c.jpg", "captions": "Tasse", "en": "cup"},
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    lost = ["line 2: a cup", "line 2: a mug", "line 4: Tasse"]
    assert read(folder, content, "t.jsonl") == [
        Record("a.png", (PNG,), (("de", "rot"),)),
        *(Skipped("no language named", example, text_only=True) for example in lost),
        Record("b/c.jpg", (JPEG,), (("en", "cup"),)),
    ]
    _, record = read(folder, content, "t.jsonl", language="en")
    assert record.texts == tuple(("en", text) for text in ("a cup", "a mug", "Tasse", "cup"))


def test_keys_of_objects_are_columns_too(folder):
    rows = [
        {"image": "a.png", "captions": {"zh_CN": "红", "key": "x"}, "width": 4},
        {"image": "b/c.jpg", "captions": {"en": "cup"}, "source": "web", "height": 3},
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    items = read(folder, content, "t.jsonl")
    assert [item.texts for item in items if isinstance(item, Record)] == [
        (("zh", "红"),),
        (("en", "cup"),),
    ]
    counted = parts(folder, content, "t.jsonl")
    assert counted["columns"]["they are not languages"] == (3, ["width", "source", "height"])
    assert counted["language codes"]["they are not languages"] == (1, ["key"])
    assert counted["language codes"][None] == (2, ["zh_CN", "en"])


# --- language codes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file, counts, changed",
    [
        ("wide.csv", dict.fromkeys("de en he id ja pt zh".split(), 2), 6),
        ("long.csv", {**dict.fromkeys("he id ja pt zh".split(), 2), "de": 3, "en": 3}, 8),
        ("case.csv", {"de": 2, "en": 2}, 2),
    ],
)
def test_given_language_codes_are_stored_as_bcp_47(tmp_path, file, counts, changed):
    manifest = convert("table", given("02_codes"), tmp_path / "out", "train", file=file)
    assert (manifest["records"], manifest["languages"]) == (2, counts)
    assert len(manifest["ledger"]["changes"]) == changed
    if file != "case.csv":
        assert "pt_BR is stored as pt (region BR cut)" in manifest["ledger"]["changes"]
        assert "jp is stored as ja" in format_summary([manifest])
    assert not manifest["ledger"]["dropped_texts"]


def test_scripts_and_english_names_are_languages(folder):
    content = "image,zho_Hant,srp_Latn,Chinese (Simplified),GERMAN\na.png,紅,crvena,红,rot\n"
    assert read(folder, content)[0].texts == (
        ("zh-Hant", "紅"),
        ("sr-Latn", "crvena"),
        ("zh", "红"),
        ("de", "rot"),
    )


def test_the_option_languages_takes_any_convention(folder):
    content = "image,deu_Latn,zh_CN,en\na.png,rot,红,red\n"
    for chosen in (("de", "zh"), ("deu", "zho_Hans"), ("German", "zh_CN")):
        (record,) = read(folder, content, languages=chosen)
        assert record.texts == (("de", "rot"), ("zh", "红"))
    with pytest.raises(UserError, match="no column 'fr', which the option languages names"):
        read(folder, content, languages=("fr",))
    with pytest.raises(UserError, match="expected a language code .* got 'dk'; did you mean 'da'"):
        read(folder, content, languages=("dk",))


def test_unknown_codes_of_a_long_table_are_counted(folder):
    content = "image,lang,caption\na.png,en,red\na.png,url,http\na.png,cz,červená\na.png,xx,?\n"
    counted = parts(folder, content)["language codes"]
    assert counted[None] == (1, ["en"])
    omitted = parts(folder, content, languages=("de",))["language codes"]
    assert omitted["the option languages omits them"] == (1, ["en"])
    reason = "they are not languages"
    assert counted[reason] == (3, ["url", "cz; did you mean 'cs'?", "xx"])


# --- several rows of an image ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, languages",
    [
        ("rows.csv", {}, ["en"]),
        ("flickr.csv", {"language": "en"}, ["en"]),
        ("numbered.csv", {"language": "en"}, ["en"]),
        ("long.csv", {}, ["de", "en"]),
        ("two_languages", {"image_dir": ".."}, ["de", "en"]),
        ("two_kinds", {"image_dir": ".."}, ["de", "en"]),
    ],
)
def test_a_perfect_encoder_scores_100_on_given_rows(tmp_path, name, options, languages):
    raw = given("03_rows")
    if "." in name:
        options = {**options, "file": name}
    else:
        raw = os.path.join(raw, name)
    convert("table", raw, tmp_path / "out", "train", **options)
    records = RecordSet.open(tmp_path / "out/train")
    assert len(records) == 4
    assert texts_by_language(records) == dict.fromkeys(languages, 20)
    result = retrieval.run(ShapeOracle(given("03_rows")), records)
    for language in languages:
        assert [result.values[language][name] for name in RECALLS] == [100.0] * 6


def test_captions_without_a_language_are_refused_in_several_tables(tmp_path):
    with pytest.raises(UserError, match="column 'caption'; name it with the option language=en"):
        table.plan(given("03_rows"), "train")


def test_rows_of_an_image_may_be_far_apart(folder):
    lines = [f"a.png,text {i}" if i % 2 else f"./b//c.jpg,text {i}" for i in range(300)]
    records = read(folder, "image,en\n" + "\n".join(lines) + "\n")
    assert [record.images for record in records] == [(JPEG,), (PNG,)]
    assert [record.texts for record in records] == [
        tuple(("en", f"text {i}") for i in range(start, 300, 2)) for start in (0, 1)
    ]


def test_names_of_one_file_form_one_record(folder):
    composed, decomposed = "caf\u00e9.png", "cafe\u0301.png"
    (folder / decomposed).write_bytes(PNG)
    rows = [(composed, "one"), ("b\\c.jpg", "two"), (decomposed, "three"), ("b/c.jpg", "four")]
    content = "image\ten\n" + "".join(f"{name}\t{text}\n" for name, text in rows)
    first, second = read(folder, content, "t.tsv")
    assert (first.images, first.texts) == ((PNG,), (("en", "one"), ("en", "three")))
    assert (second.images, second.texts) == ((JPEG,), (("en", "two"), ("en", "four")))
    (folder / composed).write_bytes(JPEG)  # now there are two files
    assert len(read(folder, content, "t.tsv")) == 3


def test_numbers_of_captions_are_no_part_of_the_name_unless_the_file_is(folder):
    content = "image,caption\na.png#0,red\na.png#1,crimson\n"
    (record,) = read(folder, content, language="en")
    assert record == Record("a.png", (PNG,), (("en", "red"), ("en", "crimson")))
    (folder / "a.png#1").write_bytes(JPEG)
    first, second = read(folder, content, language="en")
    assert first == Skipped("image missing", "line 2: a.png#0")
    assert second == Record("a.png#1", (JPEG,), (("en", "crimson"),))
    content = "image,caption\na#0,red\na#1,crimson\n"
    (record,) = read(folder, content, language="en", image_suffix=".png")
    assert record == Record("a", (PNG,), (("en", "red"), ("en", "crimson")))


def test_rows_without_an_image_join_the_image_of_their_id(folder):
    content = "id,image,en,de\n7,,one,\n7,a.png,two,\n8,b/c.jpg,three,\n9,a.png,,vier\n8,,,drei\n"
    assert [(r.id, r.images, r.texts) for r in read(folder, content)] == [
        ("7", (PNG,), (("en", "one"), ("en", "two"), ("de", "vier"))),
        ("8", (JPEG,), (("en", "three"), ("de", "drei"))),
    ]


def test_tables_are_joined_by_images_or_ids(folder):
    files = {
        "captions.csv": "image_id,lang,caption\n2,en,cup\n1,en,red\n2,de,Tasse\n3,en,lost\n",
        "images.csv": "id,file_name,split\n1,a.png,train\n2,b/c.jpg,val\n",
        "more.jsonl": json.dumps({"image": "a.png", "captions": {"fr": "rouge"}}) + "\n",
    }
    write_files(folder, files)
    assert table.splits(str(folder)) == ("train", "val")
    (first,) = read_items(table, folder, "train")
    assert first == Record("1", (PNG,), (("en", "red"), ("fr", "rouge")))
    (second,) = read_items(table, folder, "val")
    assert second == Record("2", (JPEG,), (("en", "cup"), ("de", "Tasse")))
    assert read_parts(table, folder, "val")["rows"]["they are in another split"][0] == 4


def test_captions_of_no_image_are_dropped_and_counted(folder):
    files = {
        "captions.csv": "image_id,language,text\n1,en,red\n3,en,lost\n3,de,verloren\n",
        "images.csv": "image_id,image\n1,a.png\n2,b/c.jpg\n",
    }
    write_files(folder, files)
    assert read_items(table, folder, "train") == [
        Record("1", (PNG,), (("en", "red"),)),
        Skipped("no image named", "captions.csv, line 3"),
        Skipped("no text", "images.csv, line 3: b/c.jpg"),
    ]
    assert read_parts(table, folder, "train")["rows"] == {None: (5, [])}


def test_tables_that_nothing_joins_are_not_mixed(folder):
    write_files(folder, {"a.csv": "image,en\na.png,red\n", "b.csv": "en,de\nx,y\n"})
    with pytest.raises(UserError, match="option file; found: a.csv, b.csv, but neither .* b.csv"):
        table.plan(str(folder), "train")
    (record,) = read_items(table, folder, "train", file=("a.csv",))
    assert record.id == "a.png"
    counted = read_parts(table, folder, "train", file="a.csv")["files"]
    assert counted == {None: (1, []), "the option file omits them": (1, ["b.csv"])}
    os.rename(folder / "b.csv", folder / "val.csv")
    with pytest.raises(UserError, match="name the table with the option file; found: a.csv, val"):
        table.plan(str(folder), "train")


def test_the_ledger_of_a_table_balances(folder, tmp_path):
    content = "image,split,en,xx,de\na.png,train,red,,\n\nb/c.jpg,val,cup,,\na.png,train,,,rot\n"
    (folder / "t.csv").write_text(content + "b/c.jpg,,lost,,\nb/c.jpg,train\n")
    manifest = convert("table", folder, tmp_path / "out", "train")
    ledger = manifest["ledger"]
    assert ledger["kept"] + sum(ledger["dropped"].values()) == ledger["read"] == 4
    rows = ledger["parts"]["rows"]
    assert (rows["read"], rows["used"]) == (6, 2)
    assert rows["ignored"] == {
        "they are in another split": 1,
        "they are not valid": 2,
        "they name no split": 1,
    }
    for counts in ledger["parts"].values():
        assert counts["used"] + sum(counts["ignored"].values()) == counts["read"]


def naive_groups(rows):
    """Returns the lists of row numbers of each record, for rows (image or None, id or None)."""
    image_of_id = {}
    for image, id in rows:
        if image and id:
            image_of_id.setdefault(id, image)
    groups = {}
    for number, (image, id) in enumerate(rows):
        key = image or image_of_id.get(id) or (("id", id) if id else number)
        groups.setdefault(key, []).append(number)
    return list(groups.values())


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_grouped_as_a_naive_implementation_groups_them(tmp_path, seed):
    random = np.random.default_rng(seed)
    names, ids = [None, *"abcdefgh"], [None, None, *"123456"]
    rows = [(names[i], ids[j]) for i, j in random.integers(0, 8, (200, 2))]
    lines = [f"{id or ''},{image or ''},text {n}" for n, (image, id) in enumerate(rows)]
    (tmp_path / "t.csv").write_text("id,image,en\n" + "\n".join(lines) + "\n")
    units = table.plan(str(tmp_path), "train")
    groups = units[0].groups
    lines_of_records = [
        (groups.lines[first:last] - 2).tolist() for first, last in itertools.pairwise(groups.cuts)
    ]
    assert lines_of_records == naive_groups(rows)
