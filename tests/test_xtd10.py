import os

import pytest
from conftest import ROOT
from helpers.datasets import convert, read_items
from helpers.files import write_files
from helpers.images import plain_image

from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets import xtd10
from tf_mural.errors import UserError

OFFICIAL = os.path.join(ROOT, "..", "shared", "data", "xtd10")
NAMES = [
    "COCO_train2014_000000000001.jpg",
    "COCO_val2014_000000000002.jpg",
    "COCO_train2014_000000000003.jpg",
]
FIRST, SECOND, THIRD = (name.removesuffix(".jpg") for name in NAMES)


@pytest.fixture
def raw(tmp_path):
    """A raw folder of three images, one of which is missing; the Korean file has CRLF line ends."""
    files = {
        "XTD10/test_image_names.txt": "".join(name + "\n" for name in NAMES),
        "XTD10/test_1kcaptions_en.txt": "one\ntwo\nthree\n",
        "XTD10/test_1kcaptions_ko.txt": "하나\r\n \r\n셋",
        "MIC/test_1kcaptions_de.txt": "eins\nzwei\ndrei\n",
        "STAIR/test_1kcaptions_jp.txt": "いち\nに\nさん\n",
        f"train2014/{NAMES[0]}": plain_image("red"),
        f"val2014/{NAMES[1]}": plain_image("blue"),
    }
    return write_files(tmp_path, files)


TEXTS = (
    (("de", "eins"), ("en", "one"), ("ja", "いち"), ("ko", "하나")),
    (("de", "zwei"), ("en", "two"), ("ja", "に")),
    (("de", "drei"), ("en", "three"), ("ja", "さん"), ("ko", "셋")),
)
BLANK = Skipped("blank text", f"{NAMES[1]}, ko", text_only=True)


def items(raw, split="test", **options):
    return read_items(xtd10, raw, split, **options)


def test_records_are_images_with_a_caption_per_language(raw):
    assert items(raw) == [
        Record(FIRST, (plain_image("red"),), TEXTS[0]),
        BLANK,
        Record(SECOND, (plain_image("blue"),), TEXTS[1]),
        Skipped("image missing", NAMES[2]),
    ]


def test_the_split_texts_needs_no_images(raw):
    for name in NAMES[:2]:
        (raw / name.split("_")[1] / name).unlink()
    expected = [Record(FIRST, (), TEXTS[0]), BLANK, Record(SECOND, (), TEXTS[1])]
    assert items(raw, "texts") == [*expected, Record(THIRD, (), TEXTS[2])]
    assert xtd10.splits(str(raw)) == ("texts",)
    with pytest.raises(UserError, match=f"none of the 3 images, such as {NAMES[0]}, is in "):
        items(raw)
    write_files(raw, {f"train2014/{NAMES[2]}": plain_image("white")})
    assert xtd10.splits(str(raw)) == ("test", "texts")


def test_the_option_images_names_folders(raw):
    write_files(raw, {f"elsewhere/{NAMES[2]}": plain_image("white")})
    write_files(raw, {f"other/train2014/{NAMES[0]}": plain_image("black")})
    actual = items(raw, images=("elsewhere", "other"))
    images = [(item.id, item.images) for item in actual if isinstance(item, Record)]
    assert images == [(FIRST, (plain_image("black"),)), (THIRD, (plain_image("white"),))]
    assert Skipped("image missing", NAMES[1]) in actual
    with pytest.raises(
        UserError, match="/gone, which the option images names, is not a folder or an archive"
    ):
        items(raw, images=("gone",))


def test_the_option_languages_selects_languages(raw):
    actual = items(raw, "texts", languages=("ko", "ja"))
    assert [getattr(item, "texts", item) for item in actual] == [
        (("ja", "いち"), ("ko", "하나")),
        BLANK,
        (("ja", "に"),),
        (("ja", "さん"), ("ko", "셋")),
    ]
    assert items(raw, "texts", languages=("ko",))[1:3] == [BLANK, Skipped("no text", NAMES[1])]
    with pytest.raises(UserError, match="unknown language .* 'jp'; known: en, ko, de, ja"):
        items(raw, languages=("jp",))


def test_undecodable_images_are_skipped(raw):
    write_files(raw, {f"val2014/{NAMES[1]}": plain_image("blue")[:-40]})
    assert Skipped("image does not decode", NAMES[1]) in items(raw)


