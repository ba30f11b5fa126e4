import gzip
import json
import pickle
import shutil
import tarfile
import tracemalloc
import zipfile

import pytest
from helpers.datasets import convert, read_items
from helpers.files import write_files
from helpers.images import plain_image

from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets import bounded_read, coco, image_files
from tf_mural.datasets.coco import karpathy
from tf_mural.errors import UserError

ANNOTATIONS = ["annotations/captions_train2014.json", "annotations/captions_val2014.json"]
STAIR = ["stair_captions_v1.2_train.json", "stair_captions_v1.2_val.json"]
KOREAN = "MSCOCO_train_val_Korean.json"
SPLITS = {1: "train", 2: "train", 3: "train", 391895: "test", 5: "val", 6: "restval", 7: "restval"}
COLORS = {
    1: "red",
    2: "blue",
    391895: "green",
    5: "black",
    6: "white",
}  # The images 3 and 7 are missing.


def stem(number):
    part = "train" if SPLITS[number] == "train" else "val"
    return f"COCO_{part}2014_{number:012}"


def image_bytes(number):
    return plain_image(COLORS[number])


def put(folder, path, data):
    """Writes one file (data as for `write_files`) and returns its path."""
    write_files(folder, {path: data})
    return folder / path


def listed(number):
    """Returns an image of Karpathy's list."""
    name = stem(number)
    return {
        "filepath": name.split("_")[1],
        "filename": f"{name}.jpg",
        "cocoid": number,
        "imgid": 0,
        "split": SPLITS[number],
        "sentids": [1],
        "sentences": [{"raw": f"listed {number}. ", "tokens": ["listed"], "sentid": 1}],
    }


def captions(*pairs):
    """Returns captions in COCO's schema, in which captions and images have different ids."""
    rows = [{"image_id": n, "id": 391895 + i, "caption": text} for i, (n, text) in enumerate(pairs)]
    return {"info": {}, "images": [{"id": n} for n, _ in pairs], "annotations": rows}


@pytest.fixture
def raw(tmp_path):
    """Writes official files. The captions of an image are not in adjacent rows.

    STAIR and AI Hub have no captions for some images.
    """
    folder = tmp_path / "raw"
    put(folder, "dataset_coco.json", {"images": [listed(n) for n in SPLITS], "dataset": "coco"})
    put(
        folder,
        ANNOTATIONS[0],
        captions((1, "A dog.\n"), (2, " A cat"), (1, "Two dogs"), (3, "Gone"), (2, "A cat")),
    )
    put(
        folder,
        ANNOTATIONS[1],
        captions((391895, "A man"), (5, "A bus"), (6, "Rest"), (7, "Gone"), (391895, "A bike")),
    )
    stair = captions((1, "犬"), (3, "無し"))
    for row in stair["annotations"]:
        row["tokenized_caption"] = "犬 ."
    put(folder, STAIR[0], stair)
    put(folder, STAIR[1], captions((391895, "男性"), (5, "バス")))
    korean = [
        ("391895", "val2014/COCO_val2014_000000391895.jpg", ["남자", ""]),
        (0, "train2014/COCO_train2014_000000000001.jpg", ["개", "두 마리"]),
        (5, "val2014/COCO_val2014_000000000005.jpg", []),
    ]
    put(
        folder,
        KOREAN,
        [
            {"id": number, "file_path": path, "captions": ["English"], "caption_ko": texts}
            for number, path, texts in korean
        ],
    )
    for number in COLORS:
        name = stem(number)
        put(folder, f"{name.split('_')[1]}/{name}.jpg", image_bytes(number))
    return folder


def items(raw, split="train", **options):
    return read_items(coco, raw, split, **options)


def texts_of(raw, split="train", **options):
    """Returns {id: texts} of the records of a split."""
    records = [item for item in items(raw, split, **options) if isinstance(item, Record)]
    return {int(record.id.split("_")[2]): record.texts for record in records}


