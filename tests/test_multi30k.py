import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile

import pytest
from conftest import ROOT
from helpers.datasets import convert, read_items
from helpers.files import write_files
from helpers.images import plain_image

from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets import archives, multi30k
from tf_mural.errors import UserError

DATA = os.path.join(ROOT, "..", "shared", "data")
TEXTS, PHOTOS = "multi30k/data", "flickr30k-images"


def write(folder, path, *lines):
    """Writes a file with the given lines, compressed if its name ends in .gz; returns its path."""
    write_files(folder, {path: "".join(line + "\n" for line in lines)})
    return folder / path


def write_split(folder, stem1, stem2, names):
    """Writes a split with two captions in task 2; line 2 of task 1 equals one of these captions."""
    write(folder, f"{TEXTS}/task1/image_splits/{stem1}.txt", *names)
    write(folder, f"{TEXTS}/task2/image_splits/{stem2}_images.txt", *names)
    for code in ("en", "de", "fr", "cs"):
        lines = [f"{stem1} {code} {i}" for i in range(len(names))]
        write(folder, f"{TEXTS}/task1/raw/{stem1}.{code}.gz", *lines)
    for number in (1, 2):
        for code in ("en", "de"):
            lines = [f"{stem2} {code} {i} no. {number}" for i in range(len(names))]
            if number == 2:
                lines[1] = f"{stem1} {code} 1"
            write(folder, f"{TEXTS}/task2/raw/{stem2}.{number}.{code}.gz", *lines)


@pytest.fixture
def raw(tmp_path):
    """A raw folder with small versions of all files; one image of each split is missing."""
    for stem1, stem2, names in (
        ("train", "train", ["11.jpg", "12.jpg", "13.jpg"]),
        ("val", "val", ["21.jpg", "22.jpg"]),
        ("test_2016_flickr", "test_2016", ["31.jpg", "32.jpg"]),
    ):
        write_split(tmp_path, stem1, stem2, names)
    (tmp_path / PHOTOS).mkdir()
    for name, color in (("11", "red"), ("12", "blue"), ("21", "green"), ("31", "black")):
        (tmp_path / PHOTOS / f"{name}.jpg").write_bytes(plain_image(color))
    return tmp_path


def items(raw, split, **options):
    return read_items(multi30k, raw, split, **options)


def kept(raw, split, **options):
    return [item for item in items(raw, split, **options) if isinstance(item, Record)]


# --- texts ----------------------------------------------------------------------------------------


def test_train_has_both_tasks_without_repeats(raw):
    first, repeated_de, repeated_en, second, missing = items(raw, "train")
    assert first == Record(
        "11",
        (plain_image("red"),),
        (
            ("cs", "train cs 0"),
            ("de", "train de 0"),
            ("en", "train en 0"),
            ("fr", "train fr 0"),
            ("de", "train de 0 no. 1"),
            ("en", "train en 0 no. 1"),
            ("de", "train de 0 no. 2"),
            ("en", "train en 0 no. 2"),
        ),
    )
    reason = "repeated in its record"
    assert repeated_de == Skipped(reason, "12.jpg, de: train de 1", text_only=True)
    assert repeated_en == Skipped(reason, "12.jpg, en: train en 1", text_only=True)
    assert second == Record(
        "12",
        (plain_image("blue"),),
        (
            ("cs", "train cs 1"),
            ("de", "train de 1"),
            ("en", "train en 1"),
            ("fr", "train fr 1"),
            ("de", "train de 1 no. 1"),
            ("en", "train en 1 no. 1"),
        ),
    )
    assert missing == Skipped("image missing", "13.jpg")


def test_evaluation_follows_the_protocol(raw):
    val, skipped = items(raw, "val")
    assert (val.id, val.images) == ("21", (plain_image("green"),))
    assert val.texts == (
        ("cs", "val cs 0"),
        ("de", "val de 0 no. 1"),
        ("en", "val en 0 no. 1"),
        ("fr", "val fr 0"),
        ("de", "val de 0 no. 2"),
        ("en", "val en 0 no. 2"),
    )
    assert skipped == Skipped("image missing", "22.jpg")
    (test,) = kept(raw, "test")
    assert test.id == "31" and test.images == (plain_image("black"),)
    assert test.texts[0] == ("cs", "test_2016_flickr cs 0")
    assert test.texts[1:3] == (("de", "test_2016 de 0 no. 1"), ("en", "test_2016 en 0 no. 1"))