def test_units_divide_the_lines(raw, monkeypatch):
    monkeypatch.setattr(xtd10, "_RECORDS_PER_UNIT", 2)
    units = xtd10.plan(str(raw), "texts", languages=("en",))
    assert [[r.texts[0][1] for r in xtd10.read(unit)] for unit in units] == [
        ["one", "two"],
        ["three"],
    ]


@pytest.mark.parametrize(
    "path, data, message",
    [
        (
            "MIC/test_1kcaptions_de.txt",
            "eins\nzwei\n",
            "_de.txt has 2 lines, but .* names 3 images",
        ),
        ("MIC/test_1kcaptions_de.txt", "", "_de.txt has 0 lines, but .* names 3 images"),
        ("MIC/test_1kcaptions_de.txt", b"eins\nzw\xe4\n\n", "_de.txt, line 2: expected UTF-8"),
        (
            "MIC/test_1kcaptions_en.txt",
            "1\n2\n3\n",
            "_en.txt and .*MIC/.*_en.txt are both en; keep",
        ),
        ("XTD10/test_1kcaptions_ja.txt", "1\n2\n3\n", "_ja.txt and .*_jp.txt are both ja; keep"),
        ("XTD10/test_image_names.txt", "", "test_image_names.txt is empty"),
        ("XTD10/test_image_names.txt", "a.jpg\na.jpg\n", "line 2: 'a.jpg' occurs a second time"),
        ("XTD10/test_image_names.txt", "../a.jpg\n", r"line 1: '\.\./a.jpg' is not the file name"),
        ("XTD10/test_image_names.txt", "/etc/passwd\n", "line 1: '/etc/passwd' is not the file"),
        ("test_image_names.txt", "a.jpg\n", "expected one test_image_names.txt .*; found 2 and 4"),
    ],
)
@pytest.mark.parametrize("split", xtd10.SPLITS)
def test_contradictory_files_are_refused(raw, path, data, message, split):
    write_files(raw, {path: data})
    with pytest.raises(UserError, match=message):
        items(raw, split)


def test_a_folder_without_files_is_refused(tmp_path, raw):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected one test_image_names.txt .*; found 0 and 0"):
        items(tmp_path / "empty")
    for raw_dir in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder"):
            xtd10.plan(raw_dir, "test")
    with pytest.raises(UserError, match="unknown split of xtd10 'train'; known: test, texts"):
        items(raw, "train")


def test_a_conversion_counts_every_line_and_notices_new_images(raw, tmp_path):
    ledger = convert("xtd10", raw, tmp_path / "out", "test")["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (3, 2, {"image missing": 1})
    assert ledger["dropped_texts"] == {"blank text": 1}
    manifest = convert("xtd10", raw, tmp_path / "out", "texts")
    assert (manifest["ledger"]["read"], manifest["ledger"]["kept"]) == (3, 3)
    assert manifest["languages"] == {"de": 3, "en": 3, "ja": 3, "ko": 2}
    assert [r.texts for r in RecordSet.open(tmp_path / "out/texts")] == list(TEXTS)
    write_files(raw, {f"train2014/{NAMES[2]}": plain_image("white")})
    convert("xtd10", raw, tmp_path / "out", "texts")  # no error: `texts` needs no images
    with pytest.raises(UserError, match="another recipe"):
        convert("xtd10", raw, tmp_path / "out", "test")


def test_the_official_files_give_1000_records_in_11_languages():
    if not os.path.isdir(OFFICIAL):
        pytest.skip(f"{OFFICIAL} does not exist")
    records = items(OFFICIAL, "texts")
    assert len(records) == 1000 and all(isinstance(record, Record) for record in records)
    codes = ["de", "en", "es", "fr", "it", "ja", "ko", "pl", "ru", "tr", "zh"]
    assert all([code for code, _ in record.texts] == codes for record in records)
    assert sum(record.id.startswith("COCO_train2014_") for record in records) == 800
    first, last = dict(records[0].texts), dict(records[-1].texts)
    assert first["ja"] == "黒いユニフォームのランナーがホームに帰ってきた"
    assert first["zh"] == "棒球大联盟联赛上，匹兹堡海盗队的球员穿过本垒"
    assert last["ru"] == "бейсболист замахнулся битой для удара"
    assert (records[0].id, records[-1].id) == (
        "COCO_train2014_000000061844",
        "COCO_val2014_000000129945",
    )