FIRST = (("en", "A dog."), ("en", "Two dogs"), ("ja", "犬"), ("ko", "개"), ("ko", "두 마리"))
SECOND = (("en", "A cat"), ("en", "A cat"))
TRAIN = [
    Record("COCO_train2014_000000000001", (image_bytes(1),), FIRST),
    Record("COCO_train2014_000000000002", (image_bytes(2),), SECOND),
    Skipped("image missing", "COCO_train2014_000000000003.jpg"),
]
RESTVAL = [
    Record("COCO_val2014_000000000006", (image_bytes(6),), (("en", "Rest"),)),
    Skipped("image missing", "COCO_val2014_000000000007.jpg"),
]
TEST = [
    Skipped("blank text", "COCO_val2014_000000391895.jpg, ko", text_only=True),
    Record(
        "COCO_val2014_000000391895",
        (image_bytes(391895),),
        (("en", "A man"), ("en", "A bike"), ("ja", "男性"), ("ko", "남자")),
    ),
]
VAL = [
    Skipped("blank text", "COCO_val2014_000000000005.jpg, ko", text_only=True),
    Record("COCO_val2014_000000000005", (image_bytes(5),), (("en", "A bus"), ("ja", "バス"))),
]
TEXTS = [
    Record("COCO_train2014_000000000001", (), FIRST),
    Record("COCO_train2014_000000000002", (), SECOND),
    Record("COCO_train2014_000000000003", (), (("en", "Gone"), ("ja", "無し"))),
]
ALL = {"train": TRAIN, "val": VAL, "test": TEST, "restval": RESTVAL, "texts": TEXTS}


# --- splits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", coco.SPLITS)
def test_splits_follow_karpathy_and_languages_are_joined_by_image_id(raw, split):
    assert items(raw, split) == ALL[split]


def test_the_option_restval_adds_restval_to_train(raw):
    assert items(raw, restval=True) == TRAIN + RESTVAL
    added = texts_of(raw, "texts", restval=True)
    assert list(added) == [1, 2, 3, 6, 7] and added[7] == (("en", "Gone"),)
    assert items(raw, "test", restval=True) == TEST
    assert coco.splits(str(raw)) == ("train", "val", "test", "restval", "texts")
    assert coco.splits(str(raw), restval=True) == ("train", "val", "test", "texts")


def test_splits_without_any_image_are_omitted(raw):
    shutil.rmtree(raw / "train2014")
    assert coco.splits(str(raw)) == ("val", "test", "restval", "texts")
    assert coco.splits(str(raw), restval=True) == ("train", "val", "test", "texts")
    with pytest.raises(UserError, match="none of the 3 photographs of train, such as COCO_train2"):
        items(raw)
    shutil.rmtree(raw / "val2014")
    assert coco.splits(str(raw)) == ("texts",)
    assert items(raw, "texts") == TEXTS
    # If the option `images` is given, `splits` returns all splits. The function `plan` then reports
    # a wrong folder.
    assert coco.splits(str(raw), images=("annotations",)) == coco.SPLITS


def test_units_divide_the_images(raw, monkeypatch):
    monkeypatch.setattr(coco, "_RECORDS_PER_UNIT", 2)
    units = coco.plan(str(raw), "texts")
    assert [[item.id[-1] for item in coco.read(unit)] for unit in units] == [["1", "2"], ["3"]]


def test_units_do_not_contain_pixels(raw):
    sizes = []
    for data in (image_bytes(1), image_bytes(1) + b"\0" * 100_000):
        put(raw, f"train2014/{stem(1)}.jpg", data)
        sizes.append(len(pickle.dumps(coco.plan(str(raw), "train"))))
    assert sizes[0] == sizes[1]


# --- archives -------------------------------------------------------------------------------------


