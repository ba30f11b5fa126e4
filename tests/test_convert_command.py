"""The command that converts data sets: flags, output and exit codes."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from helpers.corpus import visible_names
from helpers.images import blurred_noise, encode

from tf_mural.cli import convert
from tf_mural.conversion.ledger import format_summary
from tf_mural.data.records import RecordSet
from tf_mural.errors import UserError


def run_process(cwd, *arguments):
    command = [sys.executable, os.path.join(ROOT, "tools", "convert.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.fixture
def captions(tmp_path, monkeypatch):
    """A folder with a table of captions; the working directory is another folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "captions.tsv").write_text("en\tde\nred\trot\nblue\t\n\t\n")
    return folder


def test_command_converts_from_any_working_directory(captions, tmp_path):
    done = run_process(tmp_path, "--dataset=table", f"--raw_dir={captions}")
    assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "data/table/train"
    assert [record.texts for record in RecordSet.open(out)] == [
        (("en", "red"), ("de", "rot")),
        (("en", "blue"),),
    ]
    assert "train        2       0      3          2        1" in done.stdout
    assert "1 records dropped: blank row (line 4)" in done.stdout
    assert json.loads((out / "manifest.json").read_text())["ledger"]["dropped"] == {"blank row": 1}


def test_command_refuses_in_one_line_with_exit_code_2(tmp_path):
    done = run_process(tmp_path, "--dataset=table", "--raw_dir=nowhere")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "'nowhere' does not exist" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--datset=table"], "no flag --datset; did you mean 'dataset'?"),
        (["--dataset=tabel"], "unknown data set 'tabel'; known: scenes, table, "),
        ([], "name a data set with --dataset"),
        (["--dataset=table", "--table.fil=x"], "did you mean 'table.file'?"),
        (["--dataset=scenes", "--table.file=x"], "--table.file is an option of table"),
        (["--dataset=table", "--raw_dir=nowhere"], "'nowhere' does not exist"),
        (["--dataset=table", "extra"], "unexpected argument 'extra'"),
        (["--dataset=scenes", "--scenes.count=many"], "many"),
        (["--dataset=scenes", "--part=3"], "expected a part such as 3/128"),
    ],
)
def test_wrong_flags_are_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        convert.main(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_list_names_the_data_sets_and_help_their_options(capsys):
    convert.main(["--list"])
    listed = capsys.readouterr().out
    assert "scenes" in listed and "table" in listed
    with pytest.raises(SystemExit) as caught:
        convert.main(["--help"])
    assert caught.value.code == 0
    assert "--table.image_column: column of the image paths" in capsys.readouterr().out


def test_vocabulary_is_trained_once(captions, tmp_path, capsys):
    arguments = ["--dataset=table", f"--raw_dir={captions}", "--out_dir=out", "--vocab_size=200"]
    convert.main(arguments)
    pieces = (tmp_path / "out/vocab.txt").read_text().split("\n")
    assert "[CLS]" in pieces and "r" in pieces  # "red" and "rot" begin with r.
    before = (tmp_path / "out/vocab.txt").stat()
    kept = f"kept out/vocab.txt with {len(pieces) - 1} pieces (remove it to train another)"
    capsys.readouterr()
    convert.main(arguments)
    assert kept in capsys.readouterr().out
    convert.main([*arguments, "--overwrite"])  # Only the record sets are replaced.
    assert kept in capsys.readouterr().out and (tmp_path / "out/vocab.txt").stat() == before


def test_vocabulary_needs_texts_of_train(captions, tmp_path):
    arguments = ["--dataset=table", f"--raw_dir={captions}", "--out_dir=out", "--split=val"]
    with pytest.raises(UserError, match="out/train"):
        convert.main([*arguments, "--vocab_size=200"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--vocab_size=9"):
        convert.main([*arguments, "--vocab_size=9"])


def test_filters_and_parts_are_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    for seed in (0, 1):
        (tmp_path / f"raw/{seed}.png").write_bytes(encode(blurred_noise(seed), "PNG"))
    (tmp_path / "raw/2.png").write_bytes((tmp_path / "raw/0.png").read_bytes())
    (tmp_path / "raw/captions.tsv").write_text(
        "image\ten\n0.png\tone two three four\n1.png\ttoo short\n2.png\tone two three four\n"
    )
    arguments = ["--dataset=table", "--raw_dir=raw", "--paper_filters", "--language_detector="]
    arguments += ["--min_words=4", "--deduplicate=exact"]
    convert.main([*arguments, "--part=1/2"])
    assert "run those parts, then this one again" in capsys.readouterr().out
    convert.main(arguments)
    output = capsys.readouterr().out
    assert "train: 1 records dropped: exact duplicate (" in output
    assert "train: 1 texts dropped: text of fewer than 4 words (" in output
    filters = RecordSet.open(tmp_path / "data/table/train").manifest["made_by"]["steps"]
    assert filters["min_words"] == 4 and filters["short_side_above"] == 200
    assert "language_detector" not in filters and filters["deduplicate"] == ["exact"]
    for part in ("3", "1/1", "a/b", "2/2"):
        with pytest.raises(UserError, match="expected a part"):
            convert.main([*arguments, f"--part={part}"])


def test_summary_of_a_split_without_texts_has_no_languages():
    ledger = {"read": 3, "kept": 2, "dropped": {"odd": 1}, "dropped_texts": {}}
    ledger["examples"] = {"odd": ["7"]}
    manifest = {"split": "val", "records": 2, "images": 2, "texts": 0, "languages": {}}
    assert format_summary([{**manifest, "ledger": ledger}]).split("\n") == [
        "split  records  images  texts  languages  dropped",
        "val          2       2      0          0        1",
        "",
        "val: 1 records dropped: odd (7)",
    ]


KILLED = """
import os, signal
from tf_mural import conversion
from tf_mural.cli import app
from tf_mural.data.records import Record

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
    manifest = conversion.convert(killing, "killing", None, "out", "train", processes=2)
    print(manifest["records"])

if __name__ == "__main__":
    app.run(main)
"""


def test_a_killed_worker_ends_the_command_with_one_line_and_exit_code_1(tmp_path):
    (tmp_path / "killing.py").write_text(KILLED)

    def run():
        return subprocess.run(
            [sys.executable, "killing.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            timeout=60,
        )

    done = run()
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: a worker process ended early")
    assert visible_names(tmp_path / "out") == []
    again = run()
    assert (again.returncode, again.stderr) == (0, "") and again.stdout.endswith("\n3\n")
