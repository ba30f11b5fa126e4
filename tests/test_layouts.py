"""Layouts of users' own data: the detection of each layout, and the records that it gives."""

import json
import os
import shutil

import pytest
from helpers import crawl_files
from helpers.corpus import visible_names
from helpers.datasets import convert, read_items, read_parts
from helpers.files import write_files
from helpers.layout_folders import BLUE, IMAGES, MINIATURES, RED, RED_TEXTS, write_wide
from helpers.shapes import given

from tf_mural.cli import convert as convert_command
from tf_mural.conversion.ledger import format_summary
from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets import DATASETS, layouts, table
from tf_mural.errors import UserError


def run(raw_dir, out_dir, *flags):
    """Runs the command with one process; returns {split: list of records}."""
    arguments = [f"--raw_dir={raw_dir}", f"--out_dir={out_dir}", "--processes=1", *flags]
    convert_command.main(arguments)
    return {split: list(RecordSet.open(out_dir / split)) for split in visible_names(out_dir)}


def flags_of(miniature):
    return [f"--{miniature.dataset}.{key}={value}" for key, value in miniature.options.items()]


# --- the twelve layouts ---------------------------------------------------------------------------


def test_each_layout_has_a_miniature(tmp_path):
    written = {name: write(tmp_path / name) for name, write in MINIATURES.items()}
    assert {miniature.layout for miniature in written.values()} == set(layouts.LAYOUTS)
    assert len(layouts.LAYOUTS) == 12
    assert {layout.dataset for layout in layouts.LAYOUTS.values()} <= set(DATASETS)


@pytest.mark.parametrize("name", MINIATURES)
def test_a_miniature_fits_exactly_one_layout_and_has_the_right_records(name, tmp_path, capsys):
    miniature = MINIATURES[name](tmp_path / "raw")
    (match,) = layouts.detect(tmp_path / "raw")
    description = layouts.LAYOUTS[miniature.layout].description
    assert (match.dataset, match.description) == (miniature.dataset, description)
    detected = run(tmp_path / "raw", tmp_path / "auto", *flags_of(miniature))
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'raw'} is read as {description}: {match.names[0]}" in printed
    assert f"as with --dataset={miniature.dataset}" in printed
    records = detected.pop(miniature.split)
    assert detected == {}
    assert sorted(record.texts for record in records) == sorted(miniature.texts)
    for record in records:
        is_red = record.texts == miniature.texts[0]
        images = (RED, crawl_files.RED) if is_red else (BLUE, crawl_files.BLUE)
        assert len(record.images) == 1 and record.images[0] in images
    named = run(
        tmp_path / "raw",
        tmp_path / "named",
        f"--dataset={miniature.dataset}",
        *flags_of(miniature),
    )
    assert named == {miniature.split: records}


@pytest.mark.parametrize(
    "name", ["captions", "open_clip", "metadata.jsonl", "train/metadata.csv", "parquet", "coco"]
)
def test_a_layout_without_languages_is_refused_with_the_flag(name, tmp_path):
    MINIATURES[name](tmp_path / "raw")
    with pytest.raises(UserError, match="nothing names the language .* with --table.language=en"):
        run(tmp_path / "raw", tmp_path / "out")
    assert not os.path.exists(tmp_path / "out")


