"""Converts a data set in one run: records, ledger, recipes, errors, locks and progress."""

import os
import shutil
import sys
import threading
import time

import pytest
from helpers.corpus import build_folders, read_files, visible_names

from tf_mural import __version__, conversion
from tf_mural.conversion import driver, executors, publish
from tf_mural.data import records
from tf_mural.data.records import Record, RecordSet
from tf_mural.errors import UserError

# The module of a data set of numbers: unit u consists of the records 10 u to 10 u + 9.
MODULE = """
import os, time
from tf_mural.data.records import Record, Skipped
from tf_mural.errors import UserError

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
        if mode == "skip odd" and i % 2:
            yield Skipped("odd", f"number {i}")
        elif mode == "skip all":
            yield Skipped("unwanted", f"number {i}")
        elif mode == "texts":
            yield {
                0: Record("0", (b"png",), (("en", "zero"), ("de", "  "))),
                1: Record("1", (b"png",), (("en", ""), ("de", "\\n"))),
                2: Record("2", (), (("en", "lone \\ud800"), ("de", "zwei"))),
                3: Record("3"),
                4: Record("4", (b"png",), (), label=4),
                5: Skipped("too long", "5, en", text_only=True),
            }.get(i, Record(str(i), (), (("en", "more"),)))
        else:
            yield Record(str(i), (b"i%d" % i,), (("en" if i < 10 else "de", f"{split} {i}"),))
"""