def test_bitext_has_the_translations_and_no_images(raw):
    shutil.rmtree(raw / PHOTOS)
    records = items(raw, "bitext")
    assert [record.id for record in records] == ["11", "12", "13"]
    assert records[2] == Record(
        "13",
        (),
        (
            ("cs", "train cs 2"),
            ("de", "train de 2"),
            ("en", "train en 2"),
            ("fr", "train fr 2"),
        ),
    )


@pytest.mark.parametrize(
    "split, task, texts",
    [
        ("val", "1", ["cs: val cs 0", "de: val de 0", "en: val en 0", "fr: val fr 0"]),
        ("val", "2", [f"{code}: val {code} 0 no. {k}" for k in (1, 2) for code in ("de", "en")]),
        ("train", "2", [f"{c}: train {c} 0 no. {k}" for k in (1, 2) for c in ("de", "en")]),
        (
            "val",
            "both",
            ["cs: val cs 0", "de: val de 0", "en: val en 0", "fr: val fr 0"]
            + ["de: val de 0 no. 1", "en: val en 0 no. 1"]
            + ["de: val de 0 no. 2", "en: val en 0 no. 2"],
        ),
    ],
)
def test_the_option_task_selects_texts(raw, split, task, texts):
    record = kept(raw, split, task=task)[0]
    assert [f"{code}: {text}" for code, text in record.texts] == texts


def test_the_option_languages_selects_languages(raw):
    assert kept(raw, "val", languages=("fr", "cs"))[0].texts == (
        ("cs", "val cs 0"),
        ("fr", "val fr 0"),
    )
    with pytest.raises(UserError, match=r"unknown language \(of val\) 'pl'; known: cs, de, en, fr"):
        items(raw, "val", languages=("pl",))


def test_the_option_texts_adds_languages(raw):
    write(raw, "framed/task1/raw/train.pt", "um", "dois", "")
    write(raw, "framed/task2/raw/train.10.pt.gz", "dez", "dez", "dez")
    write(raw, "framed/task2/raw/train.2.pt", "", "dois", "")
    write(raw, "framed/task2/raw/train.3.pt.gz", "três", "três", "três")
    actual = items(raw, "train", texts=(TEXTS, "framed"), languages=("pt",))
    assert actual == [
        Skipped("blank text", "11.jpg, pt", text_only=True),
        Record("11", (plain_image("red"),), (("pt", "um"), ("pt", "três"), ("pt", "dez"))),
        Skipped("repeated in its record", "12.jpg, pt: dois", text_only=True),
        Record("12", (plain_image("blue"),), (("pt", "dois"), ("pt", "três"), ("pt", "dez"))),
        Skipped("image missing", "13.jpg"),
    ]
    write(raw, "framed/task1/raw/train.pt", "", "dois", "")
    first = items(raw, "bitext", texts=(TEXTS, "framed"), languages=("pt",))[1]
    assert first == Skipped("no text", "11.jpg")
    write(raw, "framed/task1/raw/train.de", "eins", "zwei", "drei")
    with pytest.raises(UserError, match=r"train\.de\.gz and .*framed.*train\.de are the same text"):
        items(raw, "train", texts=(TEXTS, "framed"))


def test_lines_are_split_only_at_line_feeds_and_stripped(raw):
    path = raw / f"{TEXTS}/task1/raw/val.fr.gz"
    path.unlink()
    (raw / f"{TEXTS}/task1/raw/val.fr").write_bytes(" un\u2028homme \r\nune femme".encode())
    assert kept(raw, "val", languages=("fr",))[0].texts == (("fr", "un\u2028homme"),)


# --- English captions of Flickr30K ----------------------------------------------------------------