def pack_zip(raw, archive, *names, compression=zipfile.ZIP_STORED):
    """Moves files and folders into a zip."""
    with zipfile.ZipFile(raw / archive, "w", compression) as file:
        for name in names:
            paths = sorted((raw / name).iterdir()) if (raw / name).is_dir() else [raw / name]
            for path in paths:
                file.write(path, path.relative_to(raw))
    for name in names:
        shutil.rmtree(raw / name) if (raw / name).is_dir() else (raw / name).unlink()


def pack_tar(raw, archive, *names):
    """Moves files into a tar."""
    with tarfile.open(raw / archive, "w:gz") as file:
        for name in names:
            file.add(raw / name, f"./{name}")
            file.add(raw / name, f"./._{name}")
    for name in names:
        (raw / name).unlink()


def test_archives_give_the_same_records_as_folders(raw):
    before = {split: coco.fingerprint(str(raw), split) for split in ALL}
    pack_zip(raw, "train2014.zip", "train2014")
    pack_zip(raw, "val2014.zip", "val2014", compression=zipfile.ZIP_DEFLATED)
    pack_zip(raw, "annotations_trainval2014.zip", *ANNOTATIONS, compression=zipfile.ZIP_DEFLATED)
    put(raw, "dataset_flickr30k.json", {"images": []})
    pack_zip(raw, "caption_datasets.zip", "dataset_flickr30k.json", "dataset_coco.json")
    pack_tar(raw, "stair_captions_v1.2.tar.gz", *STAIR)
    (raw / f"{KOREAN}.gz").write_bytes(gzip.compress((raw / KOREAN).read_bytes()))
    (raw / KOREAN).unlink()
    assert {path.name for path in raw.iterdir() if path.is_dir()} == {"annotations"}  # empty
    assert {split: items(raw, split) for split in ALL} == ALL
    assert {split: coco.fingerprint(str(raw), split) for split in ALL} == before
    assert coco.splits(str(raw)) == coco.SPLITS


def test_a_file_and_an_archive_of_it_count_once(raw):
    for archive, names in (("train2014.zip", ["train2014"]), ("annotations_trainval2014.zip", [])):
        copy = raw.parent / "copy"
        shutil.copytree(raw, copy)
        pack_zip(copy, archive, *(names or ANNOTATIONS))
        shutil.move(copy / archive, raw / archive)
        shutil.rmtree(copy)
    captions_file = (raw / STAIR[0]).read_bytes()
    pack_tar(raw, f"{STAIR[0]}.tar.gz", STAIR[0])
    assert items(raw) == TRAIN
    put(raw, STAIR[0], captions_file)
    assert items(raw) == TRAIN
    # An image that is missing in the folder is read from the zip.
    (raw / f"train2014/{stem(1)}.jpg").unlink()
    assert items(raw) == TRAIN


def test_the_option_images_names_folders(raw):
    shutil.move(raw / "train2014", raw.parent / "elsewhere")
    (raw / "images").mkdir()
    pack_zip(raw, "images/val2014.zip", "val2014")
    assert items(raw, "test") == TEST
    assert items(raw, images=("../elsewhere",)) == TRAIN
    with pytest.raises(UserError, match="/gone, which the option images names, is not a folder"):
        items(raw, images=("gone",))


# --- languages ------------------------------------------------------------------------------------


def test_english_comes_from_the_list_if_annotations_are_missing(raw):
    shutil.rmtree(raw / "annotations")
    assert texts_of(raw, "texts", languages=("en",)) == {
        n: (("en", f"listed {n}."),) for n in (1, 2, 3)
    }


@pytest.mark.parametrize("missing, code", [(ANNOTATIONS[1], "en"), (STAIR[1], "ja")])
def test_a_missing_annotation_file_is_an_error_only_if_needed(raw, missing, code):
    (raw / missing).unlink()
    assert items(raw) == TRAIN
    name = missing.rpartition("/")[2]
    with pytest.raises(UserError, match=f"exists, but {name} does not; add it, or exclude {code}"):
        items(raw, restval=True)
    others = tuple({"en", "ja"} - {code})
    assert texts_of(raw, "val", languages=others)[5][0][0] == others[0]


