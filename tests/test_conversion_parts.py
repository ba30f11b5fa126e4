"""Interrupted conversions and conversions in parts give the same record set as one run."""

import os
import subprocess
import threading
import time

import pytest
from helpers.corpus import CorpusConverter, build_folders, read_files, visible_names

from tf_mural import conversion
from tf_mural.conversion import publish
from tf_mural.conversion import units as unit_jobs
from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.errors import UserError

FILTERS = dict(deduplicate=("exact",), images_per_text=3, shard_records=2)


@pytest.fixture
def corpus(tmp_path):
    return CorpusConverter(tmp_path)


def make_units(count=5):
    """Returns units; each text occurs in 3 units, each image in 4, and one record in all units."""
    return [
        [
            Record("same", (b"same",), (("en", "same"),)),
            Skipped("odd", f"unit {unit}"),
            *(
                Record(f"{unit}.{i}", (b"%d" % ((unit + i) % 4),), (("en", f"{(unit * i) % 3}"),))
                for i in range(1 + unit)
            ),
            Record(f"{unit}.x", (b"%d" % unit,), (("de", f"own {unit}"),)),
        ]
        for unit in range(count)
    ]


def build_folder(folder):
    """Returns the only unfinished record set in a folder."""
    (path,) = build_folders(folder)
    return path


@pytest.fixture
def expected_files(corpus, tmp_path):
    """The files of a record set that a single run writes; every kind of filter drops records."""
    manifest = corpus.convert(make_units(), "one run", **FILTERS)
    ledger = manifest["ledger"]
    assert len(manifest["shards"]) == 7 and ledger["dropped"]["exact duplicate"] == 5
    assert ledger["dropped_texts"] == {"text of more than 3 images": 9}
    return read_files(tmp_path / "one run/train")


def test_shards_have_at_most_shard_records_records(corpus):
    manifest = corpus.convert([make_units(4)[3], [], make_units(4)[0]], shard_records=3)
    assert [shard["records"] for shard in manifest["shards"]] == [3, 3, 0, 3]
    assert manifest["shards"][1]["file"] == "records-00001-of-00004.tfrecord"
    ids = [record.id for record in corpus.records()]
    assert ids == ["same", "3.0", "3.1", "3.2", "3.3", "3.x", "same", "0.0", "0.x"]


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("filters", [{}, FILTERS])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_give_the_set_of_one_run(corpus, tmp_path, filters, order):
    corpus.convert(make_units(), "one run", **filters)
    rounds = 2 if filters else 1
    for _ in range(rounds):
        for number in order:
            manifest = corpus.convert(make_units(), "parts", part=(number, 3), **filters)
            if manifest is None:
                assert visible_names(tmp_path / "parts") == []
    assert manifest["records"] == len(corpus.records("one run"))
    assert read_files(tmp_path / "parts/train") == read_files(tmp_path / "one run/train")
    assert build_folders(tmp_path / "parts") == []


def test_a_part_names_the_parts_that_must_run_first(corpus):
    assert corpus.convert(make_units(), part=(1, 3), **FILTERS) is None
    assert corpus.lines[-1] == (
        "corpus/train: part 1 of 3 has finished pass 1, but the parts 0, 2 of 3 have not; "
        "run those parts, then this one again"
    )
    assert corpus.convert(make_units(), part=(0, 3), **FILTERS) is None
    assert "but the parts 2 of 3 have not" in corpus.lines[-1]
    assert corpus.convert(make_units(), part=(2, 3), **FILTERS) is None
    assert corpus.lines[-1] == "corpus/train: part 2 of 3 is done; still to run: 0, 1 of 3"


def test_a_finished_part_is_not_converted_again(corpus):
    corpus.convert(make_units(), part=(1, 3))
    assert corpus.units_read == [1, 4]
    corpus.convert(make_units(), part=(1, 3))
    assert corpus.units_read == [] and "2 of 2 units were done before" in corpus.lines[0]
    # A finished unit is reused even if the number of parts has changed.
    corpus.convert(make_units(), part=(0, 2))
    assert corpus.units_read == [0, 2]