TOKEN = (
    "9.jpg#0\tNobody .",
    "21.jpg#1\tNo #1,\ta cat .",
    "21.jpg#0\tA dog .",
    "11.jpg#0\tA red dog .",
)
CSV = (
    "image_name| comment_number| comment",
    "21.jpg| 1| No #1,\ta cat .",
    "21.jpg| 0   A dog .",
    "11.jpg| 0| A red dog .",
)
KARPATHY = json.dumps(
    {
        "images": [
            {
                "filename": f"{name}.jpg",
                "split": "train",
                "sentences": [{"raw": text, "tokens": []} for text in texts],
            }
            for name, texts in (("21", ["A dog .", "No #1,\ta cat ."]), ("11", ["A red dog ."]))
        ]
    }
)


@pytest.mark.parametrize(
    "name, content",
    [
        ("results_20130124.token", TOKEN),
        ("results.csv", CSV),
        ("dataset_flickr30k.json", (KARPATHY,)),
        ("results_20130124.token.gz", TOKEN),
    ],
)
def test_the_option_captions_replaces_the_english_texts(raw, name, content):
    write(raw, name, *content)
    (record,) = kept(raw, "val", captions=name)
    assert [text for code, text in record.texts if code == "en"] == ["A dog .", "No #1,\ta cat ."]
    assert record.texts[2:4] == (("cs", "val cs 0"), ("de", "val de 0 no. 1"))
    actual = items(raw, "train", captions=name, languages=("en",))
    assert actual == [
        Record("11", (plain_image("red"),), (("en", "A red dog ."),)),
        Skipped("blank text", "12.jpg, en", text_only=True),
        Skipped("no text", "12.jpg"),
        Skipped("image missing", "13.jpg"),
    ]
    # If English is not requested, the file of the English captions is not needed.
    assert kept(raw, "val", captions=name, languages=("cs",))[0].texts == (("cs", "val cs 0"),)
    with pytest.raises(UserError, match=f"{name} has captions of none of the images, .* 31.jpg"):
        items(raw, "test", captions=name)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("r.token", ("21.jpg#0\tA dog .", "21.jpg#1 no tab"), "line 2: expected name#number<tab>"),
        ("r.csv", (CSV[0], "21.jpg, 0, A dog"), r"line 2: expected name\| number\| caption, got"),
        ("r.json", ('{"images": [{"filename": "21.jpg"}]}',), "expected images with .*'sentences'"),
        ("r.json", ("{",), "expected images with a filename"),
    ],
)
def test_invalid_captions_are_refused(raw, name, content, message):
    write(raw, name, *content)
    with pytest.raises(UserError, match=message):
        items(raw, "val", captions=name)


def test_a_missing_caption_file_is_named(raw):
    with pytest.raises(UserError, match="gone.token, which the option captions names, is not a"):
        items(raw, "val", captions="gone.token")


# --- photographs ----------------------------------------------------------------------------------


def test_undecodable_images_are_skipped(raw):
    (raw / PHOTOS / "12.jpg").write_bytes(plain_image("blue")[:-40])
    skipped = [item for item in items(raw, "train") if isinstance(item, Skipped)]
    assert [item for item in skipped if not item.text_only] == [
        Skipped("image does not decode", "12.jpg"),
        Skipped("image missing", "13.jpg"),
    ]


def test_the_option_images_names_several_folders(raw):
    (raw / "more").mkdir()
    (raw / "more" / "13.jpg").write_bytes(plain_image("white"))
    records = kept(raw, "train", images=("more", PHOTOS))
    assert [(record.id, record.images[0]) for record in records] == [
        ("11", plain_image("red")),
        ("12", plain_image("blue")),
        ("13", plain_image("white")),
    ]


def test_the_error_without_any_image_names_the_folders(raw):
    (raw / PHOTOS / "31.jpg").unlink()
    with pytest.raises(
        UserError, match=f"none of the 2 images of test, such as 31.jpg, is in .*/{PHOTOS}; set "
    ):
        items(raw, "test")
    shutil.rmtree(raw / PHOTOS)
    with pytest.raises(
        UserError,
        match=f"no photographs of Flickr30K in .*{PHOTOS} or .*; set the option images",
    ):
        items(raw, "train")
    with pytest.raises(UserError, match="in [^ ]*/pics; set the option images to"):
        items(raw, "train", images=("pics",))


