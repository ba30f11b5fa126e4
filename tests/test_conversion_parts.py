"""Conversions that stop and go on, and conversions in parts: the same set whatever happens."""

import os
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT
from corpora import Corpus, encoded, picture

from tf_mural.conversion import publish
from tf_mural.conversion import units as jobs
from tf_mural.data.records import Dropped, Record, RecordSet
from tf_mural.errors import UserError

STEPS = dict(deduplicate=("exact",), images_per_text=3, shard_records=2)


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


def some_units(count=5):
    """Each text in three units, each image in four, and one record in all of them."""
    return [
        [
            Record("same", (b"same",), (("en", "same"),)),
            Dropped("odd", f"unit {unit}"),
            *(
                Record(f"{unit}.{i}", (b"%d" % ((unit + i) % 4),), (("en", f"{(unit * i) % 3}"),))
                for i in range(1 + unit)
            ),
            Record(f"{unit}.x", (b"%d" % unit,), (("de", f"own {unit}"),)),
        ]
        for unit in range(count)
    ]


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def shown(folder):
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


def only_hidden(folder):
    (found,) = (path for path in folder.iterdir() if path.suffix == ".tmp")
    return found


@pytest.fixture
def whole(corpus, tmp_path):
    """Files of the set that one run gives, with all that can differ in it."""
    manifest = corpus.convert(some_units(), "whole", **STEPS)
    ledger = manifest["ledger"]
    assert len(manifest["shards"]) == 7 and ledger["dropped"]["exact duplicate"] == 5
    assert ledger["dropped_texts"] == {"text of more than 3 images": 9}
    return files_of(tmp_path / "whole/train")


def test_shards_are_cut_to_a_size(corpus):
    manifest = corpus.convert([some_units(4)[3], [], some_units(4)[0]], shard_records=3)
    assert [shard["records"] for shard in manifest["shards"]] == [3, 3, 0, 3]
    assert manifest["shards"][1]["file"] == "records-00001-of-00004.tfrecord"
    ids = [record.id for record in corpus.records()]
    assert ids == ["same", "3.0", "3.1", "3.2", "3.3", "3.x", "same", "0.0", "0.x"]


@pytest.mark.parametrize("steps", [{}, STEPS])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_give_the_set_of_one_run(corpus, tmp_path, steps, order):
    corpus.convert(some_units(), "whole", **steps)
    rounds = 2 if steps else 1
    for _ in range(rounds):
        for number in order:
            made = corpus.convert(some_units(), "parts", part=(number, 3), **steps)
            if made is None:
                assert shown(tmp_path / "parts") == []
    assert made["records"] == len(corpus.records("whole"))
    assert files_of(tmp_path / "parts/train") == files_of(tmp_path / "whole/train")
    assert [p.name for p in (tmp_path / "parts").iterdir() if p.suffix == ".tmp"] == []


def test_a_part_that_waits_for_others_says_for_which(corpus):
    assert corpus.convert(some_units(), part=(1, 3), **STEPS) is None
    assert corpus.said[-1] == (
        "corpus/train: pass 1 is done of part 1 of 3, but not yet of the parts 0, 2 of 3; "
        "run those, then this one again"
    )
    assert corpus.convert(some_units(), part=(0, 3), **STEPS) is None
    assert "of the parts 2 of 3" in corpus.said[-1]
    assert corpus.convert(some_units(), part=(2, 3), **STEPS) is None  # All are through pass 1.
    assert corpus.said[-1] == (
        "corpus/train: part 2 of 3 is done; to be done are the parts 0, 1 of 3"
    )


def test_a_finished_part_is_not_done_again(corpus):
    corpus.convert(some_units(), part=(1, 3))
    assert corpus.read == [1, 4]
    corpus.convert(some_units(), part=(1, 3))
    assert corpus.read == [] and "2 of 2 units were done before" in corpus.said[0]
    corpus.convert(some_units(), part=(0, 2))  # Another division goes on from there.
    assert corpus.read == [0, 2]


def test_parts_run_at_once(corpus, tmp_path, whole):
    (tmp_path / "out").mkdir()
    corpus.units, read = some_units(), corpus.module.read
    meeting = threading.Barrier(2, timeout=20)

    def meet(number):
        if number < 2:  # The first unit of either part waits for that of the other.
            meeting.wait()
        yield from read(number)

    corpus.module.read = meet
    parts = [
        threading.Thread(target=Corpus.convert, args=(corpus, some_units()), kwargs=how)
        for how in ({"part": (0, 2)}, {"part": (1, 2)})
    ]
    for part in parts:
        part.start()
    for part in parts:
        part.join(30)
    assert not meeting.broken and len(corpus.records()) == sum(map(len, some_units())) - 5


def test_parts_that_end_at_once_make_one_set(corpus, tmp_path):
    corpus.convert(some_units(), part=(0, 2))
    places = only_hidden(tmp_path / "out")
    corpus.convert(some_units(), part=(1, 2))
    assert not places.exists() and len(corpus.records()) > 0
    assert corpus.convert(some_units(), part=(1, 2)) == corpus.convert(some_units())
    assert corpus.read == [] and "already there" in corpus.said[0]


