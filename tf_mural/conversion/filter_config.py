"""What a conversion does besides reading: filters, duplicates, sets to keep out, resizing."""

import dataclasses
import os

from tf_mural.data import records
from tf_mural.errors import UserError, lookup

# The filters of MURAL's image-text data, which are those of ALIGN with other numbers.
PAPER = {
    "short_side_above": 200,
    "aspect_below": 3.0,
    "texts_per_image": 100,
    "images_per_text": 10,
    "min_words": 3,
    "max_words": 100,
    "max_characters": 1000,
    "language_detector": "cld3",
}
_DUPLICATES = {"exact": None, "near": None}


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of a conversion as plain data. By default there are none.

    Filters come first, then the excluded sets. What needs the whole corpus (`texts_per_image`,
    `images_per_text`, `deduplicate`) is asked of all records that these leave, each on its own:
    a record goes for its duplicate even where that goes for another reason.

    Attributes:
        short_side_above: leave out records with an image whose shorter side has not more pixels.
        aspect_below: leave out records with an image whose longer side is not less than this many
            times the shorter one.
        texts_per_image: leave out images that come with more different texts in the corpus.
        images_per_text: leave out texts that come with more different images in the corpus.
        min_words: leave out texts of fewer words; where words are not parted, of fewer characters.
        max_words: leave out texts of more words; where words are not parted, of more characters.
        max_characters: leave out texts of more characters.
        language_detector: leave out texts in another language than they say, by this detector:
            cld3, or one's own function as package.module:function.
        deduplicate: exact leaves out records whose images, texts, label and score were there
            before; near those with an image that looks like one of a record before them.
        near_distance: of how many bits the perceptual hashes of images that look alike may differ.
        exclude: record sets to keep out: records with an image of theirs, re-encoded ones too,
            and with a pair of texts of their records without images.
        resize: make images square JPEGs of so many pixels a side.
        resize_quality: of these JPEGs, from 1 to 100.
        shard_records: at most so many records a shard. A unit has a shard at least: small ones are
            not joined.
    """

    short_side_above: int | None = None
    aspect_below: float | None = None
    texts_per_image: int | None = None
    images_per_text: int | None = None
    min_words: int | None = None
    max_words: int | None = None
    max_characters: int | None = None
    language_detector: str | None = None
    deduplicate: tuple[str, ...] = ()
    near_distance: int = 4
    exclude: tuple[str, ...] = ()
    resize: int | None = None
    resize_quality: int = 95
    shard_records: int | None = None

    def __post_init__(self):
        for kind in self.deduplicate:
            lookup(_DUPLICATES, kind, "kind of duplicates")
        bounds = {"near_distance": (0, 15), "resize_quality": (1, 100)}
        least = {"aspect_below": 1, "short_side_above": 0, "max_characters": 0}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float):
                low, high = bounds.get(field.name, (least.get(field.name, 1), float("inf")))
                if not low <= value <= high:
                    to = f" to {high}" if field.name in bounds else " or more"
                    raise UserError(f"expected {field.name} of {low}{to}, got {value}")

    @property
    def questions(self):
        """Names of what must be asked of the whole corpus, see `questions.QUESTIONS`."""
        asked = {
            "texts per image": self.texts_per_image is not None,
            "images per text": self.images_per_text is not None,
            "exact": "exact" in self.deduplicate,
            "near": "near" in self.deduplicate,
        }
        return tuple(name for name, wanted in asked.items() if wanted)

    def recipe(self):
        """The steps that are taken, as a dict for the manifest; excluded sets by their contents.

        Raises:
            UserError: a set to exclude is missing or not whole.
        """
        chosen = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        if "near" in self.deduplicate or self.exclude:
            chosen["near_distance"] = self.near_distance
        if self.resize is not None:
            chosen["resize_quality"] = self.resize_quality
        if self.deduplicate:
            chosen["deduplicate"] = sorted(self.deduplicate)
        if self.exclude:
            opened = (records.RecordSet.open(folder) for folder in self.exclude)
            chosen["exclude"] = {name_of(found): found.digest for found in opened}
        return dict(sorted(chosen.items()))


def name_of(record_set):
    """What messages call an excluded set: "coco/test"."""
    manifest = record_set.manifest
    dataset = manifest["made_by"].get("dataset") or manifest["dataset"]
    return f"{dataset}/{os.path.basename(os.path.normpath(record_set.folder))}"