def test_captions_of_tars_without_a_language_are_stored_as_english_and_the_line_says_so(
    tmp_path, capsys
):
    MINIATURES["tar txt"](tmp_path / "raw")
    records = run(tmp_path / "raw", tmp_path / "out")["train"]
    assert {code for record in records for code, _ in record.texts} == {"en"}
    assert "without a language are stored as en (--crawl.language cha" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, options, texts, languages",
    [
        ("imagefolder", {"language": "en"}, 3, "en"),
        ("open_clip", {"language": "en"}, 3, "en"),
        ("excel_cp1252", {}, 6, "de fr"),
        ("excel_utf16", {}, 6, "de fr"),
        ("hf_parquet", {"language": "en"}, 9, "en"),
        ("coco", {"language": "en"}, 15, "en"),
    ],
)
def test_given_layouts_have_all_records(tmp_path, name, options, texts, languages):
    flags = [f"--table.{key}={value}" for key, value in options.items()]
    ((split, records),) = run(given(f"10_layouts/{name}"), tmp_path / "out", *flags).items()
    assert split == ("val" if name == "coco" else "train")
    assert [len(record.images) for record in records] == [1, 1, 1]
    all_texts = [text for record in records for text in record.texts]
    assert len(all_texts) == texts and {code for code, _ in all_texts} == set(languages.split())
    shapes = ("circle", "square", "triangle")
    words = {"circle": "Kreis", "square": "Quadrat", "triangle": "Dreieck"}
    for shape, record in zip(shapes, records, strict=True):
        for code, text in record.texts:
            assert shape in text or words[shape] in text or code == "fr"
            assert ("schön größer" in text) == (code == "de")
    if "excel" in name:
        french = [text for code, text in all_texts if code == "fr"]
        assert french == ["un cercle rouge", "un carré bleu", "un triangle vert"]


def test_given_names_are_resolved_or_suggested(tmp_path):
    shutil.unpack_archive(given("09_names/names.tar"), tmp_path / "raw", filter="data")
    records = run(tmp_path / "raw", tmp_path / "out")["train"]
    assert len(records) == 4
    manifest = json.loads((tmp_path / "out/train/manifest.json").read_text())
    assert manifest["ledger"]["dropped"] == {"image missing": 1}
    assert "did you mean house.JPG?" in manifest["ledger"]["examples"]["image missing"][0]


# --- detection ------------------------------------------------------------------------------------


