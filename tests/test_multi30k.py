import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile

import pytest
from conftest import ROOT
from PIL import Image

from tf_mural import conversion
from tf_mural.data.records import Dropped, Record, RecordSet
from tf_mural.datasets import multi30k
from tf_mural.datasets.classification import archives
from tf_mural.errors import UserError

DATA = os.path.join(ROOT, "..", "shared", "data")
TEXTS, PHOTOS = "multi30k/data", "flickr30k-images"


def picture(color):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(buffer, "JPEG")
    return buffer.getvalue()


def write(folder, path, *lines):
    """A file of a line each, packed if its name ends in .gz; whatever was there goes."""
    path = folder / path
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_split(folder, one, two, names):
    """A split with two captions in task 2. Line 2 of task 1 is word for word one of task 2."""
    write(folder, f"{TEXTS}/task1/image_splits/{one}.txt", *names)
    write(folder, f"{TEXTS}/task2/image_splits/{two}_images.txt", *names)
    for code in ("en", "de", "fr", "cs"):
        lines = [f"{one} {code} {i}" for i in range(len(names))]
        write(folder, f"{TEXTS}/task1/raw/{one}.{code}.gz", *lines)
    for number in (1, 2):
        for code in ("en", "de"):
            lines = [f"{two} {code} {i} no. {number}" for i in range(len(names))]
            if number == 2:
                lines[1] = f"{one} {code} 1"
            write(folder, f"{TEXTS}/task2/raw/{two}.{number}.{code}.gz", *lines)


@pytest.fixture
def raw(tmp_path):
    """Both projects' files in small: two photographs a split, and a third of train that is gone."""
    for one, two, names in (
        ("train", "train", ["11.jpg", "12.jpg", "13.jpg"]),
        ("val", "val", ["21.jpg", "22.jpg"]),
        ("test_2016_flickr", "test_2016", ["31.jpg", "32.jpg"]),
    ):
        write_split(tmp_path, one, two, names)
    (tmp_path / PHOTOS).mkdir()
    for name, color in (("11", "red"), ("12", "blue"), ("21", "green"), ("31", "black")):
        (tmp_path / PHOTOS / f"{name}.jpg").write_bytes(picture(color))
    return tmp_path


def items(raw, split, **options):
    units = multi30k.plan(str(raw), split, **options)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in multi30k.read(unit)]


def kept(raw, split, **options):
    return [item for item in items(raw, split, **options) if isinstance(item, Record)]


# --- which texts ----------------------------------------------------------------------------------


