"""Parallel titles of Wikipedia in the XML of linguatools, such as wikititles-2014_deen.xml.

An article has entries such as <entry lang="de">Hund</entry>. As in the Wiki-CS of Litschko et al.
2023 (arXiv:2305.05295), titles are in lower case, without a namespace ("category:") and without
a text in parentheses. Titles of more than three words of the source language are left out. The
file may be compressed (.xml.gz), and is read as a stream.
"""

import gzip
import os
import re
import zlib
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

from tf_mural import file_io, languages
from tf_mural.datasets.lexicons import MAX_PHRASE, LexiconOptions, language_pair
from tf_mural.errors import UserError
from tf_mural.progress import Progress

_NAME = re.compile(r"wikititles-\d+_([a-z]{2})([a-z]{2})\.xml(\.gz)?")
_EVERY = 10_000  # number of articles between two updates of the progress


def make(
    inputs: Sequence[str], options: LexiconOptions, report: Callable[[str], None]
) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Reads files of titles. Of a file name with two languages, English is the source language.

    Raises:
        UserError: a file is missing, is not XML or has no titles, or its languages are not known.
    """
    tables = {}
    for path in inputs:
        source, target = _languages_of(path, options)
        tables[source, target] = table = {}
        articles = skipped = 0
        with Progress(os.path.basename(path), None, "articles", print_fn=report) as progress:
            for titles in read_titles(path):
                articles += 1
                word, translation = clean(titles.get(source, "")), clean(titles.get(target, ""))
                if not word or not translation:
                    skipped += 1
                elif word.count(" ") < MAX_PHRASE:
                    table.setdefault(word, []).append(translation)
                if articles % _EVERY == 0:
                    progress.update(articles)
            progress.update(articles)
        if skipped:
            report(
                f"{path}: {skipped:,} of {articles:,} articles lack a title in {source} or {target}"
            )
        if not table:
            raise UserError(
                f"{path}: none of the {articles:,} articles has titles in {source} and {target}: "
                'expected <entry lang="..."> elements as in the files of linguatools'
            )
    return tables


def read_titles(path: str):
    """Yields {language: title} of each article of a file.

    Raises:
        UserError: the file is missing, damaged, or no XML.
    """
    if not file_io.exists(path) or file_io.isdir(path):
        raise UserError(f"no file {path!r}")
    with file_io.open_file(path, "rb") as raw:
        file = gzip.open(raw) if path.endswith(".gz") else raw
        try:
            yield from _articles(file)
        except (ElementTree.ParseError, OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is cut or damaged: {error}; download it again") from error


def _articles(file):
    root, titles, depth = None, {}, 0
    for event, element in ElementTree.iterparse(file, ("start", "end")):
        if event == "start":
            root = element if root is None else root
            depth += 1
            continue
        depth -= 1
        if element.tag == "entry":
            titles.setdefault(element.get("lang", ""), element.text or "")
        elif depth == 1:  # the end of an article
            yield titles
            titles = {}
            root.clear()


def clean(title: str) -> str:
    """Returns a title in lower case, without a namespace and a text in parentheses."""
    text = title.lower()
    if ":" in text:
        text = text.split(":")[1]
    return " ".join(text.split("(")[0].split())


def _languages_of(path, options):
    match = _NAME.fullmatch(os.path.basename(path))
    if options.languages or not match:
        return language_pair(options, path)
    first, second = (languages.canonicalize(code) for code in match.groups()[:2])
    return (second, first) if second == "en" else (first, second)