def test_the_command_asks_where_two_layouts_fit(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    write_wide(raw)
    MINIATURES["tar txt"](raw)
    with pytest.raises(UserError) as caught:
        run(raw, tmp_path / "out")
    message = str(caught.value)
    assert "2 layouts fit; choose one: --dataset=table (a wide table" in message
    assert "or --dataset=crawl (tars of WebDataset" in message and "\n" not in message
    assert not os.path.exists(tmp_path / "out")
    table_records = run(raw, tmp_path / "a", "--dataset=table")["train"]
    assert table_records[0].texts == RED_TEXTS
    # The flags of a data set choose it, too.
    assert run(raw, tmp_path / "b", "--table.file=captions.tsv")["train"] == table_records
    assert len(run(raw, tmp_path / "c", "--crawl.language=en")["train"]) == 2
    with pytest.raises(UserError, match=r"--crawl.\* and --table.\* belong to different data sets"):
        run(raw, tmp_path / "d", "--crawl.language=en", "--table.file=captions.tsv")


def test_tables_of_two_layouts_are_not_mixed(tmp_path):
    write_wide(tmp_path)
    write_files(tmp_path, {"long.csv": "image,language,text\nred.png,fr,rouge\n"})
    wide, long = layouts.detect(tmp_path)
    assert (wide.options, long.options) == ({"file": "captions.tsv"}, {"file": "long.csv"})
    (match,) = layouts.detect(tmp_path, {"file": ("long.csv",)})
    assert match.description == layouts.LAYOUTS["long"].description


def test_tables_of_two_formats_are_not_mixed(tmp_path):
    MINIATURES["parquet"](tmp_path)
    MINIATURES["coco"](tmp_path)
    write_wide(tmp_path)
    wide, parquet, coco_files = layouts.detect(tmp_path)
    assert wide.options == {"file": "captions.tsv"}
    assert coco_files.options == {"file": "annotations/my_captions_val.json"}
    files = parquet.options["file"].split(",")
    (match,) = layouts.detect(tmp_path, {"file": tuple(files)})
    assert match.description == layouts.LAYOUTS["parquet"].description
    records = read_items(table, tmp_path, "train", file=tuple(files), language="en")
    assert [len(record.texts) for record in records] == [2, 2]
    (tmp_path / "data/train-00000-of-00002.parquet").rename(tmp_path / "a.parquet")
    files = read_parts(table, tmp_path, "train")["files"]
    assert files["tables of another format are read"] == (1, ["a.parquet"])


def test_tables_of_several_folders_are_not_mixed(tmp_path):
    for name, image in (("a", RED), ("b", BLUE)):
        files = {"metadata.csv": f"file_name,en\n0.png,{name}\n", "0.png": image}
        write_files(tmp_path / name, files)
    with pytest.raises(UserError, match="the tables in .*/a and .*/b name their own images; conv"):
        read_items(table, tmp_path, "train")
    assert read_items(table, tmp_path / "b", "train")[0].images == (BLUE,)


def test_tables_that_are_joined_are_one_layout(tmp_path):
    write_files(tmp_path, {"images.csv": "image_id,file_name\n1,red.png\n", **IMAGES})
    write_files(tmp_path, {"captions.csv": "image_id,language,caption\n1,en,red\n1,de,rot\n"})
    (match,) = layouts.detect(tmp_path)
    assert match.names == ("captions.csv",)


def test_a_data_set_of_a_fixed_form_is_recognized(tmp_path):
    write_files(tmp_path, {"dataset_coco.json": {"images": []}})
    (match,) = layouts.detect(tmp_path)
    assert match.dataset == "coco"
    MINIATURES["coco"](tmp_path)
    assert [match.dataset for match in layouts.detect(tmp_path)] == ["coco", "table"]


def test_a_folder_without_a_known_layout_is_refused_with_its_contents(tmp_path):
    write_files(tmp_path, {"a.png": RED, "b.png": BLUE, "notes.md": "x", "a.bin": b"1"})
    with pytest.raises(UserError) as caught:
        layouts.detect(tmp_path)
    message = str(caught.value)
    assert "no layout fits; it contains 2 files (.png), 1 files (.md), 1 files (.bin)" in message
    for layout in layouts.LAYOUTS.values():
        assert layout.description in message
    with pytest.raises(UserError, match="no layout fits; it contains no files"):
        layouts.detect(write_files(tmp_path / "empty", {".hidden": "x"}).parent / "empty")
    with pytest.raises(UserError, match="'nowhere' does not exist"):
        layouts.detect("nowhere")


def test_a_header_that_is_not_understood_is_shown_with_the_flags(tmp_path):
    write_files(tmp_path, {"t.csv": "bild,worte\nred.png,rot\n", **IMAGES})
    with pytest.raises(UserError) as caught:
        run(tmp_path, tmp_path / "out")
    assert "columns found: bild, worte" in str(caught.value)
    assert "--table.columns=worte:en" in str(caught.value)
    records = run(tmp_path, tmp_path / "out", "--table.columns=worte:de")["train"]
    assert [record.texts for record in records] == [(("de", "rot"),)]
    assert len(records[0].images) == 1


def test_a_table_may_be_given_itself(tmp_path):
    write_wide(tmp_path / "raw")
    assert len(run(tmp_path / "raw/captions.tsv", tmp_path / "out")["train"]) == 2
    MINIATURES["tar txt"](tmp_path)
    with pytest.raises(UserError, match="shapes.tar: no layout fits; .*pass their folder"):
        layouts.detect(tmp_path / "shapes.tar")


def test_list_names_the_layouts(capsys):
    convert_command.main(["--list"])
    listed = capsys.readouterr().out
    assert all(layout.description in listed for layout in layouts.LAYOUTS.values())


# --- splits in names ------------------------------------------------------------------------------


def test_one_table_for_each_split(tmp_path):
    rows = {"train": "red.png\tred\n", "val": "photos/blue.png\tblue\n"}
    tables = {f"my_{split}.tsv": f"image\ten\n{row}" for split, row in rows.items()}
    write_files(tmp_path / "raw", IMAGES | tables)
    splits = run(tmp_path / "raw", tmp_path / "out")
    texts = {split: [record.texts for record in records] for split, records in splits.items()}
    assert texts == {"train": [(("en", "red"),)], "val": [(("en", "blue"),)]}
    manifest = json.loads((tmp_path / "out/val/manifest.json").read_text())
    assert manifest["ledger"]["parts"]["files"]["ignored"] == {"they are in another split": 1}


def test_one_imagefolder_for_each_split(tmp_path):
    files = {"train/metadata.csv": "file_name,en\na.png,red\n", "train/a.png": RED}
    files |= {"test/metadata.jsonl": {"file_name": "a.png", "en": "blue"}, "test/a.png": BLUE}
    splits = run(write_files(tmp_path / "raw", files), tmp_path / "out")
    assert [(r.images, r.texts) for r in splits["train"]] == [((RED,), (("en", "red"),))]
    assert [(r.images, r.texts) for r in splits["test"]] == [((BLUE,), (("en", "blue"),))]
    with pytest.raises(UserError, match="has no files of the split 'val'; it has: test train"):
        run(tmp_path / "raw", tmp_path / "out", "--split=val")


# --- encodings and delimiters ---------------------------------------------------------------------

CZECH, WESTERN = "žluťoučký kůň", "schön größer, déjà vu – “ça”"


def write_table(folder, text, encoding, header="image;{}", code="de"):
    content = f"{header.format(code)}\r\nred.png;{text}\r\n".encode(encoding)
    return write_files(folder, {"t.csv": content, "red.png": RED})


def read_text(folder, **options):
    ((_, text),) = read_items(table, folder, "train", **options)[0].texts
    return text


@pytest.mark.parametrize("code", ["de", "fr", "en", "pt_BR"])
def test_western_texts_may_be_in_cp1252_and_the_ledger_names_it(tmp_path, code):
    raw = write_table(tmp_path / "raw", WESTERN, "cp1252", code=code)
    assert read_text(raw) == WESTERN
    assert "train: t.csv is read as cp1252\n" in (
        format_summary([convert("table", raw, tmp_path / "out", "train")]) + "\n"
    )


@pytest.mark.parametrize(
    "code, text",
    [
        ("fr", "«\xa0L’œuvre d’été à 20\xa0°C, voilà…\xa0»"),
        ("ca", "la col·lecció d'estiu"),
        ("es", "¿Cómo está el 1º niño? ¡3½ m²!"),
        ("de", "„Größe“ – 5\xa0€, 10×15"),
        ("da", "rødgrød med fløde på ØRÅ"),
        ("is", "Það er þjóð, ÍSLAND"),
        ("en", "naïve café’s “£5” déjà‑vu".replace("‑", "-")),
    ],
)
def test_letters_and_signs_of_western_europe_are_plausible(tmp_path, code, text):
    assert read_text(write_table(tmp_path, text, "cp1252", code=code)) == text


@pytest.mark.parametrize(
    "text, encoding", [("schön", "mac_roman"), ("café", "mac_roman"), ("café", "cp850")]
)
def test_a_single_letter_of_another_code_page_is_not_taken_for_a_sign(tmp_path, text, encoding):
    with pytest.raises(UserError, match="line 2: expected UTF-8"):
        read_text(write_table(tmp_path, text, encoding, code="de"))


@pytest.mark.parametrize(
    "text, encoding, code, suggested",
    [
        (CZECH, "cp1250", "cs", "cp1250"),
        (CZECH, "cp1250", "de", "cp1250"),
        ("жёлтый конь", "cp1251", "ru", "cp1251"),
        ("黄色い馬", "shift_jis", "ja", "cp932"),
        ("黄色い馬", "shift_jis", "de", "cp1250"),
        (WESTERN, "mac_roman", "de", "cp1250"),
        ("schön größer", "cp850", "de", "cp1250"),
    ],
)
def test_another_code_page_is_refused_until_an_option_names_it(
    tmp_path, text, encoding, code, suggested
):
    raw = write_table(tmp_path, text, encoding, code=code)
    with pytest.raises(UserError, match=f"line 2: expected UTF-8.* encoding={suggested}$"):
        read_text(raw)
    assert read_text(raw, encoding=encoding) == text


def test_the_languages_of_a_long_table_decide_on_its_code_page(tmp_path):
    german, polish = "red.png;de;groß\n", "red.png;pl;duży\n"
    write_files(tmp_path, {"red.png": RED, "t.csv": f"image;lang;text\n{german}".encode("cp1252")})
    assert read_text(tmp_path) == "groß"
    content = f"image;lang;text\n{german}{polish}".encode("cp1250")
    write_files(tmp_path, {"t.csv": content})
    with pytest.raises(UserError, match="texts in de, pl.*encoding=cp1250"):
        read_text(tmp_path)


def test_a_damaged_utf8_table_is_not_taken_for_another_encoding(tmp_path):
    content = "image;de\nred.png;größer\n".encode() + b"red.png;gr\xf6\n"
    write_files(tmp_path, {"t.csv": content, "red.png": RED})
    with pytest.raises(UserError, match=r"line 3: expected UTF-8, got b'\\xf6'"):
        read_text(tmp_path)


def test_utf16_needs_a_mark_or_the_option(tmp_path):
    raw = write_table(tmp_path, "größer", "utf-16-le")
    with pytest.raises(UserError, match="UTF-16 without a byte order mark; .*encoding=utf-16-le"):
        read_text(raw)
    assert read_text(raw, encoding="utf-16-le") == "größer"
    with pytest.raises(UserError, match="unknown encoding 'utf-61' in the option encoding"):
        read_text(raw, encoding="utf-61")
    with pytest.raises(UserError, match="is not ascii, got"):
        read_text(write_table(tmp_path, "größer", "utf-8"), encoding="ascii")


@pytest.mark.parametrize(
    "content, text",
    [
        ("image;de\nred.png;rot, rund\n", "rot, rund"),
        ("image,de\nred.png,rot; rund\n", "rot; rund"),
        ("image\tde\nred.png\trot; rund, schön\n", "rot; rund, schön"),
        ("image| de\nred.png| rot\n", " rot"),
        ('image;"de"\nred.png;"rot ""rund"""\n', 'rot "rund"'),
        ("sep=|\nimage|de\nred.png|rot\n", "rot"),
        # The comma and the semicolon divide the header; only one divides all rows equally.
        ("image;Text, kurz;de\nred.png;a;rot\nb.png;a, b;rot\n", "rot"),
    ],
)
def test_the_delimiter_is_found_in_the_header(tmp_path, content, text):
    write_files(tmp_path, {"t.csv": content, "red.png": RED})
    assert read_text(tmp_path) == text


def test_a_blank_header_and_json_in_another_encoding_are_refused(tmp_path):
    write_files(tmp_path, {"t.csv": "\nred.png,rot\n"})
    with pytest.raises(UserError, match="t.csv, line 1: expected a header .* got a blank line"):
        run(tmp_path, tmp_path / "out")
    write_files(tmp_path, {"t.jsonl": '{"image": "red.png", "de": "größe"}\n'.encode("cp1252")})
    (tmp_path / "t.csv").unlink()
    with pytest.raises(UserError, match="t.jsonl, line 1: expected UTF-8, got"):
        run(tmp_path, tmp_path / "out")


def test_an_option_names_the_delimiter(tmp_path):
    write_files(tmp_path, {"t.csv": "image,x;de\nred.png,x;rot\n", "red.png": RED})
    for delimiter in ("semicolon", ";"):
        (item,) = read_items(table, tmp_path, "train", delimiter=delimiter)
        assert (item.images, item.texts) == ((), (("de", "rot"),))
    with pytest.raises(UserError, match="unknown delimiter .the option delimiter. 'colon'"):
        read_text(tmp_path, delimiter="colon")


# --- Parquet and COCO -----------------------------------------------------------------------------


def write_parquet(folder, columns, name="train.parquet"):
    pa = pytest.importorskip("pyarrow", reason="Parquet is written with pyarrow")
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.table(columns), folder / name)
    return folder