def test_the_option_languages_selects_languages(raw):
    assert items(raw, "val", languages=("ko",)) == [
        VAL[0],
        Skipped("no text", "COCO_val2014_000000000005.jpg"),
    ]
    assert texts_of(raw, languages=("ko", "ja")) == {1: FIRST[2:]}
    for name in (*STAIR, KOREAN):
        (raw / name).unlink()
    assert texts_of(raw)[1] == FIRST[:2]
    with pytest.raises(
        UserError, match="no texts of the language ja in .*; expected stair_captions"
    ):
        items(raw, languages=("ja",))
    with pytest.raises(UserError, match="unknown language .* 'it'; known: en, ja, ko"):
        items(raw, languages=("it",))


OBJECTS = [{"image_id": 1, "id": 2, "text": "cane "}, {"image_id": 391895, "id": 1, "text": "uomo"}]
OTHER_LANGUAGES = {
    "it.tsv": "1\tcane\n000000391895\t uomo\n",
    "crlf.tsv": "image_id\ttext\r\n1\tcane\r\n391895\tuomo",
    "names.tsv": "COCO_train2014_000000000001.jpg\tcane\nval2014/COCO_val2014_000000391895\tuomo",
    "bom.tsv": b"\xef\xbb\xbf1\tcane\n391895\tuomo\n",
    "it.json": OBJECTS,
    "coco.json": captions((1, "cane"), (391895, "uomo")),
    "by_number.json": {"1": "cane", "391895": ["uomo"]},
    "korean.json": [
        {"id": i, "file_path": f"val2014/{stem(n)}.jpg", "captions": ["no"], "caption_it": [text]}
        for i, (n, text) in enumerate(((1, "cane"), (391895, "uomo")))
    ],
    "it.jsonl": "\n\n".join(json.dumps(item) for item in OBJECTS),
    "it.tsv.gz": gzip.compress(b"1\tcane\n391895\tuomo\n"),
}


@pytest.mark.parametrize("name", OTHER_LANGUAGES)
def test_additional_languages_are_joined_by_image_id(raw, name):
    put(raw, f"more/{name}", OTHER_LANGUAGES[name])
    options = {"texts": (f"it:more/{name}",), "languages": ("it", "ja")}
    assert texts_of(raw, **options) == {1: (("it", "cane"), ("ja", "犬"))}
    assert texts_of(raw, "test", **options) == {391895: (("it", "uomo"), ("ja", "男性"))}


def test_the_option_texts_replaces_other_texts_of_the_language(raw):
    put(raw, "a.tsv", "1\teins\n1\tzwei\n2\t\n")
    put(raw, "b.jsonl", json.dumps({"image": "000000000001.jpg", "captions": ["drei", "vier"]}))
    actual = items(raw, texts=("ja:a.tsv", "ja:b.jsonl", "uk:a.tsv"), languages=("ja", "uk"))
    assert actual[0].texts == (
        *(("ja", text) for text in ("eins", "zwei", "drei", "vier")),
        *(("uk", text) for text in ("eins", "zwei")),
    )
    second = "COCO_train2014_000000000002.jpg"
    assert actual[1:4] == [
        Skipped("blank text", f"{second}, ja", text_only=True),
        Skipped("blank text", f"{second}, uk", text_only=True),
        Skipped("no text", second),
    ]


