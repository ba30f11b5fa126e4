"""One record: some images, some texts, and its bytes."""

import dataclasses
import functools
import re

from tf_mural.data.records import example_proto, tfrecord
from tf_mural.errors import UserError

_LARGEST_SCORE = 3.4028234e38  # of float32
_LANGUAGE = re.compile(r"[a-zA-Z]{2,3}(-[A-Za-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class Record:
    """Some images, some texts, and what else is known of them.

    Attributes:
        id: names the record in its corpus.
        images: encoded images (PNG, JPEG, ...).
        texts: pairs (language code, text); a language may come several times.
        label: class number from 0, or None.
        score: a finite number such as a similarity, or None.
    """

    id: str
    images: tuple[bytes, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    label: int | None = None
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Dropped:
    """What a converter read and leaves out.

    Attributes:
        reason: a few words, the same for each such case ("image missing"): cases are counted by it.
        what: this case ("row 17: images/a.png").
        text: True if a text alone is left out and its record stays.
    """

    reason: str
    what: str
    text: bool = False


def is_language(code):
    """Whether a string looks like a language code: "de", "chr", "zh-Hant"."""
    return _LANGUAGE.fullmatch(code) is not None


def serialize(record):
    """The bytes of a record as a tf.train.Example; equal records give equal bytes.

    They are those of the protobuf runtime, which takes several times as long.

    Raises:
        UserError: a language is no code, a text is blank, the label or the score out of range.
    """
    texts = []
    for code, text in record.texts:
        if not text or text.isspace():
            raise UserError(f"record {record.id!r}: its text in {code!r} is blank; leave it out")
        texts.append(text.encode())
    try:
        languages = _languages(tuple([code for code, _ in record.texts]))
    except ValueError as error:
        raise UserError(
            f"record {record.id!r}: expected a language code such as 'de', got {error}"
        ) from None
    features = example_proto.bytes_feature("id", (record.id.encode(),))
    features += example_proto.bytes_feature("images", record.images)  # in the order of their names
    if record.label is not None:
        if not 0 <= record.label < 2**63:
            raise UserError(f"record {record.id!r}: expected a label from 0, got {record.label}")
        features += example_proto.int_feature("label", record.label)
    features += languages
    if record.score is not None:
        if not abs(record.score) <= _LARGEST_SCORE:
            message = f"record {record.id!r}: expected a finite score, got {record.score}"
            raise UserError(message)
        features += example_proto.float_feature("score", record.score)
    features += example_proto.bytes_feature("texts", texts)
    return example_proto.example(features)


@functools.lru_cache(maxsize=4096)
def _languages(codes):
    """The feature of the languages of a record. Raises ValueError at what is none."""
    for code in codes:
        if not is_language(code):
            raise ValueError(repr(code))
    return example_proto.bytes_feature("languages", [code.encode() for code in codes])


def deserialize(data):
    """The record in the bytes that `serialize` gave. Raises ValueError if there is none."""
    from google.protobuf.message import DecodeError

    try:
        feature = tfrecord.example_class().FromString(data).features.feature
    except DecodeError as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error
    if "id" not in feature or not feature["id"].bytes_list.value:
        raise ValueError("a tf.train.Example without a feature 'id'")
    label, score = feature["label"].int64_list.value, feature["score"].float_list.value
    languages, texts = feature["languages"].bytes_list.value, feature["texts"].bytes_list.value
    pairs = zip(languages, texts, strict=True)
    return Record(
        id=feature["id"].bytes_list.value[0].decode(),
        images=tuple(feature["images"].bytes_list.value),
        texts=tuple((code.decode(), text.decode()) for code, text in pairs),
        label=label[0] if label else None,
        score=score[0] if score else None,
    )


def parse(serialized):
    """Parses records in the graph.

    Args:
        serialized: (n,) string tensor of what `serialize` gave.

    Returns:
        A dict: "id" (n,) string; "images", "texts", "languages" ragged (n, None) string, the last
        two aligned; "label" (n,) int64, -1 for none; "score" (n,) float32, nan for none.
    """
    import tensorflow as tf

    ragged = tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64)
    return tf.io.parse_example(
        serialized,
        {
            "id": tf.io.FixedLenFeature([], tf.string),
            "images": ragged,
            "texts": ragged,
            "languages": ragged,
            "label": tf.io.FixedLenFeature([], tf.int64, default_value=-1),
            "score": tf.io.FixedLenFeature([], tf.float32, default_value=float("nan")),
        },
    )
