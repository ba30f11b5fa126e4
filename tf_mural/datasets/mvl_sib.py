"""`mvl_sib`: 3,012 sentences in 205 languages, each with four candidate images, a test set.

The Parquet files of mteb's copy are read: the folders (or files) `<language>-corpus`, `-queries`,
`-qrels` and `-top_ranked`. A record is a sentence in all languages with its four candidate images,
sorted by id in descending order; the label is the position of the right image. In this order, the
first of equal candidates is the one that mteb prefers. All languages have the same candidates.
"""

import dataclasses
import os
import re

from tf_mural import languages as language_codes
from tf_mural.data.records import Record, Skipped
from tf_mural.datasets import archives, captioned_images, parquet_captions
from tf_mural.datasets.bounded_read import open_parquet
from tf_mural.datasets.table.parquet import ParquetTable
from tf_mural.errors import UserError, lookup

SPLITS = ("test",)
AUGMENTATIONS = ()
NUM_CANDIDATES = 4
NUM_LANGUAGES = 205
_PART = re.compile(r"(?:([a-z]{3}_[A-Z][a-z]{3})-)?(corpus|queries|qrels|top_ranked)\b")
_QUERIES_PER_UNIT = 500


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some sentences.

    Attributes:
        corpus: path of the Parquet file of the images.
        image_rows: pairs (id of an image, row from 0 in `corpus`).
        queries: tuples (id, texts, ids of the candidates, label).
    """

    corpus: str
    image_rows: tuple[tuple[str, int], ...]
    queries: tuple


def plan(raw_dir: str, split: str, languages: tuple[str, ...] | None = None):
    """Joins sentences and candidates by the ids of the sentences.

    Args:
        raw_dir: folder of the Parquet files.
        split: "test".
        languages: languages to keep. Default: all languages that have files.

    Returns:
        List of `Unit`.

    Raises:
        UserError: the split is unknown, a file is missing or damaged, an id occurs twice or is
            unknown, or languages differ in their candidates.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of mvl_sib")
    files = _find_files(raw_dir)
    available = {code: files[code] for code in sorted(files) if "queries" in files[code]}
    codes = captioned_images.choose_languages(available, languages, (), raw_dir)
    # One file of images serves all languages.
    corpus = next(parts["corpus"] for parts in files.values() if "corpus" in parts)
    image_rows = {id: number for number, (id,) in enumerate(_rows(corpus, ("id",)))}
    first, texts = None, {}
    for code in codes:
        choices = _read_choices(files, code, image_rows)
        first = first or choices
        for id, text in _rows(available[code]["queries"], ("id", "text"), unique=True):
            if choices.get(id) is None or choices[id] != first.get(id):
                raise UserError(
                    f"{available[code]['queries']}: the sentence {id!r} has no candidates, or "
                    f"others than in {codes[0]}: download all files of one revision"
                )
            texts.setdefault(id, []).append((code, text))
    queries = [(id, tuple(texts[id]), *first[id]) for id in texts]
    starts = range(0, len(queries), _QUERIES_PER_UNIT)
    rows = tuple(image_rows.items())
    return [Unit(corpus, rows, tuple(queries[s : s + _QUERIES_PER_UNIT])) for s in starts]


def read(unit):
    """Yields a `Record` or `Skipped` for each sentence of a unit."""
    with ParquetTable.open(unit.corpus).opened() as read_row:
        images = {
            id: parquet_captions.load_image(read_row(number, number + 1, None)["image"])
            for id, number in unit.image_rows
        }
    for id, texts, candidates, label in unit.queries:
        reasons = [reason for candidate in candidates if (reason := images[candidate][1])]
        if reasons:
            yield Skipped(reasons[0], id)
        else:
            data = tuple(images[candidate][0][0] for candidate in candidates)
            yield Record(id, data, texts, label=label)


def fingerprint(raw_dir, split, languages=None):
    """Returns a hash of the sentences, the candidates, and the size of the file of the images."""
    units = plan(raw_dir, split, languages)
    return parquet_captions.hash_rows((unit.corpus, unit.queries) for unit in units)


def _find_files(raw_dir):
    """Returns {language, or "" for files of all languages: {part: Parquet file}}."""
    archives.check_raw_dir(raw_dir)
    files = {}
    for folder, folders, names in os.walk(raw_dir):
        folders.sort()
        for name in sorted(name for name in names if name.endswith(".parquet")):
            match = _PART.match(name) or _PART.match(os.path.basename(folder))
            if match is None:
                continue
            code = language_codes.canonicalize(match[1]) if match[1] else ""
            parts = files.setdefault(code, {})
            if match[2] in parts:
                raise UserError(
                    f"{parts[match[2]]} and {os.path.join(folder, name)} are both the "
                    f"{match[2]} of {code or 'all languages'}; keep one of them"
                )
            parts[match[2]] = os.path.join(folder, name)
    for part in ("corpus", "queries", "qrels", "top_ranked"):
        if not any(part in parts for parts in files.values()):
            raise UserError(
                f"expected Parquet files in folders such as deu_Latn-{part} in {raw_dir}; download "
                "them from the home page"
            )
    return files


def _read_choices(files, code, image_rows):
    """Returns {id of a sentence: (ids of its candidates, position of the right one)}."""
    paths = {}
    for part in ("qrels", "top_ranked"):
        paths[part] = files[code].get(part) or files.get("", {}).get(part)
        if paths[part] is None:
            raise UserError(f"the language {code} has queries, but no {part}; download it")
    right = {
        query: image
        for query, image, score in _rows(paths["qrels"], ("query-id", "corpus-id", "score"))
        if score > 0
    }
    choices = {}
    for query, candidates in _rows(paths["top_ranked"], ("query-id", "corpus-ids"), unique=True):
        ordered = sorted(candidates, key=str.encode, reverse=True)
        unknown = [image for image in ordered if image not in image_rows]
        if len(ordered) != NUM_CANDIDATES or unknown or right.get(query) not in ordered:
            raise UserError(
                f"{paths['top_ranked']}: {query!r} has the candidates {', '.join(ordered)}: "
                f"expected {NUM_CANDIDATES} images of the corpus, one of them right"
            )
        choices[query] = (tuple(ordered), ordered.index(right[query]))
    return choices


def _rows(path, columns, unique=False):
    """Yields the cells of some columns of each row; `unique`: refuse a first cell that repeats."""
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        if missing := [name for name in columns if name not in names]:
            raise UserError(f"{path} has no column {', '.join(missing)}; download the file again")
        seen = set()
        for batch in file.iter_batches(1024, columns=list(columns)):
            for row in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                if unique and row[0] in seen:
                    raise UserError(f"{path}: the id {row[0]!r} occurs twice; download it again")
                seen.add(row[0])
                yield row