def test_texts_without_an_image_are_counted(raw, monkeypatch):
    monkeypatch.setattr(coco, "_RECORDS_PER_UNIT", 1)
    put(raw, "it.tsv", "1\tcane\n99\tgatto\n")
    assert items(raw, texts=("it:it.tsv",))[0] == Skipped(
        "text of no image", "image 99, it: gatto", text_only=True
    )
    assert texts_of(raw, texts=("it:it.tsv",))[1][2] == ("it", "cane")
    put(raw, "it.tsv", "98\tcane\n99\tgatto\n")
    with pytest.raises(UserError, match="it.tsv has texts of none of the 7 images of COCO"):
        items(raw, texts=("it:it.tsv",))


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("it.tsv", "1\tcane\n1 cane\n", "it.tsv, line 2: expected image<tab>text, got 1 columns"),
        ("it.tsv", "1\tcane\n2\ta\tb\n", "line 2: expected image<tab>text, got 3 columns"),
        ("it.tsv", "1\tcane\ndog\tcane\n", "line 2: expected the id of an image, .* 'dog'"),
        ("it.tsv", b"1\tcane\n2\tcitt\xe0 \n", r"it.tsv, line 2: expected UTF-8, got b'\\xe0"),
        ("it.tsv", "", "it.tsv has texts of none of the 7 images"),
        ("it.csv", "1,cane\n", "it.csv: expected a file that ends in .tsv, .json or .jsonl"),
        ("it.json", '[{"image_id": 1, "te', "it.json: expected JSON, got .*Unterminated string"),
        (
            "it.json",
            [{"image_id": 1}],
            "item 1: expected an object with image_id and .* or text or",
        ),
        ("it.json", [OBJECTS[0], {"text": "a"}], "item 2: expected an object with image_id and t"),
        ("it.json", ["cane"], "item 1: expected an object, got 'cane'"),
        ("it.json", [{"image_id": 1, "text": 5}], "item 1: expected a text or a list of texts"),
        (
            "it.json",
            [{"image_id": 1.5, "text": "a"}],
            "expected the id of an image, .* got 1.5",
        ),
        ("it.json", [{"image_id": True, "text": "a"}], "expected the id of .* got True"),
        ("it.json", {"annotations": 5}, "it.json: expected a list of captions, got '5'"),
        ("it.json", {"1": "", "dog": "cane"}, "it.json, 'dog': expected the id of an image"),
        ("it.json", {}, r"it.json: expected annotations, or texts .* the keys \(none\)"),
        ("it.json", "[" * 100_000, "it.json: expected JSON"),
        ("it.jsonl", '{"image_id": 1, "text": "cane"}\n{', "it.jsonl, line 2: expected JSON"),
        (
            "it.tsv.gz",
            gzip.compress(b"1\tcane" * 99, mtime=0)[:-12],
            "it.tsv.gz does not unpack .*; downlo",
        ),
        ("it.tar.gz", b"", "it.tar.gz does not unpack .*; download it again"),
    ],
)
def test_invalid_texts_are_refused(raw, name, data, message):
    put(raw, name, data)
    with pytest.raises(UserError, match=message):
        items(raw, "texts", texts=(f"it:{name}",))


def test_an_archive_of_texts_must_contain_one_file(raw):
    put(raw, "it.tsv", "1\tcane\n")
    put(raw, "uk.tsv", "1\tпес\n")
    pack_tar(raw, "one.tar.gz", "it.tsv")
    assert texts_of(raw, texts=("it:one.tar.gz",), languages=("it",)) == {1: (("it", "cane"),)}
    put(raw, "it.tsv", "1\tcane\n")
    pack_zip(raw, "two.zip", "it.tsv", "uk.tsv")
    with pytest.raises(UserError, match="expected one file in it, got it.tsv, uk.tsv; unpack it"):
        items(raw, texts=("it:two.zip",))
    for option in ("it.tsv", "it:"):
        with pytest.raises(
            UserError, match=f"texts contains '{option}'; expected a language and a file"
        ):
            items(raw, texts=(option,))
    with pytest.raises(UserError, match="gone.tsv, which the option texts names, is not a file"):
        items(raw, texts=("it:gone.tsv",))


# --- bad input ------------------------------------------------------------------------------------