def test_parts_run_at_the_same_time(corpus, expected_files):
    corpus.units, read = make_units(), corpus.module.read
    barrier = threading.Barrier(2, timeout=20)

    def read_after_barrier(number):
        if number < 2:  # The first unit of each part waits for the other part.
            barrier.wait()
        yield from read(number)

    corpus.module.read = read_after_barrier
    parts = [
        threading.Thread(target=corpus.convert, args=(make_units(),), kwargs={"part": (number, 2)})
        for number in range(2)
    ]
    for part in parts:
        part.start()
    for part in parts:
        part.join(30)
    assert not barrier.broken and len(corpus.records()) == sum(map(len, make_units())) - 5


def test_the_last_part_publishes_the_set_once(corpus, tmp_path):
    corpus.convert(make_units(), part=(0, 2))
    folder = build_folder(tmp_path / "out")
    corpus.convert(make_units(), part=(1, 2))
    assert not folder.exists() and len(corpus.records()) > 0
    assert corpus.convert(make_units(), part=(1, 2)) == corpus.convert(make_units())
    assert corpus.units_read == [] and "already there" in corpus.lines[0]


def test_an_invalid_part_is_refused(corpus):
    with pytest.raises(UserError, match="expected a part from 0 to 2 of 3, got 3"):
        corpus.convert(make_units(), part=(3, 3))


# --- interruptions --------------------------------------------------------------------------------


@pytest.mark.parametrize("filters", [{}, FILTERS])
def test_an_interrupted_run_continues(corpus, tmp_path, filters):
    corpus.convert(make_units(), "one run", **filters)
    interrupted = make_units()
    interrupted[3].insert(2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        corpus.convert(interrupted, **filters)
    assert "units are kept in" in corpus.lines[-1] and corpus.units_read == [0, 1, 2, 3]
    assert visible_names(tmp_path / "out") == []
    corpus.convert(make_units(), **filters)
    assert corpus.units_read == [3, 4, 0, 1, 2, 3, 4] if filters else [3, 4]
    assert "3 of 5 units were done before" in corpus.lines[0]
    assert read_files(tmp_path / "out/train") == read_files(tmp_path / "one run/train")


@pytest.mark.parametrize("function", ["rename", "rmtree", "remove", "replace"])
def test_a_run_that_dies_at_any_file_operation_continues(
    corpus, tmp_path, expected_files, function, monkeypatch
):
    """The first run dies at the first call, the second run at the second call, and so on."""

    class Died(BaseException):
        pass

    module = publish.shutil if function == "rmtree" else os
    original = getattr(module, function)
    remaining_calls = [0]

    def die_after_calls(*arguments, **options):
        if not remaining_calls[0]:
            raise Died
        remaining_calls[0] -= 1
        return original(*arguments, **options)

    for calls in range(100):
        remaining_calls[0] = calls
        monkeypatch.setattr(module, function, die_after_calls)
        # A killed process does not clean up.
        monkeypatch.setattr(publish, "cleanup_failed", lambda *_: None)
        try:
            corpus.convert(make_units(), f"out{calls}", **FILTERS)
            break
        except Died:
            monkeypatch.setattr(module, function, original)
            corpus.convert(make_units(), f"out{calls}", **FILTERS)
        finally:
            monkeypatch.setattr(module, function, original)
        assert read_files(tmp_path / f"out{calls}/train") == expected_files
        assert not list((tmp_path / f"out{calls}").glob(".*tmp"))
    assert 1 < calls < 99


def test_partial_files_are_removed_at_the_next_start(corpus, tmp_path):
    corpus.convert(make_units(), part=(0, 2))
    folder = build_folder(tmp_path / "out")
    for path in (folder / "unit-1.tfrecord.0.tmp", folder / "work" / "result.npz.1.tmp"):
        path.write_bytes(b"half")
    corpus.convert(make_units(), part=(0, 2))
    assert not list(folder.glob("**/*.0.tmp")) and not list(folder.glob("**/*.1.tmp"))


def test_a_truncated_shard_is_an_error(corpus, tmp_path):
    corpus.convert(make_units(), part=(0, 2))
    shard = build_folder(tmp_path / "out") / "unit-00002-00000.tfrecord"
    os.truncate(shard, 10)
    with pytest.raises(UserError, match=r"missing or not of \d+ bytes; remove .*out/\.train"):
        corpus.convert(make_units(), part=(1, 2))
    assert visible_names(tmp_path / "out") == []


def test_units_of_another_recipe_are_not_reused(corpus, tmp_path):
    corpus.convert(make_units(), part=(0, 2), min_words=1)
    corpus.convert(make_units(), min_words=2)
    assert corpus.units_read == [0, 1, 2, 3, 4]
    assert not list((tmp_path / "out").glob(".*tmp"))


def test_the_old_set_stays_until_the_new_one_is_complete(corpus, tmp_path):
    corpus.convert(make_units(2))
    before = read_files(tmp_path / "out/train")
    assert corpus.convert(make_units(), part=(0, 2), overwrite=True, min_words=1) is None
    assert read_files(tmp_path / "out/train") == before
    manifest = corpus.convert(make_units(), part=(1, 2), overwrite=True, min_words=1)
    assert read_files(tmp_path / "out/train") != before
    assert RecordSet.open(tmp_path / "out/train").manifest == manifest


def test_jobs_return_only_the_number_of_records_read(corpus, monkeypatch):
    """Jobs exchange arrays through files, because executors should transfer little data."""
    returned = []
    write_unit = unit_jobs.write_unit
    monkeypatch.setattr(
        unit_jobs, "write_unit", lambda *args: returned.append(write_unit(*args)) or returned[-1]
    )
    corpus.convert(make_units())
    assert returned == [4, 5, 6, 7, 8]


# --- full disks, folders without permission, workers that do not return ---------------------------


def test_a_full_disk_is_a_user_error_and_finished_units_are_kept(corpus, tmp_path):
    (tmp_path / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path / "small")]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        images = [os.urandom(200_000) for _ in range(10)]
        units = [[Record(str(i), (image,), (("en", "x"),))] for i, image in enumerate(images)]
        with pytest.raises(UserError, match="converting corpus/train to .*small.*No space left"):
            corpus.convert(units, "small")
        assert visible_names(tmp_path / "small") == []
        assert not list((tmp_path / "small").glob(".*/*.tmp"))
        assert corpus.units_read[-1] in (4, 5)
        assert "finished units are kept in" in corpus.lines[-1]
        subprocess.run([*mount[:4], "remount,size=4m", *mount[5:]], check=True)
        assert corpus.convert(units, "small")["records"] == 10
        assert corpus.units_read[0] in (4, 5)
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)


