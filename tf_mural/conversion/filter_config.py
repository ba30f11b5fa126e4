"""Options of a conversion that apply to any data set: filters, excluded sets, resizing."""

import dataclasses
import os

from tf_mural.data import records
from tf_mural.data.image_normalization import parse_color
from tf_mural.data.preprocessing import METHODS
from tf_mural.errors import UserError, lookup

# The filters of MURAL's image-text data: the filters of ALIGN with other thresholds.
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
class FilterConfig:
    """The filters of a conversion as plain data. By default, nothing is filtered.

    Filters of single records run first; then records of excluded sets are dropped. The filters that
    need the whole corpus (`texts_per_image`, `images_per_text`, `deduplicate`) get the remaining
    records and do not depend on each other: a record is dropped as a duplicate even if the other
    copy is dropped for another reason.

    Attributes:
        short_side_above: drop records with an image whose shorter side has at most this many
            pixels.
        aspect_below: drop records with an image whose longer side is at least this many times the
            shorter one.
        texts_per_image: drop records with an image that occurs with more than this many different
            texts in the corpus.
        images_per_text: drop texts that occur with more than this many different images in the
            corpus.
        min_words: drop texts with fewer than this many words (characters, if the language is
            written without spaces).
        max_words: drop texts with more than this many words (characters, if the language is written
            without spaces).
        max_characters: drop texts with more than this many characters.
        language_detector: drop texts whose detected language is not the stated one. The detector is
            cld3, or your own function as package.module:function.
        deduplicate: "exact" drops records that equal an earlier record in images, texts, label and
            score; "near" drops records with an image that looks like an image of an earlier record.
        near_distance: maximum number of bits in which the perceptual hashes of similar images
            differ.
        exclude: folders of record sets. A record is dropped if one of its images occurs in these
            sets, even with another format or JPEG quality. A record is also dropped if two of its
            texts occur together in an excluded record without images.
        resize: convert images to squares whose sides have this many pixels; see
            `image_probe.resize_image`.
        resize_quality: quality of the resized JPEGs, from 1 to 100.
        resize_method: method of resizing, such as bilinear or bicubic, see
            `preprocessing.Preprocessing`.
        resize_antialias: whether a filter prevents aliasing when images are made smaller, as in
            Pillow.
        background: color of transparent pixels of the images, such as black or #ffcc00.
        shard_records: maximum number of records in a shard. Each unit has at least one shard; small
            units are not joined. None: one shard per unit.
        block_records: maximum number of records in a block. Training on a record set that is too
            large to be shuffled as a whole reads blocks.
        block_bytes: maximum number of bytes in a block. A larger record is a block by itself.
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
    resize_method: str = "bilinear"
    resize_antialias: bool = False
    background: str = "white"
    shard_records: int | None = None
    block_records: int = records.BLOCK_RECORDS
    block_bytes: int = records.BLOCK_BYTES

    def __post_init__(self):
        for kind in self.deduplicate:
            lookup(_DUPLICATES, kind, "kind of duplicates")
        lookup(dict.fromkeys(METHODS), self.resize_method, "method of resizing")
        parse_color(self.background)
        if self.resize is None and (self.resize_method != "bilinear" or self.resize_antialias):
            raise UserError("resize_method and resize_antialias need resize, the size in pixels")
        bounds = {"near_distance": (0, 15), "resize_quality": (1, 100)}
        minimum = {"aspect_below": 1, "short_side_above": 0, "max_characters": 0}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                low, high = bounds.get(field.name, (minimum.get(field.name, 1), float("inf")))
                if not low <= value <= high:
                    to = f" to {high}" if field.name in bounds else " or more"
                    raise UserError(f"expected {field.name} of {low}{to}, got {value}")

    @property
    def corpus_filters(self):
        """Names of the active filters of `corpus_filters.CORPUS_FILTERS`."""
        active = {
            "texts per image": self.texts_per_image is not None,
            "images per text": self.images_per_text is not None,
            "exact": "exact" in self.deduplicate,
            "near": "near" in self.deduplicate,
        }
        return tuple(name for name, is_active in active.items() if is_active)

    def to_recipe(self):
        """Returns the options that differ from the defaults as a dict for the manifest.

        Excluded sets appear with the digest of their contents.

        Raises:
            UserError: an excluded record set is missing or incomplete.
        """
        options = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        if "near" in self.deduplicate or self.exclude:
            options["near_distance"] = self.near_distance
        if self.resize is not None:
            options["resize_quality"] = self.resize_quality
        if self.deduplicate:
            options["deduplicate"] = sorted(self.deduplicate)
        if self.exclude:
            record_sets = (records.RecordSet.open(folder) for folder in self.exclude)
            options["exclude"] = {record_set_name(s): s.digest for s in record_sets}
        return dict(sorted(options.items()))


def record_set_name(record_set):
    """Returns the name of an excluded set for messages, such as "coco/test"."""
    manifest = record_set.manifest
    dataset = manifest["made_by"].get("dataset") or manifest["dataset"]
    return f"{dataset}/{os.path.basename(os.path.normpath(record_set.folder))}"