def test_parts_that_cannot_be(corpus):
    with pytest.raises(UserError, match="expected a part from 0 to 2 of 3, got 3"):
        corpus.convert(some_units(), part=(3, 3))


@pytest.mark.parametrize("steps", [{}, STEPS])
def test_an_interrupted_run_goes_on(corpus, tmp_path, steps):
    corpus.convert(some_units(), "whole", **steps)
    stopping = some_units()
    stopping[3].insert(2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        corpus.convert(stopping, **steps)
    assert "units are kept in" in corpus.said[-1] and corpus.read == [0, 1, 2, 3]
    assert shown(tmp_path / "out") == []
    corpus.convert(some_units(), **steps)
    assert corpus.read == [3, 4, 0, 1, 2, 3, 4] if steps else [3, 4]
    assert "3 of 5 units were done before" in corpus.said[0]
    assert files_of(tmp_path / "out/train") == files_of(tmp_path / "whole/train")


@pytest.mark.parametrize("at", ["rename", "rmtree", "remove", "replace"])
def test_a_run_that_dies_anywhere_goes_on(corpus, tmp_path, whole, at, monkeypatch):
    """Dies at the first, second, ... time that it renames or removes a file."""

    class Dies(BaseException):
        pass

    owner = publish.shutil if at == "rmtree" else os
    real = getattr(owner, at)
    left = []

    def dying(*arguments, **more):
        if not left:
            raise Dies
        left.pop()
        return real(*arguments, **more)

    for times in range(100):
        left[:] = [None] * times
        monkeypatch.setattr(owner, at, dying)
        monkeypatch.setattr(publish, "discard_or_keep", lambda *_: None)  # as after a SIGKILL
        try:
            corpus.convert(some_units(), f"out{times}", **STEPS)
            break
        except Dies:
            monkeypatch.setattr(owner, at, real)
            corpus.convert(some_units(), f"out{times}", **STEPS)
        finally:
            monkeypatch.setattr(owner, at, real)
        assert files_of(tmp_path / f"out{times}/train") == whole
        assert not list((tmp_path / f"out{times}").glob(".*tmp"))
    assert 1 < times < 99


def test_half_written_files_are_removed_at_the_next_start(corpus, tmp_path):
    corpus.convert(some_units(), part=(0, 2))
    hidden = only_hidden(tmp_path / "out")
    for path in (hidden / "unit-1.tfrecord.0.tmp", hidden / "work" / "outcome.npz.1.tmp"):
        path.write_bytes(b"half")
    corpus.convert(some_units(), part=(0, 2))
    assert not list(hidden.glob("**/*.0.tmp")) and not list(hidden.glob("**/*.1.tmp"))


def test_a_shard_that_was_cut_is_told(corpus, tmp_path):
    corpus.convert(some_units(), part=(0, 2))
    shard = only_hidden(tmp_path / "out") / "unit-00002-00000.tfrecord"
    os.truncate(shard, 10)
    with pytest.raises(UserError, match=r"missing or not of \d+ bytes; remove .*out/\.train"):
        corpus.convert(some_units(), part=(1, 2))
    assert shown(tmp_path / "out") == []


def test_units_of_another_recipe_are_not_taken(corpus, tmp_path):
    corpus.convert(some_units(), part=(0, 2), min_words=1)
    corpus.convert(some_units(), min_words=2)
    assert corpus.read == [0, 1, 2, 3, 4]
    assert not list((tmp_path / "out").glob(".*tmp"))


def test_an_old_set_stays_until_the_new_one_is_whole(corpus, tmp_path):
    corpus.convert(some_units(2))
    before = files_of(tmp_path / "out/train")
    assert corpus.convert(some_units(), part=(0, 2), overwrite=True, min_words=1) is None
    assert files_of(tmp_path / "out/train") == before
    made = corpus.convert(some_units(), part=(1, 2), overwrite=True, min_words=1)
    assert files_of(tmp_path / "out/train") != before
    assert RecordSet.open(tmp_path / "out/train").manifest == made


def test_outcomes_are_small_for_whoever_runs_the_jobs(corpus, tmp_path):
    """Jobs return numbers; arrays go through files."""
    found = []
    write = jobs.write_unit
    jobs.write_unit = lambda *args: found.append(write(*args)) or found[-1]
    try:
        corpus.convert(some_units())
    finally:
        jobs.write_unit = write
    assert found == [4, 5, 6, 7, 8]


# --- full disks, killed workers, folders that cannot be written -----------------------------------


def test_a_full_disk(corpus, tmp_path):
    (tmp_path / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path / "small")]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root")
    try:
        images = [os.urandom(200_000) for _ in range(10)]
        units = [[Record(str(i), (image,), (("en", "x"),))] for i, image in enumerate(images)]
        with pytest.raises(UserError, match="converting corpus/train to .*small.*No space left"):
            corpus.convert(units, "small")
        assert shown(tmp_path / "small") == []
        assert not list((tmp_path / "small").glob(".*/*.tmp"))
        assert corpus.read[-1] in (4, 5) and "finished units are kept in" in corpus.said[-1]
        subprocess.run([*mount[:4], "remount,size=4m", *mount[5:]], check=True)
        assert corpus.convert(units, "small")["records"] == 10
        assert corpus.read[0] in (4, 5)
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)