def test_an_invalid_list_is_refused(raw):
    images = json.loads((raw / "dataset_coco.json").read_text())["images"]
    for changed, message in (
        ([], "expected an object with a list of images"),
        (
            [images[0], images[0]],
            r"images\[1\]: COCO_train2014_000000000001.jpg occurs a second time",
        ),
        ([{**images[0], "filename": "../a.jpg"}], r"images\[0\]: .* '../a.jpg' is not a file name"),
        ([{**images[0], "filepath": "/etc"}], "expected one of train2014, val2014, got '/etc'"),
        ([{**images[0], "split": "dev"}], "expected one of train, val, test, restval, got 'dev'"),
        ([{**images[0], "cocoid": "one"}], "expected cocoid, .*ValueError"),
        ([{k: v for k, v in images[1].items() if k != "cocoid"}], "expected .*KeyError: 'cocoid'"),
        ([images[0], 5], r"images\[1\]: expected cocoid, .*TypeError"),
        ([images[3]], "dataset_coco.json contains no image of train"),
    ):
        put(raw, "dataset_coco.json", {"images": changed})
        with pytest.raises(UserError, match=message):
            items(raw, "texts")
    put(raw, "dataset_coco.json", '{"images": [')
    with pytest.raises(UserError, match="dataset_coco.json: expected JSON"):
        items(raw)
    put(raw, "dataset_coco.json", b'{"images": "\xff\xfe"}')
    with pytest.raises(UserError, match="dataset_coco.json, line 1: expected UTF-8"):
        items(raw)


@pytest.mark.parametrize(
    "path, data, message",
    [
        (
            ANNOTATIONS[0],
            {"annotations": [{"image_id": 1}]},
            "item 1: .* image_id and caption, got",
        ),
        (ANNOTATIONS[0], {"annotations": [{"caption": "A"}]}, "item 1: .* image_id and caption, g"),
        (
            ANNOTATIONS[0],
            {"images": []},
            "captions_train2014.json: expected annotations, or .* images$",
        ),
        (STAIR[0], captions((99, "犬")), "_train.json has texts of none of the 7 images of COCO"),
        # If the Korean captions are missing, the English captions of the same file are not used.
        (
            KOREAN,
            [{"id": 1, "captions": ["A"]}],
            "item 1: expected .* image_id and caption_ko, got",
        ),
        ("annotations_trainval2014.zip", b"PK", None),  # The zip is not read.
    ],
)
def test_invalid_official_captions_are_refused(raw, path, data, message):
    put(raw, path, data)
    if message is None:
        assert items(raw) == TRAIN
        return
    with pytest.raises(UserError, match=message):
        items(raw)


def test_corrupt_archives_are_refused_if_needed(raw):
    pack_zip(raw, "train2014.zip", "train2014")
    archive = (raw / "train2014.zip").read_bytes()
    put(raw, "train2014.zip", archive[:-30])
    with pytest.raises(UserError, match="train2014.zip does not unpack .*; download it again"):
        items(raw)
    assert items(raw, "test") == TEST  # The test split does not need train2014.zip.
    put(raw, "train2014.zip", archive)
    pack_zip(raw, "annotations_trainval2014.zip", *ANNOTATIONS)
    put(raw, "annotations_trainval2014.zip", b"PK")
    with pytest.raises(UserError, match="annotations_trainval2014.zip does not unpack"):
        items(raw)


@pytest.mark.parametrize("name", ["train2014.zip", "annotations_trainval2014.zip"])
@pytest.mark.parametrize("member", ["../../etc/a.jpg", "/etc/a.jpg"])
def test_archive_members_outside_of_the_archive_are_refused(raw, name, member):
    shutil.rmtree(raw / ("train2014" if name == "train2014.zip" else "annotations"))
    with zipfile.ZipFile(raw / name, "w") as archive:
        archive.writestr(member, "a")
    with pytest.raises(
        UserError, match=f"{name} contains '{member}', a path outside of the archive"
    ):
        items(raw)