def test_other_test_sets_need_images_and_have_only_task_1(raw):
    """The image list of the COCO test set appends the number of a caption to each file name."""
    names = ["COCO_val2014_000000398076.jpg#657409", "COCO_val2014_000000000001.jpg#7"]
    write(raw, f"{TEXTS}/task1/image_splits/test_2017_mscoco.txt", *names)
    write(raw, f"{TEXTS}/task1/raw/test_2017_mscoco.de.gz", "ein Hund", "eine Katze")
    assert multi30k.splits(str(raw)) == ("train", "bitext", "val", "test")
    with pytest.raises(UserError, match="none of the 2 images of test_2017_mscoco, such as COCO_v"):
        items(raw, "test_2017_mscoco")
    (raw / "val2014").mkdir()
    (raw / "val2014/COCO_val2014_000000398076.jpg").write_bytes(plain_image("red"))
    options = {"images": (PHOTOS, "val2014")}
    assert multi30k.splits(str(raw), **options)[4:] == ("test_2017_mscoco",)
    for task in ("auto", "1", "both"):
        (record,) = kept(raw, "test_2017_mscoco", task=task, **options)
        assert record == Record(
            "COCO_val2014_000000398076", (plain_image("red"),), (("de", "ein Hund"),)
        )
    with pytest.raises(UserError, match="no texts of task 2 for the split test_2017_mscoco"):
        items(raw, "test_2017_mscoco", task="2", **options)


# --- photographs in an archive --------------------------------------------------------------------


def pack(raw, ending=".tar.gz", extra=(), names=None):
    """Moves the folder of photographs into an archive, in the order of `names`."""
    path = raw / f"{PHOTOS}{ending}"
    with tarfile.open(path, "w" if ending == ".tar" else "w:gz") as archive:
        for name in names or sorted(os.listdir(raw / PHOTOS), reverse=True):
            archive.add(raw / PHOTOS / name, f"{PHOTOS}/{name}")
        for name, data in extra:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    shutil.rmtree(raw / PHOTOS)
    return path


def by_name(items):
    return sorted(items, key=lambda item: getattr(item, "id", "") or item.example)


@pytest.mark.parametrize("ending", [".tar.gz", ".tgz", ".tar"])
def test_an_archive_gives_the_same_records_as_its_folder(raw, ending):
    from_folder = {split: items(raw, split) for split in ("train", "val", "test")}
    others = [(".DS_Store", b"macOS"), (f"{PHOTOS}/.DS_Store", b"macOS"), ("a.txt", b"read me")]
    pack(raw, ending, others)
    assert multi30k.splits(str(raw)) == ("train", "bitext", "val", "test")
    for split, expected in from_folder.items():
        assert by_name(items(raw, split)) == by_name(expected)
        if ending == ".tar":
            assert items(raw, split) == expected


def test_a_gzip_archive_is_decompressed_once_per_split(raw, monkeypatch):
    """The images of a split are one unit, because each unit decompresses the archive from its
    start."""
    monkeypatch.setattr(multi30k, "_RECORDS_PER_UNIT", 1)
    opened = []
    monkeypatch.setattr(
        archives.gzip, "open", lambda path, open=gzip.open: opened.append(str(path)) or open(path)
    )
    path = str(pack(raw))
    ids = [record.id for record in kept(raw, "train")]
    assert ids == ["12", "11"]  # the order in the archive
    assert opened.count(path) == 2  # once for the list of files, once for the images
    assert [record.id for record in kept(raw, "val")] == ["21"]
    assert opened.count(path) == 3
    assert len(multi30k.plan(str(raw), "bitext")) == 3


def test_units_of_a_tar_divide_the_lines(raw, monkeypatch):
    monkeypatch.setattr(multi30k, "_RECORDS_PER_UNIT", 2)
    pack(raw, ".tar")
    units = multi30k.plan(str(raw), "train")
    assert [[row[0] for row in unit.rows] for unit in units] == [["11.jpg", "12.jpg"], ["13.jpg"]]


