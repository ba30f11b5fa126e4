"""Record: images and texts of one example, and its serialization as tf.train.Example."""

import dataclasses
import functools
import re
import struct

from tf_mural import languages
from tf_mural.data.records import tfrecord
from tf_mural.errors import UserError

NOT_LANGUAGES = "they are not languages"  # reason why columns and codes are ignored
_MAX_SCORE = 3.4028234e38  # largest finite value of float32
_LANGUAGE = re.compile(r"[a-zA-Z]{2,3}(-[A-Za-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class Record:
    """Images and texts of one example, with an optional label and score.

    Attributes:
        id: unique name in the corpus.
        images: contents of image files (PNG, JPEG, ...), as bytes.
        texts: pairs (language code, text); a language may occur several times.
        label: class number from 0, or None.
        score: a finite number such as a similarity, or None.
    """

    id: str
    images: tuple[bytes, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    label: int | None = None
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A record or text that a converter read and left out.

    Attributes:
        reason: short description of the problem ("image missing"). Converters count the skipped
            records and texts by reason.
        example: name of the record or text ("row 17: images/a.png").
        text_only: True if only a text was left out and its record is kept.
    """

    reason: str
    example: str
    text_only: bool = False


@dataclasses.dataclass(frozen=True)
class InputParts:
    """Parts of the input, other than records and texts, that a converter used or ignored.

    Attributes:
        kind: plural noun: "files", "columns", "rows", "members" (of archives) or "language codes"
            (one for each text or column that has the code).
        count: number of parts.
        ignored: the reason why the parts were ignored, as the end of the sentence "3 columns are
            ignored because ..." ("they are not languages"); None if they were used.
        example: name of one part.
        option: option of the data set with which such a part is used ("columns=alt:en"), or "".
        change: how a used part is stored in another form ("pt_BR is stored as pt"), or "".
    """

    kind: str
    count: int = 1
    ignored: str | None = None
    example: str = ""
    option: str = ""
    change: str = ""

    @classmethod
    def language_code(cls, name, language, count=1):
        """Returns the parts for a language code or name in the form of the input.

        Args:
            name: the code.
            language: the `languages.Language` of the code, or None if the code is unknown.
            count: number of texts or columns with this code.
        """
        if language is None:
            return cls("language codes", count, NOT_LANGUAGES, name + languages.hint(name))
        change = "" if name == language.code else language.describe_change(name)
        return cls("language codes", count, None, name, change=change)


def is_language(code):
    """Returns whether a string has the form of a language code: "de", "chr", "zh-Hant"."""
    return _LANGUAGE.fullmatch(code) is not None


def serialize(record):
    """Serializes a record as a tf.train.Example; equal records give equal bytes.

    The bytes equal those of the protobuf runtime, which is several times slower.

    Raises:
        UserError: a language code is invalid, a text is blank, or label or score is out of range.
    """
    texts = []
    for code, text in record.texts:
        if not text or text.isspace():
            raise UserError(f"record {record.id!r}: the text in {code!r} is blank; leave it out")
        texts.append(text.encode())
    try:
        languages = _languages_feature(tuple([code for code, _ in record.texts]))
    except ValueError as error:
        raise UserError(
            f"record {record.id!r}: expected a language code such as 'de', got {error}"
        ) from None
    # The features are written in alphabetical order of their names.
    features = _bytes_feature("id", (record.id.encode(errors="backslashreplace"),))
    features += _bytes_feature("images", record.images)
    if record.label is not None:
        if not 0 <= record.label < 2**63:
            raise UserError(f"record {record.id!r}: expected a label from 0, got {record.label}")
        features += _int_feature("label", record.label)
    features += languages
    if record.score is not None:
        if not abs(record.score) <= _MAX_SCORE:
            message = f"record {record.id!r}: expected a finite score, got {record.score}"
            raise UserError(message)
        features += _float_feature("score", record.score)
    features += _bytes_feature("texts", texts)
    return b"\n" + _varint(len(features)) + features


@functools.lru_cache(maxsize=4096)
def _languages_feature(codes):
    """Returns the feature "languages". Raises ValueError if a code is invalid."""
    for code in codes:
        if not is_language(code):
            raise ValueError(repr(code))
    return _bytes_feature("languages", [code.encode() for code in codes])


def deserialize(data):
    """Returns the record that `serialize` encoded. Other bytes raise ValueError."""
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
    """Parses serialized records in the TensorFlow graph.

    Args:
        serialized: string (n,), results of `serialize`.

    Returns:
        A dict: "id" string (n,); "images", "texts" and "languages" ragged string (n, None), with
        one language per text; "label" int64 (n,), -1 for a record without a label; "score" float32
        (n,), nan for a record without a score.
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


# --- wire format of tf.train.Example --------------------------------------------------------------


def _bytes_feature(name, values):
    """Encodes a feature with a list of bytes."""
    encoded = b"".join([b"\n" + _varint(len(value)) + value for value in values])
    return _feature(name, b"\n", encoded)


def _float_feature(name, value):
    """Encodes a feature with a single float."""
    return _feature(name, b"\x12", b"\n\4" + struct.pack("<f", value))


def _int_feature(name, value):
    """Encodes a feature with a single nonnegative integer."""
    number = _varint(int(value))
    return _feature(name, b"\x1a", b"\n" + _varint(len(number)) + number)


def _feature(name, tag, encoded):
    """Encodes a named feature as nested messages, each of which is a tag, a length and bytes."""
    encoded = tag + _varint(len(encoded)) + encoded
    entry = b"".join((_key(name), b"\x12", _varint(len(encoded)), encoded))
    return b"\n" + _varint(len(entry)) + entry


@functools.cache
def _key(name):
    return b"\n" + _varint(len(name)) + name.encode()


@functools.lru_cache(maxsize=1 << 15)
def _varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
