"""Measured results: the tables of the pages agree with the files, and new runs are compared."""

import datetime
import json
import os
import re
import statistics
import types

import pytest
from conftest import ROOT

from tf_mural.cli import reproduce
from tf_mural.errors import UserError
from tf_mural.experiment import sweep as sweeps
from tf_mural.reports import measured

NAMES = measured.names()
DECIMALS = 0.051  # largest error of a number that is rounded to one decimal


def sections(page):
    """Returns {heading: [table, ...]}; a table is a list of rows of cells, without the rule."""
    with open(os.path.join(ROOT, page), encoding="utf-8") as file:
        parts = re.split(r"^#+ (.*)\n", file.read(), flags=re.MULTILINE)[1:]
    pages = {}
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
        rows = [
            [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
            for block in blocks
        ]
        pages[heading] = [[table[0], *table[2:]] for table in rows]
    return pages


def page_cells(table):
    """Yields (row label, column label, text) of a table, of which the file has an entry."""
    heading, *rows = sections(table["page"])[table["section"]][table["number"]]
    for label, *cells in rows:
        for column, text in zip(heading[1:], cells, strict=True):
            pair = (column, label) if table.get("transposed") else (label, column)
            yield *pair, text.replace("**", "")


def numbers(text):
    return [float(number) for number in re.findall(r"(?<![\w.])[+-]?\d+\.\d+", text)]


@pytest.mark.parametrize("name", NAMES)
def test_each_number_of_a_page_is_that_of_the_file(name):
    """Gains may differ in the last digit if the file contains values with one decimal."""
    experiment = measured.load(name)
    for table in experiment.tables:
        seen = set()
        for row, column, text in page_cells(table):
            seen |= {row, column}
            expected = measured.page_cell(experiment, table, row, column)
            is_gain = table["style"] == "gain" or isinstance(table["columns"][column], list)
            if expected is None:
                continue
            if is_gain and text:
                pairs = zip(numbers(text), numbers(expected), strict=True)
                assert all(abs(a - b) < 0.101 for a, b in pairs), (row, column, text, expected)
            else:
                assert text == expected, (table["page"], row, column)
        assert seen == {*table["rows"], *table["columns"]}


def test_a_changed_digit_of_a_page_is_found():
    """Checks the check: each digit of the tables of README and of the evidence is compared."""
    experiment = measured.load("scenes")
    cells = [(table, cell) for table in experiment.tables for cell in page_cells(table)]
    for table, (row, column, text) in cells:
        if (expected := measured.page_cell(experiment, table, row, column)) is None:
            continue
        for position in [m.start() for m in re.finditer(r"\d", text)]:
            digit = str((int(text[position]) + 5) % 10)
            changed = text[:position] + digit + text[position + 1 :]
            assert numbers(changed) != numbers(expected)


def test_every_table_of_the_evidence_says_how_it_was_measured():
    """A section whose tables have no file is in the first table, with its date and commit."""
    tables = [table for name in NAMES for table in measured.load(name).tables]
    named = {(table["page"], table["section"], table["number"]) for table in tables}
    results = sections("README.md")["Results"]
    assert {("README.md", "Results", number) for number in range(len(results))} <= named
    evidence = sections("docs/evidence.md")
    rows = evidence["How to repeat the results"][0][1:]
    for name, section, command, _, date, commit in rows:
        assert section and command and re.match(r"20\d\d-\d\d-\d\d", date), (name, section)
        assert re.match(r"[0-9a-f]{7}", commit), (name, section)
    described = {link for row in rows for link in re.findall(r"\(#([^)]*)\)", row[1])}
    for section, found_tables in evidence.items():
        anchor = re.sub(r"[^\w\- ]", "", section.lower()).replace(" ", "-")
        if found_tables and section != "How to repeat the results":
            message = f"{section}: add a row to the table in 'How to repeat the results'"
            assert anchor in described, message


def test_every_section_of_the_performance_says_when_it_was_measured():
    """A row begins with the first word of the heading of its section."""
    with open(os.path.join(ROOT, "docs/performance.md"), encoding="utf-8") as file:
        headings = re.findall(r"^## (.*)$", file.read(), re.MULTILINE)
    *measured_sections, last = headings
    rows = sections("docs/performance.md")[last][0][1:]
    for *_, date, commit in rows:
        assert re.match(r"20\d\d-\d\d-\d\d", date) and re.match(r"[0-9a-f]{7}", commit)
    for heading in measured_sections:
        word = heading.split()[0]
        assert any(row[0].startswith(word) for row in rows), f"{heading}: add a row to {last!r}"


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_columns_belong_to_the_sweep(name):
    experiment = measured.load(name)
    sweep = sweeps.load_sweep(experiment.sweep)
    rows = experiment.rows
    columns = {column for by_column in rows.values() for column in by_column}
    selected = sweeps.select_rows(sweep, list(rows), columns)
    assert set(experiment.values) <= set(selected.RUNS)
    assert set(experiment.differences) == set(selected.DIFFERENCES)
    for label, (row, subtracted) in selected.DIFFERENCES.items():
        for column, cell in experiment.differences[label].items():
            a, b = (experiment.values[name][column] for name in (row, subtracted))
            assert len(cell.by_seed) == len(experiment.seeds)
            for x, y, z in zip(cell.by_seed, a.by_seed, b.by_seed, strict=True):
                assert x == pytest.approx(y - z, abs=3 * DECIMALS), (label, column)
    for row, by_column in rows.items():
        for column, cell in by_column.items():
            assert len(cell.by_seed) <= len(experiment.seeds)
            mean = statistics.fmean(cell.by_seed)
            assert cell.mean == pytest.approx(mean, abs=2 * DECIMALS), (row, column)


@pytest.mark.parametrize("name", NAMES)
def test_provenance_is_complete_and_stands_in_the_evidence(name):
    experiment = measured.load(name)
    provenance = experiment.provenance
    datetime.date.fromisoformat(provenance["date"])
    assert provenance["command"].startswith("python tools/")
    for table in experiment.tables:
        if table["page"] == "docs/evidence.md":
            with open(os.path.join(ROOT, table["page"]), encoding="utf-8") as file:
                rows = [line for line in file if f"`{name}`" in line]
            assert any(provenance["date"] in row and provenance["commit"] in row for row in rows)
    assert re.fullmatch(r"[0-9a-f]{7,40}", provenance["commit"])


# --- bands ----------------------------------------------------------------------------------------


def test_band_is_the_prediction_interval_of_student():
    """Values by hand: mean 3, standard deviation sqrt(2.5), t quantile 2.776 with 4 degrees."""
    cell = measured.Cell((1.0, 2.0, 3.0, 4.0, 5.0), 3.0)
    for count in (1, 5):
        half = 2.776 * (2.5 * (1 / 5 + 1 / count)) ** 0.5
        assert cell.band(count) == pytest.approx((3 - half, 3 + half), abs=1e-3)


def test_band_contains_95_percent_of_new_means():
    import numpy as np

    random, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        written, new = random.normal(size=5) * 9, random.normal(size=3) * 9
        low, high = measured.Cell(tuple(written), float(written.mean())).band(3)
        hits += low <= new.mean() <= high
    assert 0.935 < hits / 2000 < 0.965


def test_equal_values_have_a_band_for_rounding_and_one_value_has_no_band():
    assert measured.Cell((7.0, 7.0), 7.0).band(2) == (6.5, 7.5)
    assert measured.Cell((7.0,), 7.0).band(1) is None
    (single,) = measured.compare(small(), {"b": {"en": [99.0]}})
    assert single.band is None and not single.is_outside


def small(values=(10.0, 11.0)):
    cell = measured.Cell(tuple(values), sum(values) / len(values))
    rows = {"a": {"en": cell}, "b": {"en": measured.Cell((5.0,), 5.0)}}
    return measured.Experiment("x", "x", "x", (0, 1), rows, {}, [], {})


def test_a_mean_outside_of_its_band_is_found():
    (inside,) = measured.compare(small(), {"a": {"en": [10.0, 11.0]}})
    (outside,) = measured.compare(small((10.4, 10.6)), {"a": {"en": [20.0, 21.0]}})
    assert not inside.is_outside and outside.is_outside and outside.mean == 20.5
    with pytest.raises(UserError, match="unknown row 'c'"):
        measured.compare(small(), {"c": {"en": [1.0]}})


# --- tools/reproduce.py ---------------------------------------------------------------------------


def write_results(workdir, recalls):
    """Writes the part of results.json that a sweep reads."""
    values = {code: {"average_recall": recall} for code, recall in recalls.items()}
    os.makedirs(workdir)
    with open(os.path.join(workdir, "results.json"), "w", encoding="utf-8") as file:
        json.dump({"evaluation": {"retrieval": {"values": values}}}, file)


@pytest.fixture
def fake_training(monkeypatch):
    """Replaces training: a run of `scenes` has the written results, plus a shift in points.

    Returns a dict; its "shift" is added to all results, and "trained" lists the runs.
    """
    state = {"shift": 0.0, "trained": []}
    scenes = measured.load("scenes")
    rows = {sweeps.run_workdir("", row, 0): cells for row, cells in scenes.values.items()}

    def train_run(command, run, workdir, seed, init, size, data_dir, vectors):
        if os.path.exists(workdir):
            return
        assert init is None or os.path.exists(init)
        state["trained"].append(os.path.basename(workdir))
        cells = rows[os.path.basename(workdir).rpartition("-s")[0] + "-s0"]
        recalls = {code: cell.by_seed[seed] + state["shift"] for code, cell in cells.items()}
        write_results(workdir, recalls)

    monkeypatch.setattr(sweeps, "train_run", train_run)
    return state


def run_reproduce(*arguments):
    """Returns the exit code of the command, 0 if it returns."""
    try:
        reproduce.main(list(arguments))
    except SystemExit as error:
        return error.code
    return 0


def test_equal_results_are_inside_and_are_written_as_json(fake_training, tmp_path, capsys):
    assert run_reproduce("scenes", f"--out_dir={tmp_path}") == 0
    output = capsys.readouterr().out
    assert "[12/12] + ETCL, seed 2" in output and "outside" not in output.split("written to")[0]
    assert re.search(r"ETCL - control +de +\+43.7 +\+1.2 to \+86.2 +\+43.7 +inside", output)
    content = json.loads((tmp_path / "table7" / "reproduced-scenes.json").read_text())
    scenes = measured.load("scenes")
    rows = scenes.rows
    assert len(content["cells"]) == sum(map(len, rows.values()))
    assert not any(cell["is_outside"] for cell in content["cells"])
    for cell in content["cells"]:
        assert cell["mean"] == pytest.approx(cell["written"], abs=2 * DECIMALS)
    assert content["written"]["commit"] == scenes.provenance["commit"]


def test_a_stopped_command_continues_with_the_runs_that_are_missing(fake_training, tmp_path):
    run_reproduce("scenes", f"--out_dir={tmp_path}", "--seeds=0")
    assert len(fake_training["trained"]) == 4
    run_reproduce("scenes", f"--out_dir={tmp_path}")
    assert len(fake_training["trained"]) == 12 == len(set(fake_training["trained"]))


def test_other_results_are_outside_and_the_exit_code_is_1(fake_training, tmp_path, capsys):
    fake_training["shift"] = -40.0
    assert run_reproduce("scenes", f"--out_dir={tmp_path}") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("outside of the band: ") and "+ ETCL, en" in lines[-1]
    assert "ETCL - control" not in lines[-1]  # both rows of a difference have the same shift


@pytest.mark.parametrize("row", ["+ ETCL", "ETCL - control"])
def test_a_changed_number_of_the_file_is_found(fake_training, tmp_path, monkeypatch, row):
    """Moves one written mean to a place just outside of its band."""
    with open(os.path.join(measured.FOLDER, "scenes.json"), encoding="utf-8") as file:
        content = json.load(file)
    part = "values" if row in content["values"] else "differences"
    cell = measured.load("scenes").cell(row, "trained")
    low, high = cell.band(3)
    for factor, expected in ((0.4, 0), (0.6, 1)):
        mean = cell.mean + factor * (high - low)
        content[part][row]["trained"] = {"mean": mean, "by_seed": list(cell.by_seed)}
        folder = tmp_path / str(factor)
        folder.mkdir()
        (folder / "scenes.json").write_text(json.dumps(content))
        monkeypatch.setattr(measured, "FOLDER", str(folder))
        assert run_reproduce("scenes", f"--out_dir={tmp_path / 'runs'}") == expected


def test_readme_is_all_tables_of_readme(fake_training, tmp_path, monkeypatch):
    selected = {e.name: cells for e, cells in reproduce._select("readme")}
    assert sorted(selected) == ["photos_trained", "scenes"]
    rows = ["MURAL", "control", "MURAL + ETCL", "ETCL - control"]
    assert list(selected["photos_trained"]) == rows
    assert len(selected["photos_trained"]["MURAL"]) == 9
    assert selected["scenes"]["+ ETCL"] == ["en", "trained", "unseen"]
    assert "+ 6 languages" not in selected["scenes"]
    with pytest.raises(UserError, match="photos_trained needs the record set .*`make photos`"):
        reproduce.main(["readme", f"--data_dir={tmp_path}"])
    assert not fake_training["trained"]  # the error precedes the first run


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_saved_again_has_the_same_content(name, tmp_path, monkeypatch):
    experiment = measured.load(name)
    monkeypatch.setattr(measured, "FOLDER", str(tmp_path))
    measured.save(experiment)
    assert measured.load(name) == experiment


def test_update_replaces_the_written_values(fake_training, tmp_path, monkeypatch, capsys):
    done = types.SimpleNamespace(returncode=0, stdout="1234567\n", stderr="")
    monkeypatch.setattr(reproduce.subprocess, "run", lambda *arguments, **options: done)
    before = measured.load("scenes")
    monkeypatch.setattr(measured, "FOLDER", str(tmp_path))
    measured.save(before)
    fake_training["shift"] = -1.0
    runs = (f"--out_dir={tmp_path}/runs", "--seeds=0,1")
    assert run_reproduce("scenes", "--update", "--machine=m", *runs) == 0
    after = measured.load("scenes")
    assert after.provenance["commit"] == "1234567" and after.provenance["machine"] == "m"
    assert after.seeds == (0, 1) and after.tables == before.tables
    assert after.cell("MURAL", "en").by_seed == pytest.approx((76.5, 82.4))
    cells = [page for page in capsys.readouterr().out.split("\n\n") if page.startswith("| ")]
    assert len(cells) == 3 and "(76.5, 82.4)" in cells[0] and "-1.2 (-1.3 to -1.1)" in cells[2]
    assert run_reproduce("scenes", *runs) == 0
    done.returncode, done.stderr = 128, "not a git repository"
    with pytest.raises(UserError, match="--update works in a clone .*: not a git"):
        reproduce.main(["scenes", "--update", "--machine=m", *runs])


def test_list_shows_each_table(capsys):
    reproduce.main(["--list"])
    output = capsys.readouterr().out
    for name in NAMES:
        assert re.search(rf"^{name} .* {measured.load(name).provenance['commit']} ", output, re.M)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "name a table"),
        (("--table=scene",), "unknown table 'scene'; .*did you mean 'scenes'"),
        (("--table=scenes", "--update"), "--update needs the name of one table and --machine"),
        (("--table=readme", "--update", "--machine=m"), "--update needs the name of one table"),
        (("--table=scenes", "--seeds=a"), "--seeds: expected whole numbers, got 'a'"),
    ],
)
def test_bad_arguments_have_an_error(arguments, message):
    with pytest.raises(UserError, match=message):
        reproduce.main(list(arguments))