def test_the_first_location_of_an_image_has_priority(raw):
    (raw / "more").mkdir()
    (raw / "more" / "13.jpg").write_bytes(plain_image("white"))
    (raw / "more" / "12.jpg").write_bytes(plain_image("pink"))
    archive = pack(raw).name
    assert {r.id: r.images for r in kept(raw, "train", images=("more", archive))} == {
        "11": (plain_image("red"),),
        "12": (plain_image("pink"),),
        "13": (plain_image("white"),),
    }
    records = kept(raw, "train", images=(archive, "more"))
    assert {r.id: r.images[0] for r in records}["12"] == plain_image("blue")


def test_corrupt_image_archives_are_refused(raw):
    with pytest.raises(UserError, match="in [^ ]*/gone.tar.gz; set the option images to"):
        items(raw, "train", images=("gone.tar.gz",))
    path = pack(raw)
    archive = path.read_bytes()
    for corrupt in (archive[:-9], archive[: len(archive) // 2], b"", b"\x1f\x8b no gzip"):
        path.write_bytes(corrupt)
        with pytest.raises(UserError, match="images.tar.gz does not unpack .*; download it again"):
            items(raw, "train")
    path.write_bytes(archive)
    with pytest.raises(UserError, match="none of the 1 images of val, such as 9.jpg, is in .*tar"):
        for name in ("task1/image_splits/val.txt", "task2/image_splits/val_images.txt"):
            write(raw, f"{TEXTS}/{name}", "9.jpg")
        items(raw, "val")
    for name, message in (
        ("../../11.jpg", r"contains '\.\./\.\./11.jpg', a path outside of"),
        ("/etc/11.jpg", "contains '/etc/11.jpg', a path outside of the"),
        ("again/11.jpg", "contains 11.jpg twice"),
    ):
        (raw / PHOTOS).mkdir()
        (raw / PHOTOS / "11.jpg").write_bytes(plain_image("red"))
        pack(raw, extra=[(name, plain_image("blue"))])
        with pytest.raises(UserError, match=message):
            items(raw, "train")


# --- contradictory files --------------------------------------------------------------------------


def test_texts_of_another_length_are_refused(raw):
    write(raw, f"{TEXTS}/task1/raw/train.fr.gz", "un", "deux")
    write(raw, f"{TEXTS}/task2/raw/train.1.de.gz", "eins", "zwei", "drei", "vier")
    with pytest.raises(UserError) as error:
        items(raw, "train")
    message = str(error.value)
    assert "image_splits/train.txt has 3 lines" in message
    assert "train.fr.gz 2" in message and "train.1.de.gz 4" in message
    assert "train.cs.gz" not in message


@pytest.mark.parametrize(
    "names, message",
    [
        (
            ["21.jpg", "23.jpg"],
            r"\(2 images\) and .*val_images.txt \(2 images\) differ from line 2",
        ),
        (["21.jpg"], r"val.txt \(2 images\) and .*val_images.txt \(1 images\) differ from line 2"),
    ],
)
def test_tasks_with_different_images_are_refused(raw, names, message):
    write(raw, f"{TEXTS}/task2/image_splits/val_images.txt", *names)
    with pytest.raises(UserError, match=message):
        items(raw, "val")


@pytest.mark.parametrize(
    "names, message",
    [
        (["21.jpg", "21.jpg"], "line 2: '21.jpg' occurs a second time"),
        (["21.jpg", ""], "line 2: '' is not the file name of an image"),
        (["../21.jpg", "22.jpg"], "line 1: '../21.jpg' is not the file name"),
        ([], "val.txt is empty"),
    ],
)
def test_invalid_image_lists_are_refused(raw, names, message):
    write(raw, f"{TEXTS}/task1/image_splits/val.txt", *names)
    with pytest.raises(UserError, match=message):
        items(raw, "val")


def test_corrupt_text_files_are_refused(raw):
    path = raw / f"{TEXTS}/task1/raw/val.cs.gz"
    data = path.read_bytes()
    for corrupt in (data[:-12], data[:20] + b"\xff\xff" + data[22:], b"plain text\n"):
        path.write_bytes(corrupt)
        with pytest.raises(UserError, match="val.cs.gz does not unpack .*; download it again"):
            items(raw, "val")
    path.write_bytes(gzip.compress("eins\nzw\xe4i\n".encode("latin-1")))
    with pytest.raises(UserError, match=r"val.cs.gz, line 2: expected UTF-8, got b'\\xe4'"):
        items(raw, "val")


@pytest.mark.parametrize(
    "missing, message",
    [
        ("task2", "no texts of task 2 for the split {} in .*task2/raw; .* pass the option task=1"),
        ("task1/raw", "no texts of task 1 for the split {} in "),
        ("task1/image_splits", None),
        ("", "no task1 and task2 of Multi30K in .*/data or .*; set the option texts to their"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_tasks_are_named(raw, missing, message, split):
    shutil.rmtree(raw / TEXTS / missing)
    if message is None:
        # The conversion uses the image list of task 2.
        assert len(kept(raw, split)) == {"train": 2, "val": 1}[split]
    else:
        with pytest.raises(UserError, match=message.format(split)):
            items(raw, split)
    if missing == "task2":
        assert len(kept(raw, split, task="1")) == {"train": 2, "val": 1}[split]


def test_a_missing_image_list_is_named(raw):
    for path in (
        f"{TEXTS}/task1/image_splits/val.txt",
        f"{TEXTS}/task2/image_splits/val_images.txt",
    ):
        (raw / path).unlink()
    with pytest.raises(
        UserError, match="expected val.txt, which lists the image of each line, in "
    ):
        items(raw, "val")


@pytest.mark.parametrize(
    "split, options, message",
    [
        ("tset", {}, "unknown split 'tset'; known: train, .*did you mean 'test'"),
        ("val", {"task": "3"}, "unknown task of Multi30K '3'; known: auto, 1, 2, both"),
        ("val", {"texts": ("gone",)}, "in [^ ]*/gone; set the option texts to"),
    ],
)
def test_invalid_options_are_refused(raw, split, options, message):
    with pytest.raises(UserError, match=message):
        items(raw, split, **options)
    with pytest.raises(UserError, match="expected raw_dir to be a folder, got None"):
        multi30k.plan(None, "train")


# --- conversion -----------------------------------------------------------------------------------


def test_a_conversion_counts_every_image_and_text(raw, tmp_path):
    manifest = convert("multi30k", raw, tmp_path / "out", "train")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"]) == (3, 2)
    assert ledger["dropped"] == {"image missing": 1}
    assert ledger["dropped_texts"] == {"repeated in its record": 2}
    assert manifest["languages"] == {"cs": 2, "de": 5, "en": 5, "fr": 2}
    assert [record.id for record in RecordSet.open(tmp_path / "out/train")] == ["11", "12"]


def test_a_conversion_notices_added_images_and_texts(raw, tmp_path):
    convert("multi30k", raw, tmp_path / "out", "train")
    convert("multi30k", raw, tmp_path / "out", "train")  # The existing set is kept.
    (raw / PHOTOS / "13.jpg").write_bytes(plain_image("white"))
    with pytest.raises(UserError, match="another recipe"):
        convert("multi30k", raw, tmp_path / "out", "train")
    assert convert("multi30k", raw, tmp_path / "out", "train", overwrite=True)["records"] == 3
    write(raw, f"{TEXTS}/task1/raw/train.fr.gz", "un", "deux", "trois")
    with pytest.raises(UserError, match="another recipe"):
        convert("multi30k", raw, tmp_path / "out", "train")


def test_a_conversion_notices_another_archive(raw, tmp_path):
    path = pack(raw)
    convert("multi30k", raw, tmp_path / "out", "val")
    assert (
        convert("multi30k", raw, tmp_path / "out", "val")["records"] == 1
    )  # The existing set is kept.
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1, mtime=1))
    with pytest.raises(UserError, match="another recipe"):
        convert("multi30k", raw, tmp_path / "out", "val")


def test_units_divide_the_lines(raw, monkeypatch):
    monkeypatch.setattr(multi30k, "_RECORDS_PER_UNIT", 2)
    units = multi30k.plan(str(raw), "bitext")
    ids = [[record.id for record in multi30k.read(unit)] for unit in units]
    assert ids == [["11", "12"], ["13"]]


def tool(folder, *arguments):
    process = subprocess.run(
        [sys.executable, os.path.join(ROOT, "tools", "convert.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_command_converts_all_splits(raw):
    arguments = ("--dataset=multi30k", f"--raw_dir={raw}", "--processes=1")
    output = tool(raw, *arguments, "--multi30k.task=1", "--multi30k.languages=en,cs")
    assert "1 records dropped: image missing (13.jpg)" in output
    sets = {split: RecordSet.open(raw / "data/multi30k" / split) for split in multi30k.SPLITS[:4]}
    assert [len(record_set) for record_set in sets.values()] == [
        2,
        3,
        1,
        1,
    ]  # Numbers of records of the splits `train`, `bitext`, `val` and `test`.
    assert next(iter(sets["val"])).texts == (("cs", "val cs 0"), ("en", "val en 0"))
    # Flipping is off by default, because captions may say left or right.
    assert sets["train"].manifest["augmentations"] == ["crop"]
    tool(raw, *arguments, "--out_dir=other", "--split=val", "--augmentations=crop,flip")
    assert RecordSet.open(raw / "other/val").manifest["augmentations"] == ["crop", "flip"]


def test_the_list_of_data_sets_says_what_to_download(tmp_path):
    output = tool(tmp_path, "--list")
    for word in ("test_2018_flickr", "https://github.com/multi30k/dataset", "flickr30k-images"):
        assert word in output


# --- the official files ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official():
    for name in ("multi30k", "flickr30k"):
        if not os.path.isdir(os.path.join(DATA, name)):
            pytest.skip(f"{os.path.join(DATA, name)} does not exist")
    return DATA


def expected_texts(split, image, parts):
    """Returns the texts of an image in the files `parts`, tuples (task, file stem, language)."""
    with open(os.path.join(DATA, f"multi30k/data/task1/image_splits/{split}.txt")) as file:
        line = file.read().split("\n").index(f"{image}.jpg")
    texts = set()
    for task, stem, code in parts:
        path = os.path.join(DATA, f"multi30k/data/task{task}/raw/{stem}.{code}.gz")
        with gzip.open(path) as file:
            texts.add((code, file.read().decode().split("\n")[line].strip()))
    return texts


TASK2 = [(2, f"val.{k}", code) for k in (1, 2, 3, 4, 5) for code in ("en", "de")]


def test_the_official_val_split_has_12_texts_per_image(official):
    all_items = items(official, "val")
    records = {item.id: item for item in all_items if isinstance(item, Record)}
    assert len(records) == 242
    skipped = [item for item in all_items if isinstance(item, Skipped)]
    assert sum(item.reason == "image missing" for item in skipped) == 772
    record = records["103205630"]
    assert set(record.texts) == expected_texts(
        "val", record.id, [*TASK2, (1, "val", "fr"), (1, "val", "cs")]
    )
    assert len(record.texts) == 12 and record.texts[:2] == (
        ("cs", "Dva muži rozdělávají modrý rybářský stan na zamrzlém jezeře."),
        ("de", "Zelten auf dem Eis"),
    )
    with open(os.path.join(DATA, f"flickr30k/{PHOTOS}/{record.id}.jpg"), "rb") as file:
        assert record.images == (file.read(),)


def test_the_official_train_split_has_14_texts_per_image(official):
    units = multi30k.plan(official, "train")
    assert sum(len(unit.rows) for unit in units) == 29_000
    rows = {name: texts for unit in units for name, texts, _ in unit.rows}
    folder = units[0].locations[0]
    assert sum(os.path.isfile(os.path.join(folder, name)) for name in rows) == 6_993
    # Each image has 5 English captions, 5 German captions, and one text of task 1 in each of 4
    # languages.
    assert {len(texts) for texts in rows.values()} == {14}
    assert rows["1000092795.jpg"][3:5] == (
        ("fr", "Deux jeunes hommes blancs sont dehors près de buissons."),
        ("de", "Zwei Männer betrachten etwas im Garten"),
    )
