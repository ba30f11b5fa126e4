"""`cvqa`: questions about photographs with four options, in 31 languages and English, a test set.

A record has one photograph and eight texts: the question, a blank and the option for each of the
four options in the local language, then the same for the English translations. Nothing is stripped
or lower-cased. The label is the position of the right option. The id starts with the subset, the
pair of language and country ("Japanese-Japan/1234567890_0"); the part before the last underscore is
the same for all questions about a photograph.

Some published revisions hide the labels (-1). Such files are refused, because no accuracy can be
computed from them.
"""

import ast
import dataclasses
import os
import re

from tf_mural import languages as language_codes
from tf_mural.data.records import Record, Skipped
from tf_mural.datasets import archives, parquet_captions
from tf_mural.datasets.bounded_read import open_parquet
from tf_mural.datasets.table.parquet import ParquetTable
from tf_mural.errors import UserError, lookup

SPLITS = ("test",)
AUGMENTATIONS = ()
NUM_OPTIONS = 4
_FILE = re.compile(r"test-\d{5}-of-(\d{5})\.parquet")
_FOLDERS = ("", "data")
_COLUMNS = ("ID", "Subset", "Question", "Options", "Translated Question", "Translated Options",
            "Label")  # fmt: skip
_ROWS_PER_UNIT = 250
_UNKNOWN = "und"  # BCP 47's code of an undetermined language


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some questions of a Parquet file.

    Attributes:
        path: path of the file.
        rows: tuples (row from 0, id, texts, label).
    """

    path: str
    rows: tuple


def plan(raw_dir: str, split: str):
    """Reads the questions and checks that their labels are public.

    Args:
        raw_dir: folder of the Parquet files test-*.parquet, or of the folder data that contains
            them.
        split: "test".

    Returns:
        List of `Unit`.

    Raises:
        UserError: the split is unknown, a file is missing or damaged, an id occurs twice, a
            question does not have four options, or labels are hidden.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of cvqa")
    units, seen, num_rows, num_hidden = [], set(), 0, 0
    for path in _find_files(raw_dir):
        rows = []
        for number, row in enumerate(_read_rows(path)):
            num_rows += 1
            if row["Label"] not in range(NUM_OPTIONS):
                num_hidden += 1
                continue
            id, texts = _parse_row(row, f"{path}, row {number + 1}")
            if id in seen:
                raise UserError(
                    f"{path}, row {number + 1}: the id {id!r} occurs twice; download the file again"
                )
            seen.add(id)
            rows.append((number, id, texts, row["Label"]))
        starts = range(0, len(rows), _ROWS_PER_UNIT)
        units += [Unit(path, tuple(rows[s : s + _ROWS_PER_UNIT])) for s in starts]
    if num_hidden:
        raise UserError(
            f"{raw_dir}: {num_hidden:,} of {num_rows:,} questions have no label from 0 to "
            f"{NUM_OPTIONS - 1}: this revision hides the answers; download a revision with labels"
        )
    return units


def read(unit):
    """Yields a `Record` or `Skipped` for each question of a unit."""
    with ParquetTable.open(unit.path).opened() as read_row:
        for number, id, texts, label in unit.rows:
            cell = read_row(number, number + 1, None)["image"]
            images, reason = parquet_captions.load_image(cell)
            yield Skipped(reason, id) if reason else Record(id, images, texts, label=label)


def fingerprint(raw_dir, split):
    """Returns a hash of the questions and of the sizes of the files."""
    return parquet_captions.fingerprint(plan(raw_dir, split))


def _find_files(raw_dir):
    archives.check_raw_dir(raw_dir)
    for folder in (os.path.join(raw_dir, name) if name else raw_dir for name in _FOLDERS):
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else ()
        matches = [match for match in map(_FILE.fullmatch, names) if match]
        if matches and len(matches) != int(matches[0][1]):
            raise UserError(
                f"{folder} has {len(matches)} of {int(matches[0][1])} Parquet files of the split "
                "test; download the others"
            )
        if matches:
            return [os.path.join(folder, match[0]) for match in matches]
    raise UserError(
        f"expected files such as data/test-00000-of-00003.parquet in {raw_dir}; download them from "
        "the home page"
    )


def _read_rows(path):
    """Yields each row of a file without its image."""
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        if missing := [name for name in (*_COLUMNS, "image") if name not in names]:
            raise UserError(f"{path} has no column {', '.join(missing)}; download the file again")
        for batch in file.iter_batches(1024, columns=list(_COLUMNS)):
            yield from batch.to_pylist()


def _parse_row(row, where):
    """Returns (id, texts) of a question."""
    try:
        language, country = ast.literal_eval(row["Subset"])
        subset = f"{language}-{country}"
    except (ValueError, SyntaxError, TypeError) as error:
        raise UserError(
            f"{where}: expected a Subset such as ('Japanese', 'Japan'), got {row['Subset']!r:.60}"
        ) from error
    language = language_codes.find(str(language).replace("_", " "))
    codes = (language.code if language else _UNKNOWN, "en")
    texts = []
    for code, prefix in zip(codes, ("", "Translated "), strict=True):
        question, options = row[f"{prefix}Question"], row[f"{prefix}Options"]
        parquet_captions.check_list(options, where)
        if not isinstance(question, str) or len(options) != NUM_OPTIONS:
            raise UserError(
                f"{where}: expected a question and {NUM_OPTIONS} options, got {question!r:.60} and "
                f"{len(options)}"
            )
        texts += [(code, f"{question} {option}") for option in options]
    return f"{subset}/{row['ID']}", tuple(texts)
