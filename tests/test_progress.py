"""Progress of long loops: lines in pipes, and a bar on a terminal."""

import io
import math
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from helpers.terminal import run_in_terminal

from tf_mural import progress
from tf_mural.progress import Progress, format_duration

LOOP = f"""
import sys, time
sys.path.insert(0, {ROOT!r})
from tf_mural.progress import Progress

stream = getattr(sys, sys.argv[1])
label = "scenes/train [red], pass 1 of 2"
with Progress(label, 8, "units", "read", stream=stream, seconds=0.15) as progress:
    for number in range(1, 9):
        time.sleep(0.1)
        progress.update(number, 1_234 * number)
        if number == 4:
            print("a message", flush=True)
sys.exit("rich is imported" if "rich" in sys.modules and not stream.isatty() else None)
"""
LAST_LINE = (
    r"scenes/train \[red\], pass 1 of 2: 8 of 8 units, 9,872 read, [\d,]+ a second, 0 s left"
)
COLOR = re.compile(r"\x1b\[[\d;]+m")


class Clock:
    """A replacement of the module `time`, whose clock advances only in `sleep`."""

    now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def lines_of(clock, updates, *arguments, **options):
    """Returns the lines of a loop. An update is (seconds since the last update, numbers)."""
    lines = []
    with Progress(*arguments, print_fn=lines.append, **options) as shown:
        for seconds, *numbers in updates:
            clock.sleep(seconds)
            shown.update(*numbers)
    return lines


def test_lines_have_rate_and_remaining_time_at_intervals(clock):
    updates = [(1, 500), (1, 1_000), (1, 1_500), (4, 4_000), (10, 5_000)]
    assert lines_of(clock, updates, "test", 5_000, "records") == [
        "test: 1,000 of 5,000 records, 500 a second, 8 s left",
        "test: 4,000 of 5,000 records, 571 a second, 2 s left",
        "test: 5,000 of 5,000 records, 294 a second, 0 s left",
    ]


def test_items_that_were_finished_before_do_not_change_the_rate(clock):
    assert (
        lines_of(clock, [(4, 12)], "", 16, "units", start=10)
        == [
            "12 of 16 units, 0 a second, 8 s left"  # two units in four seconds are rounded to 0
        ]
        * 2
    )
    updates = [(10, 11, 300)]
    assert lines_of(clock, updates, "a", 16, "units", "read", start=10)[0] == (
        "a: 11 of 16 units, 300 read, 30 a second, 50 s left"
    )


def test_a_loop_of_unknown_length_has_no_remaining_time(clock):
    updates, options = [(1, 9), (3, 40)], {"print_end": False}
    assert lines_of(clock, updates, "x", None, "texts", **options) == ["x: 40 texts, 10 a second"]


def test_a_loop_that_fails_or_has_no_items_has_no_last_line(clock):
    lines = []
    with pytest.raises(ZeroDivisionError), Progress("x", 2, "units", print_fn=lines.append) as bar:
        bar.update(1)
        raise ZeroDivisionError
    with Progress("x", 0, "units", print_fn=lines.append):
        pass
    assert lines == []


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_pipe_receives_lines_without_control_characters(stream):
    command = [sys.executable, "-c", LOOP, stream]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = getattr(done, stream).splitlines()
    assert re.fullmatch(LAST_LINE, lines[-1])
    assert done.stdout.count("a message\n") == 1
    assert 3 <= len([line for line in lines if line.endswith(" left")]) <= 6
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout + done.stderr)


@pytest.mark.parametrize("columns", [120, 50])
def test_a_terminal_shows_a_bar_that_is_removed_at_the_end(columns):
    code, output = run_in_terminal([sys.executable, "-c", LOOP, "stdout"], columns)
    assert code == 0, output
    assert COLOR.search(output) and ("━" in output) == (columns == 120)
    assert "a message\r\n" in output and "5 of 8 units" in output
    assert re.search(r"\d\d:\d\d", COLOR.sub("", output))  # the remaining time
    live, _, rest = output.rpartition("\x1b[?25h")  # the cursor is shown again
    assert live.startswith("\x1b[?25l")
    # The bar is removed, and the last line remains.
    removed, line = re.fullmatch(r"((?:\r|\x1b\[1A|\x1b\[2K)+)(.*)\r\n", rest).groups()
    assert "\x1b[2K" in removed and re.fullmatch(LAST_LINE, line)
    if columns == 50:  # The texts wrap, and nothing is cut.
        assert "…" not in output and "pass 1 of 2" in output


def test_no_color_removes_colors_but_not_the_bar():
    code, output = run_in_terminal([sys.executable, "-c", LOOP, "stdout"], 120, NO_COLOR="1")
    assert code == 0 and "━" in output and not COLOR.search(output)


def test_a_dumb_terminal_receives_lines():
    code, output = run_in_terminal([sys.executable, "-c", LOOP, "stdout"], 120, TERM="dumb")
    assert code == 0 and "\x1b" not in output and output.count(" left\r\n") >= 3


def test_a_bar_on_stderr_leaves_a_redirected_stdout_as_it_is(tmp_path):
    with open(tmp_path / "out", "w+") as file:
        command = [sys.executable, "-c", LOOP, "stderr"]
        code, output = run_in_terminal(command, 120, stdout=file)
        file.seek(0)
        assert (code, file.read()) == (0, "a message\n")
    assert "━" in output and "a message" not in output


def test_other_streams_are_no_terminals():
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed, io.StringIO()):
        assert not progress.is_terminal(stream)


def test_a_conversion_shows_a_bar_on_a_terminal(tmp_path):
    command = [sys.executable, f"{ROOT}/tools/convert.py", "--dataset=scenes", "--split=test"]
    options = ["--scenes.count=24", "--scenes.units=2", f"--out_dir={tmp_path}", "--processes=1"]
    code, output = run_in_terminal([*command, *options], 120)
    assert code == 0, output
    live, _, rest = output.rpartition("\x1b[?25h")
    assert "scenes/test" in live and "0 of 2 units" in live and "━" in live
    assert re.search(r"scenes/test: 2 of 2 units, 24 read, \d+ a second, 0 s left\r\n", rest)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86399, "1 d 00 h"),
        (270000, "3 d 03 h"),
        (math.nan, "?"),
        (math.inf, "?"),
        (-1, "?"),
    ],
)
def test_durations_have_two_units(seconds, text):
    assert format_duration(seconds) == text