def test_a_folder_that_may_not_be_written(corpus, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    if os.access(tmp_path / "out", os.W_OK):
        (tmp_path / "out").rmdir()
        (tmp_path / "out").symlink_to("/proc/self")  # where root may not write either
    with pytest.raises(UserError, match="converting corpus/train to .* failed"):
        corpus.convert(some_units())


def test_raw_data_that_may_not_be_read(corpus):
    def plan(raw_dir, split):
        raise PermissionError(13, "Permission denied", "raw/captions.tsv")

    corpus.module.plan = plan
    with pytest.raises(
        UserError, match="corpus/train: the raw data cannot be read: .*captions.tsv"
    ):
        corpus.convert(some_units())


KILLED = """
import os, signal, sys
sys.path[:0] = [{tools!r}]
import common
from absl import flags
from tf_mural import conversion
from tf_mural.records import Record

AUGMENTATIONS = ()

def plan(raw_dir, split):
    return [0, 1, 2]

def read(unit):
    yield Record(str(unit), (), (("en", "x"),))
    if unit == 2 and not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)

def main():
    import killing
    made = conversion.convert(killing, "killing", None, "out", "train", processes=2)
    print(made["records"])

if __name__ == "__main__":
    common.run(main)
"""


def test_a_killed_worker_ends_the_tool_with_one_message_and_code_1(tmp_path):
    (tmp_path / "killing.py").write_text(KILLED.format(tools=os.path.join(ROOT, "tools")))

    def run():
        return subprocess.run(
            [sys.executable, "killing.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )

    done = run()
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: a worker process ended before its time")
    assert shown(tmp_path / "out") == []
    again = run()
    assert (again.returncode, again.stderr) == (0, "") and again.stdout.endswith("\n3\n")


ENDLESS = """
AUGMENTATIONS = ()

def plan(raw_dir, split):
    return [0, 1, 2]

def read(unit):
    if unit == 0:
        raise RuntimeError("stop")
    while True:  # passes over input without a record
        sum(range(10_000))
    yield
"""


def test_workers_that_pass_over_input_end_at_once(tmp_path, monkeypatch):
    from tf_mural import conversion

    (tmp_path / "endless_data_set.py").write_text(ENDLESS)
    monkeypatch.syspath_prepend(tmp_path)
    import endless_data_set

    began = time.monotonic()
    with pytest.raises(RuntimeError, match="stop"):
        conversion.convert(
            endless_data_set, "endless", None, tmp_path / "out", "train", processes=2, progress=str
        )
    assert time.monotonic() - began < 10


# --- the tool -------------------------------------------------------------------------------------


def tool(cwd, *arguments):
    command = [sys.executable, os.path.join(ROOT, "tools", "convert.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_tool_takes_steps_and_parts(tmp_path):
    (tmp_path / "raw").mkdir()
    for seed in (0, 1):
        (tmp_path / f"raw/{seed}.png").write_bytes(encoded(picture(seed), "PNG"))
    (tmp_path / "raw/captions.tsv").write_text(
        "image\ten\n0.png\tone two three four\n1.png\ttoo short\n0.png\tone two three four\n"
    )
    arguments = ("--dataset=table", "--raw_dir=raw", "--paper_filters", "--language_detector=")
    arguments += ("--min_words=4", "--deduplicate=exact")
    first = tool(tmp_path, *arguments, "--part=1/2")
    assert (first.returncode, first.stderr) == (0, "")
    assert "run those, then this one again" in first.stdout
    done = tool(tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "train: 1 records dropped: exact duplicate (" in done.stdout
    assert "train: 1 texts dropped: text of fewer than 4 words (" in done.stdout
    steps = RecordSet.open(tmp_path / "data/table/train").manifest["made_by"]["steps"]
    assert steps["min_words"] == 4 and steps["short_side_above"] == 200
    assert "language_detector" not in steps and steps["deduplicate"] == ["exact"]
    for wrong in ("3", "1/1", "a/b", "2/2"):
        refused = tool(tmp_path, *arguments, f"--part={wrong}")
        assert refused.returncode == 2 and "expected a part" in refused.stderr


def test_tool_shows_no_languages_where_there_are_none(capsys):
    from tf_mural.conversion.summary import summary

    ledger = {"read": 3, "kept": 2, "dropped": {"odd": 1}, "dropped_texts": {}}
    ledger["examples"] = {"odd": ["7"]}
    manifest = {"split": "val", "records": 2, "images": 2, "texts": 0, "languages": {}}
    assert summary([{**manifest, "ledger": ledger}]).split("\n") == [
        "split  records  images  texts  languages  dropped",
        "val          2       2      0          0        1",
        "",
        "val: 1 records dropped: odd (7)",
    ]
