"""Multiple choice: which of some texts fits an image, or which of some images fits a text.

Protocol multiple_choice/v1. A record has one image and several texts per language (CVQA), or
several images and one text per language (MVL-SIB); its label is the position of the right one. The
answer is the option with the highest cosine similarity, and the first one of equal options.
Accuracy is the mean over items, in percent.

If a record has one image, its texts in a language are the options. The languages other than English
are the local ones: "groups/local" is the accuracy over all items in their local language, and the
value of "en" is the accuracy over all items in English, as CVQA reports them. The part of an id
before the first slash is the subset of a record; "subsets" has the local accuracy of each subset.
If the records have several images, "groups/languages" is the mean over the languages.
"""

import dataclasses
import hashlib

import numpy as np

from tf_mural import languages as language_codes
from tf_mural.errors import UserError
from tf_mural.evaluation import metrics
from tf_mural.evaluation.embedding_checks import embed_and_check, embed_unique_texts
from tf_mural.evaluation.results import Result

PROTOCOL = "multiple_choice/v1"


@dataclasses.dataclass
class _Items:
    """Items of the records, one per record and language.

    Attributes:
        image_ids: id of the first record of each unique image.
        texts, text_ids: all texts, and the id of the record of each text.
        languages: language of each item.
        subsets: subset of the record of each item, or "".
        labels: position of the right option of each item.
        images: for each item the rows of its images.
        text_rows: for each item the positions of its texts in `texts`.
        groups: group of each item in the bootstrap: its image, or its record.
    """

    image_ids: list = dataclasses.field(default_factory=list)
    texts: list = dataclasses.field(default_factory=list)
    text_ids: list = dataclasses.field(default_factory=list)
    languages: list = dataclasses.field(default_factory=list)
    subsets: list = dataclasses.field(default_factory=list)
    labels: list = dataclasses.field(default_factory=list)
    images: list = dataclasses.field(default_factory=list)
    text_rows: list = dataclasses.field(default_factory=list)
    groups: list = dataclasses.field(default_factory=list)


def run(embedder, records, languages=None, num_bootstrap=1000, seed=0):
    """Evaluates records with a label, and several options.

    Args:
        embedder: See `retrieval.run`.
        records: Iterable of Record, consumed once.
        languages: Codes or names of the languages to score. Default: all languages.
        num_bootstrap, seed: Number and seed of the bootstrap resamples. The items of an image, or
            of a record with several images, are drawn together.

    Returns:
        Result, see the docstring of the module. values: {language: {"accuracy", "chance"}}, and for
        records with one image "groups" and "subsets". counts: "images" (number of embedded images),
        "texts", "items" {language: number of items}. intervals: 95 % intervals of the accuracies.

    Raises:
        UserError: There are no records, a language has no items, a record has no label or no
            options, or embeddings are not finite unit rows.
    """
    items, chosen = _Items(), languages
    stream = _stream_images(records, items, chosen)
    images = embed_and_check(embedder.embed_images, stream, "images", items.image_ids)
    if not items.labels:
        raise UserError("no records: multiple_choice needs records with options and a label")
    _check_languages(items, chosen)
    texts, rows = embed_unique_texts(embedder, items.texts, items.text_ids)
    scorer = _Scorer(items, _hits(items, images, texts[rows]), num_bootstrap, seed)
    codes, subsets = np.array(items.languages), np.array(items.subsets)
    is_text_choice = np.array([len(rows) > 1 for rows in items.text_rows])
    is_local = is_text_choice & (codes != "en")
    counts = {"images": len(images), "texts": len(items.texts), "items": {}}
    result = Result("multiple_choice", PROTOCOL, {}, counts)
    for code in sorted(set(items.languages)):
        counts["items"][code] = int(np.sum(codes == code))
        result.values[code], result.intervals[code] = scorer.score(codes == code)
        result.items[code] = {"accuracy": scorer.items(codes == code)}
    selections = {"groups": {"local": is_local}}
    if not is_text_choice.any():
        selections = {"groups": {"languages": np.ones(len(codes), bool)}}
    names = filter(None, sorted(set(items.subsets)))
    selections["subsets"] = {name: is_local & (subsets == name) for name in names}
    for key, by_name in selections.items():
        scores = {n: scorer.score(s, n == "languages") for n, s in by_name.items() if s.any()}
        if scores:
            result.values[key] = {name: values for name, (values, _) in scores.items()}
            result.intervals[key] = {name: intervals for name, (_, intervals) in scores.items()}
    return result


