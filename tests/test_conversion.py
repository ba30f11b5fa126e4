import json
import os
import subprocess
import sys
import threading
import time

import pytest

from tf_mural import __version__, conversion
from tf_mural.conversion import driver, process_pool, publish
from tf_mural.conversion.build_paths import Places
from tf_mural.data import records
from tf_mural.data.records import Record, RecordSet
from tf_mural.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# A data set of numbers: unit u of n holds the records u * 10 .. u * 10 + 9.
MODULE = """
import os, time
from tf_mural.base import UserError
from tf_mural.records import Dropped, Record

SPLITS = ("train", "test")
AUGMENTATIONS = ("crop",)

def plan(raw_dir, split, units=3, mode="plain"):
    return [(raw_dir, split, mode, number) for number in range(units)]

def read(unit):
    raw_dir, split, mode, number = unit
    for i in range(number * 10, number * 10 + 10):
        if mode == "user error" and i == 25:
            raise UserError("bad row 25")
        if mode == "bug" and i == 5:
            raise RuntimeError("a bug")
        if mode == "interrupt" and i == 15:
            raise KeyboardInterrupt
        if mode == "killed" and i == 5:
            os._exit(9)
        if mode == "slow" and number:
            time.sleep(0.5)
        if mode == "slow" and not number:
            raise UserError("the first unit fails while others run")
        if mode == "dropping" and i % 2:
            yield Dropped("odd", f"number {i}")
        elif mode == "nothing":
            yield Dropped("unwanted", f"number {i}")
        elif mode == "texts":
            yield {
                0: Record("0", (b"png",), (("en", "zero"), ("de", "  "))),
                1: Record("1", (b"png",), (("en", ""), ("de", "\\n"))),
                2: Record("2", (), (("en", "lone \\ud800"), ("de", "zwei"))),
                3: Record("3"),
                4: Record("4", (b"png",), (), label=4),
                5: Dropped("too long", "5, en", text=True),
            }.get(i, Record(str(i), (), (("en", "more"),)))
        else:
            yield Record(str(i), (b"i%d" % i,), (("en" if i < 10 else "de", f"{split} {i}"),))
"""


