"""Measures the retrieval recall that an export loses by quantization or dimension reduction."""

import dataclasses
import itertools

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation import retrieval

MAX_RECALL_LOSS = 1.0  # in points of the average recall
SCENES = "scenes/test"


@dataclasses.dataclass(frozen=True)
class RecallLoss:
    """Average recalls of a model before and after a change, by language, in percent.

    Attributes:
        before, after: {language: average recall}.
        chance: mean over the languages of the average recall of candidates in random order.
        num_images: number of images.
        source: name of the records.
        protocol: protocol of the evaluation.
    """

    before: dict
    after: dict
    chance: float
    num_images: int
    source: str
    protocol: str

    @property
    def value(self):
        """Decrease of the average recall in points, mean over languages; negative: an increase."""
        return float(np.mean([self.before[code] - self.after[code] for code in self.before]))

    @property
    def is_near_chance(self):
        """Whether the recall before the change is too close to `chance` to show a loss."""
        limit = min(2 * self.chance, (100 + self.chance) / 2)
        return float(np.mean(list(self.before.values()))) < limit

    def check(self, change, maximum=MAX_RECALL_LOSS):
        """Raises an error if the change loses too much recall.

        Args:
            change: name of the change, for the error message.
            maximum: maximum allowed `value`.

        Raises:
            UserError: `value` is above the maximum.
        """
        if not self.value <= maximum + 1e-9:
            worst = max(self.before, key=lambda code: self.before[code] - self.after[code])
            raise UserError(
                f"the export with {change} loses {self.value:.2f} points of average recall on "
                f"{self.source}, expected at most {maximum:g}; the largest loss is that of "
                f"{worst}, from {self.before[worst]:.1f} to {self.after[worst]:.1f}. Nothing was "
                "written; max_recall_loss sets another limit"
            )

    def table(self):
        """Returns a Markdown table with a row per language and their mean."""
        means = [float(np.mean(list(values.values()))) for values in (self.before, self.after)]
        rows = [(code, self.before[code], self.after[code]) for code in self.before]
        lines = ["| language | before | after | difference |", "|---|---|---|---|"]
        for name, before, after in [*rows, ("mean", *means)]:
            lines.append(f"| {name} | {before:.2f} | {after:.2f} | {after - before:+.2f} |")
        return "\n".join(lines)


class EverySecond:
    """Iterates over every second record of a sequence, without storing the records in memory.

    Args:
        records: iterable of `Record` that can be iterated several times.
        first: index of the first record, 0 or 1.
    """

    def __init__(self, records, first):
        self._records, self._first = records, first

    def __iter__(self):
        return itertools.islice(iter(self._records), self._first, None, 2)


def scenes_records(languages=None):
    """Returns (records, languages) of the scenes of the test split, which this package generates.

    Args:
        languages: training languages of the model; None: unknown.

    Returns:
        List of 512 `Record`, and a list of the languages of the scenes that are in `languages`;
        None if there are none, so that all languages of the scenes are evaluated.
    """
    from tf_mural.datasets import scenes

    records = [record for unit in scenes.plan(None, "test") for record in scenes.read(unit)]
    common = [code for code in scenes.LANGUAGES if code in (languages or ())]
    return records, common or None


def measure_recall_loss(embedder, exported, records, languages=None, source=SCENES):
    """Evaluates text-image retrieval with the embeddings of a model and of its export.

    Args:
        embedder: `BatchEmbedder` of the model.
        exported: `BatchEmbedder` of the export.
        records: iterable of `Record` that have one image and texts, iterated twice.
        languages: codes of the languages to score. None: all languages of the records.
        source: name of the records.

    Returns:
        `RecallLoss`.

    Raises:
        UserError: see `retrieval.run`.
    """
    before, after = (retrieval.run(e, records, languages) for e in (embedder, exported))
    recalls = [
        {code: values["average_recall"] for code, values in result.values.items()}
        for result in (before, after)
    ]
    chance = float(np.mean([values["chance"] for values in before.values.values()]))
    return RecallLoss(*recalls, chance, before.counts["images"], source, before.protocol)


def fit_projection(embedder, records, dimensions):
    """Fits a projection of the embeddings of images and texts to fewer dimensions.

    The columns of the projection are the eigenvectors with the largest eigenvalues of the sum of
    the second moments of the image embeddings and of the text embeddings. The moments are not
    centered, because a projection must approximate inner products, not distances from the mean.

    Args:
        embedder: `BatchEmbedder`.
        records: iterable of `Record` with images and texts, iterated twice.
        dimensions: number of columns.

    Returns:
        float32 (width, dimensions) with orthonormal columns.

    Raises:
        UserError: `dimensions` is not in [1, width - 1], or there are no images or no texts.
    """
    images = embedder.embed_images(image for record in records for image in record.images[:1])
    texts = embedder.embed_texts(text for record in records for _, text in record.texts)
    if not (len(images) and len(texts)):
        raise UserError(
            f"{len(images)} images and {len(texts)} texts: a projection needs records with both"
        )
    width = images.shape[1]
    if not 1 <= dimensions < width:
        raise UserError(
            f"dimensions is {dimensions}, expected a number from 1 to {width - 1}: the model has "
            f"{width} dimensions"
        )
    moments = sum(
        rows.T.astype(np.float64) @ rows.astype(np.float64) / len(rows) for rows in (images, texts)
    )
    _, vectors = np.linalg.eigh(moments)  # in ascending order of the eigenvalues
    return np.ascontiguousarray(vectors[:, : -dimensions - 1 : -1], np.float32)