class _Scorer:
    """Computes accuracies of selected items, and their intervals."""

    def __init__(self, items, hits, num_bootstrap, seed):
        pairs = zip(items.images, items.text_rows, strict=True)
        self._chances = np.array([100.0 / max(map(len, pair)) for pair in pairs])
        self._hits, self._languages = 100.0 * hits, np.array(items.languages)
        self._groups = np.unique(np.array(items.groups), return_inverse=True)[1]
        self._bootstrap = num_bootstrap, seed

    def items(self, selected):
        """Returns the items of the accuracy, see `results.Result`."""
        groups = np.unique(self._groups[selected], return_inverse=True)[1]
        return metrics.group_items(self._hits[selected], groups, groups.max() + 1)

    def score(self, selected, by_language=False):
        """Returns (values, intervals) of selected items, as a mean over items or over languages."""
        hits = self._hits[selected]
        if by_language:  # a mean over items in which each language has the same weight
            _, codes, sizes = np.unique(
                self._languages[selected], return_inverse=True, return_counts=True
            )
            hits = hits * (len(hits) / (len(sizes) * sizes[codes]))
        groups = np.unique(self._groups[selected], return_inverse=True)[1]
        resampled = metrics.grouped_bootstrap(
            hits[:, None], groups, groups.max() + 1, *self._bootstrap
        )
        values = {"accuracy": hits.mean(), "chance": self._chances[selected].mean()}
        values = {name: float(value) for name, value in values.items()}
        return values, {"accuracy": metrics.percentile_interval(resampled[:, 0])}


def _stream_images(records, items, chosen):
    """Yields each unique image once, and collects the items of the records."""
    image_rows = {}
    for record in records:
        texts = {}
        for code, text in record.texts:
            if chosen is None or any(language_codes.match_code(c, (code,)) for c in chosen):
                texts.setdefault(code, []).append(text)
        rows = []
        for image in record.images:
            digest = hashlib.blake2b(image, digest_size=16).digest()
            if digest not in image_rows:
                image_rows[digest] = len(image_rows)
                items.image_ids.append(record.id)
                yield image
            rows.append(image_rows[digest])
        for code, options in texts.items():
            _check_item(record, code, len(rows), len(options))
            start = len(items.texts)
            items.texts += options
            items.text_ids += [record.id] * len(options)
            items.text_rows.append(list(range(start, len(items.texts))))
            items.images.append(rows)
            items.languages.append(code)
            items.subsets.append(record.id.partition("/")[0] if "/" in record.id else "")
            items.labels.append(record.label)
            items.groups.append(f"image {rows[0]}" if len(rows) == 1 else f"record {record.id}")


def _check_item(record, code, num_images, num_texts):
    """Raises a UserError if a record is not an item of multiple choice in a language."""
    if record.label is None:
        raise UserError(
            f"record {record.id!r} has no label: multiple_choice needs the position of the right "
            "option, such as the records of cvqa and mvl_sib have it"
        )
    if min(num_images, num_texts) != 1 or max(num_images, num_texts) < 2:
        raise UserError(
            f"record {record.id!r} has {num_images} images and {num_texts} texts in {code!r}: "
            "expected one image and several texts, or several images and one text"
        )
    if not 0 <= record.label < max(num_images, num_texts):
        raise UserError(
            f"record {record.id!r} has the label {record.label}, but {max(num_images, num_texts)} "
            "options"
        )


def _check_languages(items, chosen):
    for code in chosen or ():
        if not language_codes.match_code(code, set(items.languages)):
            raise UserError(
                f"no record has texts in {code}; languages of the records that were chosen: "
                f"{', '.join(sorted(set(items.languages)))}"
            )


def _hits(items, images, texts):
    """Returns whether the first best option of each item is the right one: bool (n,)."""
    hits = np.empty(len(items.labels), bool)
    for index, label in enumerate(items.labels):
        item_images, item_texts = images[items.images[index]], texts[items.text_rows[index]]
        query, options = item_images, item_texts
        if len(item_texts) == 1:
            query, options = item_texts, item_images
        scores = np.einsum("d,nd->n", query[0], options)
        hits[index] = np.argmax(scores) == label
    return hits