def test_an_incomplete_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", str(tmp_path))
    content = {"provenance": {"command": "x", "machine": "x", "date": "x"}}
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="x.json: provenance lacks 'commit'"):
        measured.load("x")
    content["provenance"]["commit"] = "x"
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="x.json lacks 'title'"):
        measured.load("x")


@pytest.mark.slow
def test_the_miniature_reproduces_its_written_values(tools, tmp_path, monkeypatch):
    """Trains MURAL and ETCL on 128 scenes, and then compares the runs with changed numbers."""
    miniature = measured.load("miniature")
    tool, *arguments = miniature.prepare.removeprefix("python tools/").split()
    assert not tools.run(tmp_path, tool, *arguments).code
    arguments = ["--table=miniature", f"--seeds={miniature.seeds[0]}"]
    done = tools.run(tmp_path, "reproduce.py", *arguments)
    assert not done.code, done.out + done.err
    (path,) = (tmp_path / "runs/sweeps/miniature").glob("reproduced-*.json")
    cells = json.loads(path.read_text())["cells"]
    assert {(c["row"], c["column"]) for c in cells if c["band"]} == {
        (row, column) for row, columns in miniature.rows.items() for column in columns
    }
    # The runs are finished: only their results are read again.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeps, "train_run", lambda *arguments: None)
    assert run_reproduce(*arguments) == 0
    with open(os.path.join(measured.FOLDER, "miniature.json"), encoding="utf-8") as file:
        content = json.load(file)
    for cell in cells:
        part = "values" if cell["row"] in content["values"] else "differences"
        values = content[part][cell["row"]]
        low, high = cell["band"]
        written, values[cell["column"]] = (
            values[cell["column"]],
            [v + high - low for v in values[cell["column"]]],
        )
        (tmp_path / "miniature.json").write_text(json.dumps(content))
        monkeypatch.setattr(measured, "FOLDER", str(tmp_path))
        assert run_reproduce(*arguments) == 1
        values[cell["column"]] = written
