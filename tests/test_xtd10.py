import io
import os
import pickle

import pytest
from conftest import ROOT
from PIL import Image

from tf_mural import conversion
from tf_mural.data.records import Dropped, Record, RecordSet
from tf_mural.datasets import DATASETS, xtd10
from tf_mural.errors import UserError

OFFICIAL = os.path.join(ROOT, "..", "shared", "data", "xtd10")
NAMES = [
    "COCO_train2014_000000000001.jpg",
    "COCO_val2014_000000000002.jpg",
    "COCO_train2014_000000000003.jpg",
]
FIRST, SECOND, THIRD = (name.removesuffix(".jpg") for name in NAMES)


def picture(color):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(buffer, "JPEG")
    return buffer.getvalue()


def put(folder, path, data):
    path = folder / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.fixture
def raw(tmp_path):
    """Three photographs, of which one is missing; Korean with CRLF and no last line end."""
    put(tmp_path, "XTD10/test_image_names.txt", "".join(name + "\n" for name in NAMES))
    put(tmp_path, "XTD10/test_1kcaptions_en.txt", "one\ntwo\nthree\n")
    put(tmp_path, "XTD10/test_1kcaptions_ko.txt", "하나\r\n \r\n셋")
    put(tmp_path, "MIC/test_1kcaptions_de.txt", "eins\nzwei\ndrei\n")
    put(tmp_path, "STAIR/test_1kcaptions_jp.txt", "いち\nに\nさん\n")
    put(tmp_path, f"train2014/{NAMES[0]}", picture("red"))
    put(tmp_path, f"val2014/{NAMES[1]}", picture("blue"))
    return tmp_path


TEXTS = (
    (("de", "eins"), ("en", "one"), ("ja", "いち"), ("ko", "하나")),
    (("de", "zwei"), ("en", "two"), ("ja", "に")),
    (("de", "drei"), ("en", "three"), ("ja", "さん"), ("ko", "셋")),
)
BLANK = Dropped("blank text", f"{NAMES[1]}, ko", text=True)


def items(raw, split="test", **options):
    units = xtd10.plan(str(raw), split, **options)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in xtd10.read(unit)]


def test_photographs_with_a_caption_a_language(raw):
    assert items(raw) == [
        Record(FIRST, (picture("red"),), TEXTS[0]),
        BLANK,
        Record(SECOND, (picture("blue"),), TEXTS[1]),
        Dropped("image missing", NAMES[2]),
    ]


def test_texts_alone_need_no_photographs(raw):
    for name in NAMES[:2]:
        (raw / name.split("_")[1] / name).unlink()
    expected = [Record(FIRST, (), TEXTS[0]), BLANK, Record(SECOND, (), TEXTS[1])]
    assert items(raw, "texts") == [*expected, Record(THIRD, (), TEXTS[2])]
    assert xtd10.splits(str(raw)) == ("texts",)
    with pytest.raises(UserError, match=f"none of the 3 photographs, such as {NAMES[0]}, is in "):
        items(raw)
    put(raw, f"train2014/{NAMES[2]}", picture("white"))
    assert xtd10.splits(str(raw)) == ("test", "texts")


def test_where_photographs_may_be(raw):
    put(raw, f"elsewhere/{NAMES[2]}", picture("white"))
    put(raw, f"other/train2014/{NAMES[0]}", picture("black"))
    found = items(raw, images=("elsewhere", "other"))
    records = [(item.id, item.images) for item in found if isinstance(item, Record)]
    assert records == [(FIRST, (picture("black"),)), (THIRD, (picture("white"),))]
    assert Dropped("image missing", NAMES[1]) in found
    with pytest.raises(UserError, match="/gone, which the option images asks for, is no folder"):
        items(raw, images=("gone",))


def test_languages_are_a_choice(raw):
    found = items(raw, "texts", languages=("ko", "ja"))
    assert [getattr(item, "texts", item) for item in found] == [
        (("ja", "いち"), ("ko", "하나")),
        BLANK,
        (("ja", "に"),),
        (("ja", "さん"), ("ko", "셋")),
    ]
    assert items(raw, "texts", languages=("ko",))[1:3] == [BLANK, Dropped("no text", NAMES[1])]
    with pytest.raises(UserError, match="unknown language .* 'jp'; known: en, ko, de, ja"):
        items(raw, languages=("jp",))


def test_undecodable_photographs_are_left_out(raw):
    put(raw, f"val2014/{NAMES[1]}", picture("blue")[:-40])
    assert Dropped("image does not decode", NAMES[1]) in items(raw)


def test_units_part_the_lines(raw, monkeypatch):
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
        ("XTD10/test_image_names.txt", "a.jpg\na.jpg\n", "line 2: 'a.jpg' a second time"),
        ("XTD10/test_image_names.txt", "../a.jpg\n", r"line 1: '\.\./a.jpg' where the file name"),
        ("XTD10/test_image_names.txt", "/etc/passwd\n", "line 1: '/etc/passwd' where the file"),
        ("test_image_names.txt", "a.jpg\n", "expected one test_image_names.txt .*; found 2 and 4"),
    ],
)
@pytest.mark.parametrize("split", xtd10.SPLITS)
def test_files_that_contradict_each_other(raw, path, data, message, split):
    put(raw, path, data)
    with pytest.raises(UserError, match=message):
        items(raw, split)


def test_nothing_there(tmp_path, raw):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected one test_image_names.txt .*; found 0 and 0"):
        items(tmp_path / "empty")
    for gone in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder"):
            xtd10.plan(gone, "test")
    with pytest.raises(UserError, match="unknown split of xtd10 'train'; known: test, texts"):
        items(raw, "train")


def convert(raw, out, split):
    return conversion.convert(
        DATASETS["xtd10"], "xtd10", str(raw), str(out), split, processes=1, progress=str
    )


def test_the_ledger_is_whole(raw, tmp_path):
    ledger = convert(raw, tmp_path / "out", "test")["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (3, 2, {"image missing": 1})
    assert ledger["dropped_texts"] == {"blank text": 1}
    manifest = convert(raw, tmp_path / "out", "texts")
    assert (manifest["ledger"]["read"], manifest["ledger"]["kept"]) == (3, 3)
    assert manifest["languages"] == {"de": 3, "en": 3, "ja": 3, "ko": 2}
    assert [r.texts for r in RecordSet.open(tmp_path / "out/texts")] == list(TEXTS)
    put(raw, f"train2014/{NAMES[2]}", picture("white"))
    convert(raw, tmp_path / "out", "texts")  # kept: it has no photographs
    with pytest.raises(UserError, match="another recipe"):
        convert(raw, tmp_path / "out", "test")


def test_the_official_files():
    if not os.path.isdir(OFFICIAL):
        pytest.skip(f"{OFFICIAL} is not there")
    found = items(OFFICIAL, "texts")
    assert len(found) == 1000 and all(isinstance(item, Record) for item in found)
    codes = ["de", "en", "es", "fr", "it", "ja", "ko", "pl", "ru", "tr", "zh"]
    assert all([code for code, _ in record.texts] == codes for record in found)
    assert sum(record.id.startswith("COCO_train2014_") for record in found) == 800
    first, last = dict(found[0].texts), dict(found[-1].texts)
    assert first["ja"] == "黒いユニフォームのランナーがホームに帰ってきた"
    assert first["zh"] == "棒球大联盟联赛上，匹兹堡海盗队的球员穿过本垒"
    assert last["ru"] == "бейсболист замахнулся битой для удара"
    assert (found[0].id, found[-1].id) == (
        "COCO_train2014_000000061844",
        "COCO_val2014_000000129945",
    )