def test_images_in_parquet_may_be_bytes_paths_or_missing(tmp_path):
    write_parquet(tmp_path / "a", {"jpg": [RED, None, b"x"], "en": ["red", "none", "x"]})
    record, *skipped = read_items(table, tmp_path / "a", "train")
    assert (record.images, record.texts) == ((RED,), (("en", "red"),))
    assert [item.reason for item in skipped] == ["no image named", "image does not decode"]
    image = [{"bytes": None, "path": "red.png"}, {"bytes": BLUE, "path": None}]
    write_parquet(tmp_path / "b", {"img": image, "de": ["rot", "blau"]})
    write_files(tmp_path / "b", {"red.png": RED})
    assert [item.images for item in read_items(table, tmp_path / "b", "train")] == [(RED,), (BLUE,)]
    write_parquet(tmp_path / "c", {"file": ["red.png"], "de": ["rot"]})
    write_files(tmp_path / "c", {"red.png": RED})
    assert read_items(table, tmp_path / "c", "train") == [
        Record("red.png", (RED,), (("de", "rot"),))
    ]


def test_columns_of_parquet_have_options_and_errors(tmp_path):
    columns = {"photo": [RED], "mask": [BLUE], "translations": [{"de": "rot", "en": "red"}]}
    write_parquet(tmp_path, columns)
    with pytest.raises(UserError, match="photo and mask contain images; .*image_column=photo"):
        read_items(table, tmp_path, "train", texts_keys=("translations",))
    options = {"texts_keys": ("translations",), "image_column": "photo"}
    (record,) = read_items(table, tmp_path, "train", **options)
    assert (record.images, record.texts) == ((RED,), (("de", "rot"), ("en", "red")))
    with pytest.raises(UserError, match="no column 'foto', which the option image_column names"):
        read_items(table, tmp_path, "train", image_column="foto", columns=("mask:en",))
    data = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(data[:-20])
    with pytest.raises(UserError, match="train.parquet is cut short or no Parquet file"):
        read_items(table, tmp_path, "train")