def test_an_out_dir_without_write_permission_is_a_user_error(corpus, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    if os.access(tmp_path / "out", os.W_OK):
        (tmp_path / "out").rmdir()
        (tmp_path / "out").symlink_to("/proc/self")  # Not even root may write to this folder.
    with pytest.raises(UserError, match="converting corpus/train to .* failed"):
        corpus.convert(make_units())


def test_raw_data_without_read_permission_are_a_user_error(corpus):
    def plan(raw_dir, split):
        raise PermissionError(13, "Permission denied", "raw/captions.tsv")

    corpus.module.plan = plan
    with pytest.raises(
        UserError, match="corpus/train: the raw data cannot be read: .*captions.tsv"
    ):
        corpus.convert(make_units())


ENDLESS = """
AUGMENTATIONS = ()

def plan(raw_dir, split):
    return [0, 1, 2]

def read(unit):
    if unit == 0:
        raise RuntimeError("stop")
    while True:  # simulates input without any record
        sum(range(10_000))
    yield
"""


def test_workers_that_yield_no_record_stop_at_once(tmp_path, monkeypatch):
    (tmp_path / "endless_data_set.py").write_text(ENDLESS)
    monkeypatch.syspath_prepend(tmp_path)
    import endless_data_set

    start = time.monotonic()
    with pytest.raises(RuntimeError, match="stop"):
        conversion.convert(
            endless_data_set, "endless", None, tmp_path / "out", "train", processes=2, progress=str
        )
    assert time.monotonic() - start < 10