@pytest.fixture
def numbers(tmp_path, monkeypatch):
    (tmp_path / "numbers_data_set.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import numbers_data_set

    yield numbers_data_set
    del sys.modules["numbers_data_set"]


@pytest.fixture
def convert(numbers, tmp_path):
    """convert(mode=..., ...): the manifest; what it says goes to convert.said."""

    def run(out="out", split="train", units=3, mode="plain", processes=1, **kwargs):
        run.said = []
        return conversion.convert(
            numbers,
            "numbers",
            None,
            str(tmp_path / out),
            split,
            {"units": units, "mode": mode},
            processes=processes,
            progress=run.said.append,
            **kwargs,
        )

    return run


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def visible(folder):
    """What `ls` shows."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


def hidden(folder):
    return sorted(path for path in folder.iterdir() if path.suffix == ".tmp")


def test_one_shard_a_unit_in_order(convert, tmp_path):
    manifest = convert()
    opened = RecordSet.open(tmp_path / "out" / "train")
    assert [record.id for record in opened] == [str(i) for i in range(30)]
    assert [shard["records"] for shard in manifest["shards"]] == [10, 10, 10]
    assert opened.manifest == manifest
    assert manifest["languages"] == {"de": 20, "en": 10}
    assert manifest["augmentations"] == ["crop"]
    assert opened.has_language.sum(0).tolist() == [20, 10]
    assert manifest["made_by"] == {
        "dataset": "numbers",
        "split": "train",
        "options": {"mode": "plain", "units": 3},
        "augmentations": ["crop"],
        "version": __version__,
    }


def test_processes_do_not_change_a_byte(convert, tmp_path):
    convert("alone", mode="dropping")
    convert("together", mode="dropping", processes=2)
    alone, together = files_of(tmp_path / "alone/train"), files_of(tmp_path / "together/train")
    assert alone == together and len(alone) == 7


def test_ledger_adds_up(convert):
    ledger = convert(mode="dropping")["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (30, 15, {"odd": 15})
    assert ledger["examples"] == {"odd": [f"number {i}" for i in (1, 3, 5, 7, 9)]}
    assert ledger["dropped_texts"] == {}


def test_texts_that_cannot_stay(convert, tmp_path):
    ledger = convert(mode="texts", units=1)["ledger"]
    assert (ledger["read"], ledger["kept"]) == (9, 7)  # one of the ten items was a text alone
    assert ledger["dropped"] == {"neither image nor text": 1, "no text left": 1}
    assert ledger["dropped_texts"] == {
        "blank text": 3,
        "text is not valid Unicode": 1,
        "too long": 1,
    }
    assert ledger["examples"]["blank text"] == ["0, de", "1, en", "1, de"]
    zero, two, four = list(RecordSet.open(tmp_path / "out/train"))[:3]
    assert zero == Record("0", (b"png",), (("en", "zero"),))
    assert two == Record("2", (), (("de", "zwei"),))
    assert four == Record("4", (b"png",), (), label=4)


def test_same_recipe_is_kept(convert, tmp_path):
    first = convert()
    before = os.stat(tmp_path / "out/train/manifest.json").st_mtime_ns
    assert convert() == first
    assert convert.said == [f"numbers/train: already there, 30 records in {tmp_path}/out/train"]
    assert os.stat(tmp_path / "out/train/manifest.json").st_mtime_ns == before


def test_other_recipe_is_refused_unless_told(convert, tmp_path):
    convert()
    before = files_of(tmp_path / "out/train")
    with pytest.raises(UserError, match=r"another recipe \(units was 3, is now 2\); pass another"):
        convert(units=2)
    assert files_of(tmp_path / "out/train") == before
    assert convert(units=2, overwrite=True)["records"] == 20
    assert len(RecordSet.open(tmp_path / "out/train")) == 20
    assert visible(tmp_path / "out") == ["train"]


def test_other_version_of_a_data_set_is_another_recipe(convert, numbers):
    convert()
    numbers.VERSION = 2
    with pytest.raises(UserError, match="dataset_version was None, is now 2"):
        convert()


def test_changed_input_is_another_recipe(convert, numbers):
    numbers.fingerprint = lambda raw_dir, split, **options: "one"
    convert()
    convert()
    numbers.fingerprint = lambda raw_dir, split, **options: "two"
    with pytest.raises(UserError, match="input was 'one', is now 'two'"):
        convert()


def test_damaged_set_is_not_taken_for_whole(convert, tmp_path):
    convert()
    os.truncate(tmp_path / "out/train/records-00000-of-00003.tfrecord", 5)
    with pytest.raises(UserError, match="found 5"):
        convert()
    assert convert(overwrite=True)["records"] == 30
    assert convert()["records"] == 30


def test_folder_of_something_else_is_left_alone(convert, tmp_path):
    (tmp_path / "out/train").mkdir(parents=True)
    (tmp_path / "out/train/thesis.txt").write_text("dear")
    with pytest.raises(UserError, match="holds files that are no record set"):
        convert(overwrite=True)
    assert (tmp_path / "out/train/thesis.txt").read_text() == "dear"


@pytest.mark.parametrize("processes", [1, 2])
def test_error_leaves_the_old_set(convert, tmp_path, processes):
    convert()
    before = files_of(tmp_path / "out/train")
    with pytest.raises(UserError, match="^bad row 25$"):
        convert(mode="user error", overwrite=True, processes=processes)
    assert files_of(tmp_path / "out/train") == before
    assert visible(tmp_path / "out") == ["train"]


def test_interruption_leaves_nothing(convert, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        convert(mode="interrupt")
    assert visible(tmp_path / "out") == []
    with pytest.raises(UserError, match="^bad row 25$"):
        convert(mode="user error", units=30)
    assert len(hidden(tmp_path / "out")) == 1  # that of the last one alone


@pytest.mark.parametrize("processes", [1, 2])
def test_bug_is_no_user_error(convert, tmp_path, processes):
    with pytest.raises(RuntimeError, match="a bug"):
        convert(mode="bug", processes=processes)
    assert visible(tmp_path / "out") == []


def test_killed_worker_is_told(convert, tmp_path):
    with pytest.raises(process_pool.WorkerEnded, match="a worker process ended before its time"):
        convert(mode="killed", processes=2)
    assert visible(tmp_path / "out") == []


def test_failure_stops_the_other_workers(convert):
    began = time.monotonic()
    with pytest.raises(UserError, match="the first unit fails"):
        convert(mode="slow", units=30, processes=2)
    assert time.monotonic() - began < 4  # A single other unit takes 5 seconds.


def test_nothing_kept_is_an_error(convert, tmp_path):
    with pytest.raises(UserError, match=r"of 30 records read \(unwanted: 30, such as number 0\)"):
        convert(mode="nothing")
    with pytest.raises(UserError, match=r"of 0 records read \(none\)"):
        convert(units=0)
    assert visible(tmp_path / "out") == []


def test_leftovers_of_the_same_split_are_removed(convert, tmp_path):
    convert(split="test")
    for name in (".train.0123.tmp", ".train.0123.old.tmp", ".test.0123.tmp", ".train.x.tmp"):
        (tmp_path / "out" / name).mkdir()
    convert()
    assert visible(tmp_path / "out") == ["test", "train"]
    assert [path.name for path in hidden(tmp_path / "out")] == [".test.0123.tmp", ".train.x.tmp"]


def test_second_conversion_waits_and_takes_the_first(convert, tmp_path):
    (tmp_path / "out").mkdir()
    second = threading.Thread(target=convert)
    with publish.held(Places(str(tmp_path / "out"), "train", "0")):
        second.start()
        second.join(0.3)
        assert second.is_alive() and visible(tmp_path / "out") == []
    second.join(10)
    assert not second.is_alive() and visible(tmp_path / "out") == ["train"]


def test_augmentations_can_only_be_restricted(convert):
    with pytest.raises(UserError, match="does not allow the augmentation 'flip'; it allows: crop"):
        convert(augmentations=["flip"])
    assert convert(augmentations=[])["augmentations"] == []
    with pytest.raises(UserError, match="augmentations was"):
        convert()


def test_unknown_option(numbers, tmp_path):
    with pytest.raises(UserError, match="no option 'unit'; it has: units, mode; did you mean 'uni"):
        conversion.convert(numbers, "numbers", None, str(tmp_path), "train", {"unit": 3})


def test_out_dir_that_cannot_be(numbers, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="converting numbers/train to .*file.*failed"):
        conversion.convert(numbers, "numbers", None, str(tmp_path / "file" / "x"), "train")


def test_progress(convert, monkeypatch):
    monkeypatch.setattr(driver, "SECONDS_BETWEEN_LINES", 0)
    convert()
    assert [line.split(" read")[0] for line in convert.said] == [
        "numbers/train: 1 of 3 units, 10",
        "numbers/train: 2 of 3 units, 20",
        "numbers/train: 3 of 3 units, 30",
    ]
    assert convert.said[2].endswith(" a second, 0 s left")


def test_ensure_makes_what_is_missing(numbers, tmp_path, monkeypatch):
    monkeypatch.setitem(conversion.datasets.DATASETS, "numbers", numbers)
    records.write(tmp_path / "d/test", [Record("own", (), (("en", "x"),))])
    conversion.ensure("numbers", str(tmp_path / "d"), progress=lambda line: None)
    assert [record.id for record in RecordSet.open(tmp_path / "d/test")] == ["own"]
    assert len(RecordSet.open(tmp_path / "d/train")) == 30
    with pytest.raises(UserError, match="unknown data set 'nombers'"):
        conversion.ensure("nombers", str(tmp_path))


@pytest.mark.parametrize("processes", [0, -1])
def test_number_of_processes(processes):
    with pytest.raises(UserError, match="expected processes of 1 or more"):
        list(process_pool.run(len, [("a",)], processes))


def test_workers_say_which_job_is_done():
    found = dict(process_pool.run(len, [("a",), ("bb",), ("",)], processes=2))
    assert found == {0: 1, 1: 2, 2: 0}


# --- the tool -------------------------------------------------------------------------------------


def tool(*arguments, cwd):
    return subprocess.run(
        [sys.executable, os.path.join(ROOT, "tools", "convert.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def captions(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "captions.tsv").write_text("en\tde\nred\trot\nblue\t\n\t\n")
    return folder


def test_tool_converts_from_anywhere(captions, tmp_path):
    done = tool("--dataset=table", f"--raw_dir={captions}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "data/table/train"
    assert [record.texts for record in RecordSet.open(out)] == [
        (("en", "red"), ("de", "rot")),
        (("en", "blue"),),
    ]
    assert "train        2       0      3          2        1" in done.stdout
    assert "1 records dropped: blank row (line 4)" in done.stdout
    assert json.loads((out / "manifest.json").read_text())["ledger"]["dropped"] == {"blank row": 1}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--datset=table"], "no flag --datset; did you mean 'dataset'?"),
        (["--dataset=tabel"], "unknown data set 'tabel'; known: scenes, table, "),
        ([], "say which data set with --dataset"),
        (["--dataset=table", "--table.fil=x"], "did you mean 'table.file'?"),
        (["--dataset=scenes", "--table.file=x"], "--table.file is an option of table"),
        (["--dataset=table", "--raw_dir=nowhere"], "'nowhere' does not exist"),
        (["--dataset=table", "extra"], "unexpected argument 'extra'"),
        (["--dataset=scenes", "--scenes.count=many"], "many"),
    ],
)
def test_tool_refuses_in_one_line(tmp_path, arguments, message):
    done = tool(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_tool_lists_and_helps(tmp_path):
    listed = tool("--list", cwd=tmp_path)
    assert listed.returncode == 0 and "scenes" in listed.stdout and "table" in listed.stdout
    helped = tool("--help", cwd=tmp_path)
    assert helped.returncode == 0
    assert "--table.image_column: column of the image paths" in helped.stdout


def test_tool_trains_a_vocabulary(captions, tmp_path):
    arguments = ["--dataset=table", f"--raw_dir={captions}", "--out_dir=out", "--vocab_size=200"]
    done = tool(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    pieces = (tmp_path / "out/vocab.txt").read_text().split("\n")
    assert "[CLS]" in pieces and "r" in pieces  # "red" and "rot" share their first letter
    kept = (tmp_path / "out/vocab.txt").stat()
    done = tool(*arguments, cwd=tmp_path)
    told = f"already there, {len(pieces) - 1} pieces in out/vocab.txt (remove it to train another)"
    assert told in done.stdout
    done = tool(*arguments, "--overwrite", cwd=tmp_path)  # which is of the record sets
    assert told in done.stdout and (tmp_path / "out/vocab.txt").stat() == kept


def test_tool_needs_texts_for_a_vocabulary(captions, tmp_path):
    arguments = ["--dataset=table", f"--raw_dir={captions}", "--out_dir=out", "--split=val"]
    done = tool(*arguments, "--vocab_size=200", cwd=tmp_path)
    assert done.returncode == 2 and "out/train" in done.stderr
    assert not (tmp_path / "out").exists()
    done = tool(*arguments, "--vocab_size=9", cwd=tmp_path)
    assert done.returncode == 2 and "--vocab_size=9" in done.stderr