def test_a_split_column_of_parquet_is_used(tmp_path):
    columns = {"image": [RED, BLUE], "en": ["red", "blue"], "split": ["train", "test"]}
    write_parquet(tmp_path, columns, "TEST-00000-of-00001.parquet")
    assert table.splits(str(tmp_path)) == ("train", "test")
    (record,) = read_items(table, tmp_path, "test")
    assert record.images == (BLUE,)


def coco(**changes):
    content = {"images": [{"id": 1, "file_name": "red.png"}]}
    content["annotations"] = [{"image_id": 1, "caption": "red", "id": 3}]
    return content | changes


def test_images_of_coco_are_found_in_the_folder_that_contains_them(tmp_path):
    files = {"captions_val2017.json": coco(), "val2017/red.png": RED, "train2017/red.png": BLUE}
    write_files(tmp_path, files)
    (record,) = read_items(table, tmp_path, "val", language="en")
    assert (record.id, record.images, record.texts) == ("1", (RED,), (("en", "red"),))
    (tmp_path / "captions_val2017.json").rename(tmp_path / "captions.json")
    with pytest.raises(UserError, match="contain images such as red.png; .* image_dir=train2017"):
        read_items(table, tmp_path, "train", language="en")
    options = {"image_dir": "train2017", "language": "en"}
    assert read_items(table, tmp_path, "train", **options)[0].images == (BLUE,)


def test_captions_of_coco_may_have_languages_or_no_image(tmp_path):
    annotations = [{"image_id": 1, "caption": "rot", "language": "de"}]
    annotations += [{"image_id": 1, "caption": "red", "language": "en"}, {"image_id": 9}, "x"]
    write_files(tmp_path, {"c.json": coco(annotations=annotations), "images/red.png": RED})
    record, *skipped = read_items(table, tmp_path, "train")
    assert record.texts == (("de", "rot"), ("en", "red"))
    assert skipped == [
        Skipped("no text", "c.json, caption 3"),
        Skipped("not a JSON object", "c.json, caption 4"),
    ]
    write_files(tmp_path, {"c.json": {"images": [], "annotations": {"caption": 1}}})
    with pytest.raises(UserError, match="lists images and annotations, got images, annotations"):
        read_items(table, tmp_path, "train")