def test_train_has_both_tasks_without_repeats(raw):
    first, repeated_de, repeated_en, second, missing = items(raw, "train")
    assert first == Record(
        "11",
        (picture("red"),),
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
    assert repeated_de == Dropped("repeated in its record", "12.jpg, de: train de 1", text=True)
    assert repeated_en == Dropped("repeated in its record", "12.jpg, en: train en 1", text=True)
    assert second == Record(
        "12",
        (picture("blue"),),
        (
            ("cs", "train cs 1"),
            ("de", "train de 1"),
            ("en", "train en 1"),
            ("fr", "train fr 1"),
            ("de", "train de 1 no. 1"),
            ("en", "train en 1 no. 1"),
        ),
    )
    assert missing == Dropped("image missing", "13.jpg")


def test_evaluation_follows_the_protocol(raw):
    val, dropped = items(raw, "val")
    assert (val.id, val.images) == ("21", (picture("green"),))
    assert val.texts == (
        ("cs", "val cs 0"),
        ("de", "val de 0 no. 1"),
        ("en", "val en 0 no. 1"),
        ("fr", "val fr 0"),
        ("de", "val de 0 no. 2"),
        ("en", "val en 0 no. 2"),
    )
    assert dropped == Dropped("image missing", "22.jpg")
    (test,) = kept(raw, "test")
    assert test.id == "31" and test.images == (picture("black"),)
    assert test.texts[0] == ("cs", "test_2016_flickr cs 0")
    assert test.texts[1:3] == (("de", "test_2016 de 0 no. 1"), ("en", "test_2016 en 0 no. 1"))


def test_bitext_has_the_translations_and_no_images(raw):
    shutil.rmtree(raw / PHOTOS)
    found = items(raw, "bitext")
    assert [record.id for record in found] == ["11", "12", "13"]
    assert found[2] == Record(
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
def test_task_is_a_choice(raw, split, task, texts):
    record = kept(raw, split, task=task)[0]
    assert [f"{code}: {text}" for code, text in record.texts] == texts


def test_languages_are_a_choice(raw):
    assert kept(raw, "val", languages=("fr", "cs"))[0].texts == (
        ("cs", "val cs 0"),
        ("fr", "val fr 0"),
    )
    with pytest.raises(UserError, match=r"unknown language \(of val\) 'pl'; known: cs, de, en, fr"):
        items(raw, "val", languages=("pl",))


def test_more_languages_by_another_folder(raw):
    write(raw, "framed/task1/raw/train.pt", "um", "dois", "")
    write(raw, "framed/task2/raw/train.10.pt.gz", "dez", "dez", "dez")
    write(raw, "framed/task2/raw/train.2.pt", "", "dois", "")
    write(raw, "framed/task2/raw/train.3.pt.gz", "três", "três", "três")
    found = items(raw, "train", texts=(TEXTS, "framed"), languages=("pt",))
    assert found == [
        Dropped("blank text", "11.jpg, pt", text=True),
        Record("11", (picture("red"),), (("pt", "um"), ("pt", "três"), ("pt", "dez"))),
        Dropped("repeated in its record", "12.jpg, pt: dois", text=True),
        Record("12", (picture("blue"),), (("pt", "dois"), ("pt", "três"), ("pt", "dez"))),
        Dropped("image missing", "13.jpg"),
    ]
    write(raw, "framed/task1/raw/train.pt", "", "dois", "")
    first = items(raw, "bitext", texts=(TEXTS, "framed"), languages=("pt",))[1]
    assert first == Dropped("no text", "11.jpg")
    write(raw, "framed/task1/raw/train.de", "eins", "zwei", "drei")
    with pytest.raises(UserError, match=r"train\.de\.gz and .*framed.*train\.de are the same text"):
        items(raw, "train", texts=(TEXTS, "framed"))


def test_lines_end_at_line_feeds_alone_and_lose_their_blanks(raw):
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
def test_english_captions_of_flickr30k(raw, name, content):
    write(raw, name, *content)
    (record,) = kept(raw, "val", captions=name)
    assert [text for code, text in record.texts if code == "en"] == ["A dog .", "No #1,\ta cat ."]
    assert record.texts[2:4] == (("cs", "val cs 0"), ("de", "val de 0 no. 1"))
    found = items(raw, "train", captions=name, languages=("en",))
    assert found == [
        Record("11", (picture("red"),), (("en", "A red dog ."),)),
        Dropped("blank text", "12.jpg, en", text=True),
        Dropped("no text", "12.jpg"),
        Dropped("image missing", "13.jpg"),
    ]
    # Of another language they are not asked for.
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
def test_captions_that_are_none(raw, name, content, message):
    write(raw, name, *content)
    with pytest.raises(UserError, match=message):
        items(raw, "val", captions=name)


def test_captions_that_are_not_there(raw):
    with pytest.raises(UserError, match="gone.token, which the option captions asks for, is no fi"):
        items(raw, "val", captions="gone.token")


# --- photographs ----------------------------------------------------------------------------------


def test_undecodable_photographs_are_left_out(raw):
    (raw / PHOTOS / "12.jpg").write_bytes(picture("blue")[:-40])
    dropped = [item for item in items(raw, "train") if isinstance(item, Dropped) and not item.text]
    assert dropped == [
        Dropped("image does not decode", "12.jpg"),
        Dropped("image missing", "13.jpg"),
    ]


def test_several_folders_of_photographs(raw):
    (raw / "more").mkdir()
    (raw / "more" / "13.jpg").write_bytes(picture("white"))
    found = kept(raw, "train", images=("more", PHOTOS))
    assert [(record.id, record.images[0]) for record in found] == [
        ("11", picture("red")),
        ("12", picture("blue")),
        ("13", picture("white")),
    ]


def test_no_photograph_at_all_says_where_it_looked(raw):
    (raw / PHOTOS / "31.jpg").unlink()
    with pytest.raises(
        UserError, match=f"none of the 2 images of test, such as 31.jpg, is in .*/{PHOTOS}; say "
    ):
        items(raw, "test")
    shutil.rmtree(raw / PHOTOS)
    with pytest.raises(
        UserError,
        match=f"no photographs of Flickr30K in .*{PHOTOS} or .*; say with the option images",
    ):
        items(raw, "train")
    with pytest.raises(UserError, match="in [^ ]*/pics; say with the option images where"):
        items(raw, "train", images=("pics",))


def test_the_other_test_sets(raw):
    """Of task 1 alone, and only where there are photographs; COCO's have a caption's number."""
    names = ["COCO_val2014_000000398076.jpg#657409", "COCO_val2014_000000000001.jpg#7"]
    write(raw, f"{TEXTS}/task1/image_splits/test_2017_mscoco.txt", *names)
    write(raw, f"{TEXTS}/task1/raw/test_2017_mscoco.de.gz", "ein Hund", "eine Katze")
    assert multi30k.splits(str(raw)) == ("train", "bitext", "val", "test")
    with pytest.raises(UserError, match="none of the 2 images of test_2017_mscoco, such as COCO_v"):
        items(raw, "test_2017_mscoco")
    (raw / "val2014").mkdir()
    (raw / "val2014/COCO_val2014_000000398076.jpg").write_bytes(picture("red"))
    options = {"images": (PHOTOS, "val2014")}
    assert multi30k.splits(str(raw), **options)[4:] == ("test_2017_mscoco",)
    for task in ("auto", "1", "both"):
        (record,) = kept(raw, "test_2017_mscoco", task=task, **options)
        assert record == Record(
            "COCO_val2014_000000398076", (picture("red"),), (("de", "ein Hund"),)
        )
    with pytest.raises(UserError, match="no texts of task 2 for the split test_2017_mscoco"):
        items(raw, "test_2017_mscoco", task="2", **options)


# --- photographs in an archive --------------------------------------------------------------------


def pack(raw, ending=".tar.gz", extra=(), names=None):
    """Puts the folder of photographs into an archive, in the order of `names`."""
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


def by_name(found):
    return sorted(found, key=lambda item: getattr(item, "id", "") or item.what)


@pytest.mark.parametrize("ending", [".tar.gz", ".tgz", ".tar"])
def test_an_archive_gives_what_its_folder_gives(raw, ending):
    before = {split: items(raw, split) for split in ("train", "val", "test")}
    notes = [(".DS_Store", b"of macOS"), (f"{PHOTOS}/.DS_Store", b"too"), ("a.txt", b"read me")]
    pack(raw, ending, notes)
    assert multi30k.splits(str(raw)) == ("train", "bitext", "val", "test")
    for split, expected in before.items():
        assert by_name(items(raw, split)) == by_name(expected)
        if ending == ".tar":
            assert items(raw, split) == expected


def test_a_packed_archive_is_read_once_a_split(raw, monkeypatch):
    """Whatever the number of units would be: opening one again means unpacking it again."""
    monkeypatch.setattr(multi30k, "_RECORDS_PER_UNIT", 1)
    opened = []
    monkeypatch.setattr(
        archives.gzip, "open", lambda path, open=gzip.open: opened.append(str(path)) or open(path)
    )
    path = str(pack(raw))
    images = [record.id for record in kept(raw, "train")]
    assert images == ["12", "11"]  # the order of the archive
    assert opened.count(path) == 2  # what it holds, then the photographs
    assert [record.id for record in kept(raw, "val")] == ["21"]
    assert opened.count(path) == 3
    assert len(multi30k.plan(str(raw), "bitext")) == 3


def test_units_of_a_tar_part_the_lines(raw, monkeypatch):
    monkeypatch.setattr(multi30k, "_RECORDS_PER_UNIT", 2)
    pack(raw, ".tar")
    units = multi30k.plan(str(raw), "train")
    assert [[row[0] for row in unit.rows] for unit in units] == [["11.jpg", "12.jpg"], ["13.jpg"]]


def test_folders_and_archives_complete_each_other(raw):
    (raw / "more").mkdir()
    (raw / "more" / "13.jpg").write_bytes(picture("white"))
    (raw / "more" / "12.jpg").write_bytes(picture("pink"))
    archive = pack(raw).name
    assert {r.id: r.images for r in kept(raw, "train", images=("more", archive))} == {
        "11": (picture("red"),),
        "12": (picture("pink"),),
        "13": (picture("white"),),
    }
    found = kept(raw, "train", images=(archive, "more"))
    assert dict((r.id, r.images[0]) for r in found)["12"] == picture("blue")


def test_archives_of_photographs_that_are_broken(raw):
    with pytest.raises(UserError, match="in [^ ]*/gone.tar.gz; say with the option images where"):
        items(raw, "train", images=("gone.tar.gz",))
    path = pack(raw)
    whole = path.read_bytes()
    for broken in (whole[:-9], whole[: len(whole) // 2], b"", b"\x1f\x8b no gzip"):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="images.tar.gz does not unpack .*; download it again"):
            items(raw, "train")
    path.write_bytes(whole)
    with pytest.raises(UserError, match="none of the 1 images of val, such as 9.jpg, is in .*tar"):
        for name in ("task1/image_splits/val.txt", "task2/image_splits/val_images.txt"):
            write(raw, f"{TEXTS}/{name}", "9.jpg")
        items(raw, "val")
    for name, message in (
        ("../../11.jpg", r"has '\.\./\.\./11.jpg', a place outside of it"),
        ("/etc/11.jpg", "has '/etc/11.jpg', a place outside of it"),
        ("again/11.jpg", "holds 11.jpg twice"),
    ):
        (raw / PHOTOS).mkdir()
        (raw / PHOTOS / "11.jpg").write_bytes(picture("red"))
        pack(raw, extra=[(name, picture("blue"))])
        with pytest.raises(UserError, match=message):
            items(raw, "train")


# --- files that contradict each other -------------------------------------------------------------


def test_texts_of_another_length(raw):
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
def test_tasks_with_other_images(raw, names, message):
    write(raw, f"{TEXTS}/task2/image_splits/val_images.txt", *names)
    with pytest.raises(UserError, match=message):
        items(raw, "val")


@pytest.mark.parametrize(
    "names, message",
    [
        (["21.jpg", "21.jpg"], "line 2: '21.jpg' a second time"),
        (["21.jpg", ""], "line 2: '' where the file name of an image was due"),
        (["../21.jpg", "22.jpg"], "line 1: '../21.jpg' where the file name"),
        ([], "val.txt is empty"),
    ],
)
def test_lists_that_are_none(raw, names, message):
    write(raw, f"{TEXTS}/task1/image_splits/val.txt", *names)
    with pytest.raises(UserError, match=message):
        items(raw, "val")


def test_files_that_are_cut_short(raw):
    path = raw / f"{TEXTS}/task1/raw/val.cs.gz"
    whole = path.read_bytes()
    for broken in (whole[:-12], whole[:20] + b"\xff\xff" + whole[22:], b"plain text\n"):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="val.cs.gz does not unpack .*; download it again"):
            items(raw, "val")
    path.write_bytes(gzip.compress("eins\nzw\xe4i\n".encode("latin-1")))
    with pytest.raises(UserError, match=r"val.cs.gz, line 2: expected UTF-8, got b'\\xe4'"):
        items(raw, "val")


@pytest.mark.parametrize(
    "gone, message",
    [
        ("task2", "no texts of task 2 for the split {} in .*task2/raw; .* pass the option task=1"),
        ("task1/raw", "no texts of task 1 for the split {} in "),
        ("task1/image_splits", None),
        ("", "no task1 and task2 of Multi30K in .*/data or .*; say with the option texts where"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_parts_that_are_missing(raw, gone, message, split):
    shutil.rmtree(raw / TEXTS / gone)
    if message is None:
        assert len(kept(raw, split)) == {"train": 2, "val": 1}[split]  # task 2 has the list too
    else:
        with pytest.raises(UserError, match=message.format(split)):
            items(raw, split)
    if gone == "task2":
        assert len(kept(raw, split, task="1")) == {"train": 2, "val": 1}[split]


def test_no_list_of_images(raw):
    for path in (
        f"{TEXTS}/task1/image_splits/val.txt",
        f"{TEXTS}/task2/image_splits/val_images.txt",
    ):
        (raw / path).unlink()
    with pytest.raises(
        UserError, match="expected val.txt, the images of each line, in .*image_spl"
    ):
        items(raw, "val")


@pytest.mark.parametrize(
    "split, options, message",
    [
        ("tset", {}, "unknown split 'tset'; known: train, .*did you mean 'test'"),
        ("val", {"task": "3"}, "unknown task of Multi30K '3'; known: auto, 1, 2, both"),
        ("val", {"texts": ("gone",)}, "in [^ ]*/gone; say with the option texts where"),
    ],
)
def test_options_that_are_refused(raw, split, options, message):
    with pytest.raises(UserError, match=message):
        items(raw, split, **options)
    with pytest.raises(UserError, match="expected raw_dir to be a folder; None is none"):
        multi30k.plan(None, "train")


# --- as a conversion ------------------------------------------------------------------------------


def convert(raw, out, split="train", **kwargs):
    return conversion.convert(
        multi30k, "multi30k", str(raw), str(out), split, processes=1, progress=str, **kwargs
    )


def test_the_ledger_is_whole(raw, tmp_path):
    manifest = convert(raw, tmp_path / "out")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"]) == (3, 2)
    assert ledger["dropped"] == {"image missing": 1}
    assert ledger["dropped_texts"] == {"repeated in its record": 2}
    assert manifest["languages"] == {"cs": 2, "de": 5, "en": 5, "fr": 2}
    assert [record.id for record in RecordSet.open(tmp_path / "out/train")] == ["11", "12"]


def test_a_photograph_or_text_that_came_later_is_noticed(raw, tmp_path):
    convert(raw, tmp_path / "out")
    convert(raw, tmp_path / "out")  # kept
    (raw / PHOTOS / "13.jpg").write_bytes(picture("white"))
    with pytest.raises(UserError, match="another recipe"):
        convert(raw, tmp_path / "out")
    assert convert(raw, tmp_path / "out", overwrite=True)["records"] == 3
    write(raw, f"{TEXTS}/task1/raw/train.fr.gz", "un", "deux", "trois")
    with pytest.raises(UserError, match="another recipe"):
        convert(raw, tmp_path / "out")


def test_another_archive_is_noticed(raw, tmp_path):
    path = pack(raw)
    convert(raw, tmp_path / "out", "val")
    assert convert(raw, tmp_path / "out", "val")["records"] == 1  # kept
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1, mtime=1))
    with pytest.raises(UserError, match="another recipe"):
        convert(raw, tmp_path / "out", "val")


def test_units_part_the_lines(raw, monkeypatch):
    monkeypatch.setattr(multi30k, "_RECORDS_PER_UNIT", 2)
    units = multi30k.plan(str(raw), "bitext")
    found = [[record.id for record in multi30k.read(unit)] for unit in units]
    assert found == [["11", "12"], ["13"]]


def tool(folder, *arguments):
    done = subprocess.run(
        [sys.executable, os.path.join(ROOT, "tools", "convert.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tool(raw):
    arguments = ("--dataset=multi30k", f"--raw_dir={raw}", "--processes=1")
    said = tool(raw, *arguments, "--multi30k.task=1", "--multi30k.languages=en,cs")
    assert "1 records dropped: image missing (13.jpg)" in said
    sets = {split: RecordSet.open(raw / "data/multi30k" / split) for split in multi30k.SPLITS[:4]}
    assert [len(s) for s in sets.values()] == [2, 3, 1, 1]  # train, bitext, val, test
    assert next(iter(sets["val"])).texts == (("cs", "val cs 0"), ("en", "val en 0"))
    # A caption may say left or right, so mirroring is for those who ask.
    assert sets["train"].manifest["augmentations"] == ["crop"]
    tool(raw, *arguments, "--out_dir=other", "--split=val", "--augmentations=crop,flip")
    assert RecordSet.open(raw / "other/val").manifest["augmentations"] == ["crop", "flip"]


def test_the_list_says_what_to_download(tmp_path):
    said = tool(tmp_path, "--list")
    for word in ("test_2018_flickr", "https://github.com/multi30k/dataset", "flickr30k-images"):
        assert word in said


# --- the official files ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official():
    for name in ("multi30k", "flickr30k"):
        if not os.path.isdir(os.path.join(DATA, name)):
            pytest.skip(f"{os.path.join(DATA, name)} is not there")
    return DATA


def expected_texts(split, image, parts):
    """The texts of an image, read file by file: `parts` are (task, file stem, language)."""
    with open(os.path.join(DATA, f"multi30k/data/task1/image_splits/{split}.txt")) as file:
        line = file.read().split("\n").index(f"{image}.jpg")
    found = set()
    for task, stem, code in parts:
        path = os.path.join(DATA, f"multi30k/data/task{task}/raw/{stem}.{code}.gz")
        with gzip.open(path) as file:
            found.add((code, file.read().decode().split("\n")[line].strip()))
    return found


FIVE = [(2, f"val.{k}", code) for k in (1, 2, 3, 4, 5) for code in ("en", "de")]


def test_val_of_the_official_files(official):
    found = items(official, "val")
    records = {item.id: item for item in found if isinstance(item, Record)}
    assert len(records) == 242
    assert sum(item.reason == "image missing" for item in found if isinstance(item, Dropped)) == 772
    record = records["103205630"]
    assert set(record.texts) == expected_texts(
        "val", record.id, [*FIVE, (1, "val", "fr"), (1, "val", "cs")]
    )
    assert len(record.texts) == 12 and record.texts[:2] == (
        ("cs", "Dva muži rozdělávají modrý rybářský stan na zamrzlém jezeře."),
        ("de", "Zelten auf dem Eis"),
    )
    with open(os.path.join(DATA, f"flickr30k/{PHOTOS}/{record.id}.jpg"), "rb") as file:
        assert record.images == (file.read(),)


def test_train_of_the_official_files(official):
    units = multi30k.plan(official, "train")
    assert sum(len(unit.rows) for unit in units) == 29_000
    rows = {name: texts for unit in units for name, texts, _ in unit.rows}
    there = [name for name in rows if os.path.isfile(os.path.join(units[0].places[0], name))]
    assert len(there) == 6_993
    # Five captions in English and German, and a translation in each of four languages.
    assert {len(texts) for texts in rows.values()} == {14}
    assert rows["1000092795.jpg"][3:5] == (
        ("fr", "Deux jeunes hommes blancs sont dehors près de buissons."),
        ("de", "Zwei Männer betrachten etwas im Garten"),
    )