def test_a_corrupt_image_is_skipped(raw):
    name = f"{stem(2)}.jpg"
    put(raw, f"train2014/{name}", image_bytes(2)[:-40])
    expected = [TRAIN[0], Skipped("image does not decode", name), TRAIN[2]]
    assert items(raw) == expected
    pack_zip(raw, "train2014.zip", "train2014")
    assert items(raw) == expected
    # Changes a byte of the image, so the checksum in the zip does not match.
    data = (raw / "train2014.zip").read_bytes()
    i = data.index(name.encode()) + len(name) + 50
    put(raw, "train2014.zip", data[:i] + bytes([data[i] ^ 255]) + data[i + 1 :])
    assert items(raw) == [TRAIN[0], Skipped("image does not unpack", name), TRAIN[2]]


def test_files_that_unpack_to_too_many_bytes_are_refused(raw, monkeypatch):
    name = f"{stem(2)}.jpg"
    put(raw, f"train2014/{name}", image_bytes(2) + b"\0" * 100_000)
    pack_zip(raw, "train2014.zip", "train2014", compression=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(image_files, "MAX_BYTES", 100_000)
    assert items(raw) == [TRAIN[0], Skipped("image too large", name), TRAIN[2]]
    (raw / f"{KOREAN}.gz").write_bytes(gzip.compress(b" " * 1_000_001))
    (raw / KOREAN).unlink()
    monkeypatch.setattr(bounded_read, "MAX_BYTES", 1_000_000)
    with pytest.raises(
        UserError, match="Korean.json.gz has .* unpacked; expected at most 1,000,000,"
    ):
        items(raw)


def test_the_tokens_of_the_list_occupy_no_memory(raw):
    """Tokens take up most of the official list, and are dropped while the list is parsed."""
    images = [listed(n) for n in SPLITS]
    for image in images:
        image["sentences"][0]["tokens"] = [f"w{i}" for i in range(20_000)]
    size = put(raw, "dataset_coco.json", {"images": images}).stat().st_size
    tracemalloc.start()
    try:
        assert [image.sentences for image in karpathy.load_images(str(raw))] == [
            (f"listed {n}.",) for n in SPLITS
        ]
        # If the tokens were kept, parsing would need 8 times the size of the file in memory.
        assert tracemalloc.get_traced_memory()[1] < 4 * size
    finally:
        tracemalloc.stop()


def test_missing_files_are_named(raw, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected dataset_coco.json, or caption_datasets.zip whic"):
        items(tmp_path / "empty")
    for raw_dir in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder"):
            coco.plan(raw_dir, "train")
    with pytest.raises(UserError, match="unknown split of coco 'tset'; .* did you mean 'test'"):
        items(raw, "tset")


# --- conversion -----------------------------------------------------------------------------------


def test_a_conversion_counts_every_image_and_text(raw, tmp_path):
    manifest = convert("coco", raw, tmp_path / "out", "train", restval=True)
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (5, 3, {"image missing": 2})
    assert manifest["languages"] == {"en": 5, "ja": 1, "ko": 2}
    expected = [item for item in TRAIN + RESTVAL if isinstance(item, Record)]
    assert list(RecordSet.open(tmp_path / "out/train")) == expected
    ledger = convert("coco", raw, tmp_path / "out", "test")["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (1, 1, {})
    assert ledger["dropped_texts"] == {"blank text": 1}


def test_a_conversion_notices_added_images_and_texts(raw, tmp_path):
    convert("coco", raw, tmp_path / "out", "restval")
    pack_zip(raw, "val2014.zip", "val2014")
    # A zip of the same images does not change the recipe, so the existing set is kept.
    convert("coco", raw, tmp_path / "out", "restval")
    put(raw, f"val2014/{stem(7)}.jpg", image_bytes(6))
    with pytest.raises(UserError, match="another recipe"):
        convert("coco", raw, tmp_path / "out", "restval")
    (raw / f"val2014/{stem(7)}.jpg").unlink()
    convert("coco", raw, tmp_path / "out", "restval")
    put(raw, STAIR[1], captions((6, "残り")))
    with pytest.raises(UserError, match="another recipe"):
        convert("coco", raw, tmp_path / "out", "restval")