@pytest.fixture
def numbers(tmp_path, monkeypatch):
    """The module `numbers_data_set`, which contains `MODULE`."""
    (tmp_path / "numbers_data_set.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import numbers_data_set

    yield numbers_data_set
    del sys.modules["numbers_data_set"]


@pytest.fixture
def convert(numbers, tmp_path):
    """A function that converts numbers and returns the manifest; its `lines` are progress lines."""

    def run(out="out", split="train", units=3, mode="plain", processes=1, **kwargs):
        run.lines = []
        return conversion.convert(
            numbers,
            "numbers",
            None,
            str(tmp_path / out),
            split,
            {"units": units, "mode": mode},
            processes=processes,
            progress=run.lines.append,
            **kwargs,
        )

    return run


# --- records and ledger ---------------------------------------------------------------------------


def test_each_unit_becomes_one_shard_in_order(convert, tmp_path):
    manifest = convert()
    record_set = RecordSet.open(tmp_path / "out" / "train")
    assert [record.id for record in record_set] == [str(i) for i in range(30)]
    assert [shard["records"] for shard in manifest["shards"]] == [10, 10, 10]
    assert record_set.manifest == manifest
    assert manifest["languages"] == {"de": 20, "en": 10}
    assert manifest["augmentations"] == ["crop"]
    assert record_set.has_language.sum(0).tolist() == [20, 10]
    assert manifest["made_by"] == {
        "dataset": "numbers",
        "split": "train",
        "options": {"mode": "plain", "units": 3},
        "augmentations": ["crop"],
        "version": __version__,
    }


def test_the_number_of_processes_does_not_change_a_byte(convert, tmp_path):
    convert("one", mode="skip odd")
    convert("two", mode="skip odd", processes=2)
    one, two = read_files(tmp_path / "one/train"), read_files(tmp_path / "two/train")
    assert one == two and len(one) == 8


def test_ledger_counts_skipped_records_with_examples(convert):
    ledger = convert(mode="skip odd")["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (30, 15, {"odd": 15})
    assert ledger["examples"] == {"odd": [f"number {i}" for i in (1, 3, 5, 7, 9)]}
    assert ledger["dropped_texts"] == {}


def test_invalid_texts_are_dropped_and_counted(convert, tmp_path):
    ledger = convert(mode="texts", units=1)["ledger"]
    # One of the ten items is a skipped text, which does not count as a record.
    assert (ledger["read"], ledger["kept"]) == (9, 7)
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


def test_conversion_without_kept_records_is_an_error(convert, tmp_path):
    with pytest.raises(UserError, match=r"of 30 records read \(unwanted: 30, such as number 0\)"):
        convert(mode="skip all")
    with pytest.raises(UserError, match=r"of 0 records read \(none\)"):
        convert(units=0)
    assert visible_names(tmp_path / "out") == []


# --- existing record sets -------------------------------------------------------------------------


def test_a_set_of_the_same_recipe_is_kept(convert, tmp_path):
    first = convert()
    before = os.stat(tmp_path / "out/train/manifest.json").st_mtime_ns
    assert convert() == first
    assert convert.lines == [f"numbers/train: already there, 30 records in {tmp_path}/out/train"]
    assert os.stat(tmp_path / "out/train/manifest.json").st_mtime_ns == before


def test_a_set_of_another_recipe_is_replaced_only_with_overwrite(convert, tmp_path):
    convert()
    before = read_files(tmp_path / "out/train")
    with pytest.raises(UserError, match=r"another recipe \(units was 3, is now 2\); pass another"):
        convert(units=2)
    assert read_files(tmp_path / "out/train") == before
    assert convert(units=2, overwrite=True)["records"] == 20
    assert len(RecordSet.open(tmp_path / "out/train")) == 20
    assert visible_names(tmp_path / "out") == ["train"]


def test_another_version_of_a_data_set_is_another_recipe(convert, numbers):
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


def test_a_damaged_set_is_not_kept(convert, tmp_path):
    convert()
    os.truncate(tmp_path / "out/train/records-00000-of-00003.tfrecord", 5)
    with pytest.raises(UserError, match="expected [0-9]+ bytes, got 5"):
        convert()
    assert convert(overwrite=True)["records"] == 30
    assert convert()["records"] == 30


def test_a_folder_with_other_files_is_not_replaced(convert, tmp_path):
    (tmp_path / "out/train").mkdir(parents=True)
    (tmp_path / "out/train/thesis.txt").write_text("dear")
    with pytest.raises(UserError, match="holds files that are no record set"):
        convert(overwrite=True)
    assert (tmp_path / "out/train/thesis.txt").read_text() == "dear"


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
def test_a_user_error_leaves_the_old_set(convert, tmp_path, processes):
    convert()
    before = read_files(tmp_path / "out/train")
    with pytest.raises(UserError, match="^bad row 25$"):
        convert(mode="user error", overwrite=True, processes=processes)
    assert read_files(tmp_path / "out/train") == before
    assert visible_names(tmp_path / "out") == ["train"]


def test_an_interruption_leaves_no_set(convert, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        convert(mode="interrupt")
    assert visible_names(tmp_path / "out") == []
    with pytest.raises(UserError, match="^bad row 25$"):
        convert(mode="user error", units=30)
    assert len(build_folders(tmp_path / "out")) == 1  # the build folder of the last conversion


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bug_is_not_a_user_error(convert, tmp_path, processes):
    with pytest.raises(RuntimeError, match="a bug"):
        convert(mode="bug", processes=processes)
    assert visible_names(tmp_path / "out") == []


def test_a_killed_worker_raises_worker_died_error(convert, tmp_path):
    with pytest.raises(executors.WorkerDiedError, match="a worker process ended early"):
        convert(mode="killed", processes=2)
    assert visible_names(tmp_path / "out") == []


def test_a_failure_stops_the_other_workers(convert):
    start = time.monotonic()
    with pytest.raises(UserError, match="the first unit fails"):
        convert(mode="slow", units=30, processes=2)
    assert time.monotonic() - start < 4  # All units except the first take 5 s.


def test_augmentations_can_only_be_restricted(convert):
    with pytest.raises(UserError, match="does not allow the augmentation 'flip'; it allows: crop"):
        convert(augmentations=["flip"])
    assert convert(augmentations=[])["augmentations"] == []
    with pytest.raises(UserError, match="augmentations was"):
        convert()


def test_an_unknown_option_is_refused(numbers, tmp_path):
    with pytest.raises(UserError, match="no option 'unit'; it has: units, mode; did you mean 'uni"):
        conversion.convert(numbers, "numbers", None, str(tmp_path), "train", {"unit": 3})


def test_an_out_dir_below_a_file_is_refused(numbers, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="converting numbers/train to .*file.*failed"):
        conversion.convert(numbers, "numbers", None, str(tmp_path / "file" / "x"), "train")


# --- build folders and locks ----------------------------------------------------------------------


def test_build_folders_of_the_same_split_are_removed(convert, tmp_path):
    convert(split="test")
    for name in (".train.0123.tmp", ".train.0123.old.tmp", ".test.0123.tmp", ".train.x.tmp"):
        (tmp_path / "out" / name).mkdir()
    convert()
    assert visible_names(tmp_path / "out") == ["test", "train"]
    folders = [path.name for path in build_folders(tmp_path / "out")]
    assert folders == [".test.0123.tmp", ".train.x.tmp"]


def test_a_second_conversion_waits_and_keeps_the_set_of_the_first(convert, tmp_path):
    (tmp_path / "out").mkdir()
    second = threading.Thread(target=convert)
    with publish.exclusive(publish.BuildPaths(str(tmp_path / "out"), "train", "0")):
        second.start()
        second.join(0.3)
        assert second.is_alive() and visible_names(tmp_path / "out") == []
    second.join(10)
    assert not second.is_alive() and visible_names(tmp_path / "out") == ["train"]


def test_a_waiting_conversion_continues_when_its_lock_file_is_removed(tmp_path):
    path = tmp_path / "work" / "part-0-of-1.lock"
    path.parent.mkdir()
    finished = threading.Event()

    def wait():
        with publish.lock(str(path)):
            finished.set()

    second = threading.Thread(target=wait)
    with publish.lock(str(path)):
        second.start()
        second.join(0.3)
        assert second.is_alive() and not finished.is_set()
        shutil.rmtree(path.parent)  # The first conversion has completed the record set.
    second.join(10)
    assert finished.is_set()


# --- progress, ensure, processes ------------------------------------------------------------------


def test_progress_lines_count_units_and_records(convert, monkeypatch):
    monkeypatch.setattr(driver, "SECONDS_BETWEEN_LINES", 0)
    convert()
    assert [line.split(" read")[0] for line in convert.lines] == [
        "numbers/train: 1 of 3 units, 10",
        "numbers/train: 2 of 3 units, 20",
        "numbers/train: 3 of 3 units, 30",
    ]
    assert convert.lines[2].endswith(" a second, 0 s left")


def test_ensure_converts_only_missing_splits(numbers, tmp_path, monkeypatch):
    monkeypatch.setitem(driver.datasets.DATASETS, "numbers", numbers)
    records.write(tmp_path / "d/test", [Record("own", (), (("en", "x"),))])
    conversion.ensure("numbers", str(tmp_path / "d"), progress=lambda line: None)
    assert [record.id for record in RecordSet.open(tmp_path / "d/test")] == ["own"]
    assert len(RecordSet.open(tmp_path / "d/train")) == 30
    with pytest.raises(UserError, match="unknown data set 'nombers'"):
        conversion.ensure("nombers", str(tmp_path))


@pytest.mark.parametrize("processes", [0, -1])
def test_fewer_than_one_process_is_refused(processes):
    with pytest.raises(UserError, match="expected processes of 1 or more"):
        list(executors.run_in_processes(len, [("a",)], processes))


def test_processes_return_each_result_with_the_number_of_its_job():
    results = dict(executors.run_in_processes(len, [("a",), ("bb",), ("",)], processes=2))
    assert results == {0: 1, 1: 2, 2: 0}
