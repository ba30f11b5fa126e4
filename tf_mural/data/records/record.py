"""Record: images and texts of one example, and its serialization as tf.train.Example."""

import dataclasses
import functools
import re
import struct

import numpy as np

from tf_mural import languages
from tf_mural.data.records import tfrecord
from tf_mural.data.records.vectors import DTYPES, check_name
from tf_mural.errors import UserError

# Roles of texts. The role of a text is that of a caption unless `Record.roles` says otherwise.
ROLES = {"caption": 0, "query": 1, "passage": 2, "negative": 3, "tag": 4, "switched": 5}

NOT_LANGUAGES = "they are not languages"  # reason why columns and codes are ignored
VECTORS, WIDTH = "vectors/", "/width"  # parts of the names of the features of vectors
_MAX_SCORE = 3.4028234e38  # largest finite value of float32
_LANGUAGE = re.compile(r"[a-zA-Z]{2,3}(-[A-Za-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class Record:
    """Images and texts of one example, with an optional label and score.

    `roles`, `labels` and `vectors` are optional too: a record without them has the same bytes as
    before these attributes existed.

    Attributes:
        id: unique name in the corpus.
        images: contents of image files (PNG, JPEG, ...), as bytes.
        texts: pairs (language code, text); a language may occur several times.
        label: class number from 0, or None.
        score: a finite number such as a similarity, or None.
        roles: one value of `ROLES` per text, or () if all texts are captions.
        labels: class numbers from 0 of a record with several classes.
        vectors: {name: float16 or float32 array (k, width)}, precomputed vectors. The manifest of
            a record set describes them, see `records.vectors`.
    """

    id: str
    images: tuple[bytes, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    label: int | None = None
    score: float | None = None
    roles: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    vectors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, compare=False)

    def __eq__(self, other):
        """Compares all attributes; vectors are equal if their dtypes and values are equal."""
        if not isinstance(other, Record):
            return NotImplemented
        names = [field.name for field in dataclasses.fields(self) if field.compare]
        return (
            all(getattr(self, name) == getattr(other, name) for name in names)
            and self.vectors.keys() == other.vectors.keys()
            and all(
                rows.dtype == other.vectors[name].dtype
                and np.array_equal(rows, other.vectors[name])
                for name, rows in self.vectors.items()
            )
        )


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

    The bytes equal those of the protobuf runtime, which is several times slower. (The runtime
    writes "labels" before "label", and likewise other names of which one starts with the other.)

    Raises:
        UserError: a language code is invalid, a text is blank, a label, role or score is out of
            range, or the vectors are not finite arrays (k, width) of float16 or float32.
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
    if record.labels:
        if min(record.labels) < 0:
            raise UserError(f"record {record.id!r}: expected labels from 0, got {record.labels}")
        features += _ints_feature("labels", record.labels)
    features += languages
    if record.roles:
        features += _roles_feature(record)
    if record.score is not None:
        if not abs(record.score) <= _MAX_SCORE:
            message = f"record {record.id!r}: expected a finite score, got {record.score}"
            raise UserError(message)
        features += _float_feature("score", record.score)
    features += _bytes_feature("texts", texts)
    if record.vectors:
        features += _vector_features(record)
    return b"\n" + _varint(len(features)) + features


@functools.lru_cache(maxsize=4096)
def _languages_feature(codes):
    """Returns the feature "languages". Raises ValueError if a code is invalid."""
    for code in codes:
        if not is_language(code):
            raise ValueError(repr(code))
    return _bytes_feature("languages", [code.encode() for code in codes])


def _roles_feature(record):
    if len(record.roles) != len(record.texts) or not {*record.roles} <= {*ROLES.values()}:
        raise UserError(
            f"record {record.id!r}: expected one role from 0 to {len(ROLES) - 1} for each of its "
            f"{len(record.texts)} texts, got {record.roles}"
        )
    return _ints_feature("roles", record.roles)


def _vector_features(record):
    """Returns the features of all vectors: one bytes value per row, and the width of a row."""
    features = {}
    for name, rows in record.vectors.items():
        check_name(name)
        rows = np.asarray(rows)
        if rows.ndim != 2 or str(rows.dtype) not in DTYPES:
            raise UserError(
                f"record {record.id!r}: expected vectors {name!r} as a float16 or float32 array "
                f"(k, width), got {rows.dtype} {rows.shape}"
            )
        if not np.isfinite(rows).all():
            row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise UserError(
                f"record {record.id!r}: row {row} of the vectors {name!r} is not finite; expected "
                "finite values, at most 65,504 in float16"
            )
        if len(rows):
            key = VECTORS + name
            data = rows.astype(DTYPES[str(rows.dtype)], copy=False)
            features[key] = _bytes_feature(key, [row.tobytes() for row in data])
            features[key + WIDTH] = _int_feature(key + WIDTH, rows.shape[1])
    return b"".join(features[key] for key in sorted(features))


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
        roles=tuple(feature["roles"].int64_list.value) if "roles" in feature else (),
        labels=tuple(feature["labels"].int64_list.value) if "labels" in feature else (),
        vectors={
            key.removeprefix(VECTORS): _vectors(feature, key)
            for key in sorted(feature)
            if key.startswith(VECTORS) and not key.endswith(WIDTH)
        },
    )


def _vectors(feature, key):
    """Returns the array (k, width) of a feature with rows of vectors."""
    rows = feature[key].bytes_list.value
    widths = feature[key + WIDTH].int64_list.value if key + WIDTH in feature else (0,)
    dtypes = {dtype.itemsize: dtype for dtype in DTYPES.values()}
    sizes = {len(row) for row in rows}
    itemsize = sizes.pop() / widths[0] if len(sizes) == 1 and widths[0] > 0 else 0
    if sizes or itemsize not in dtypes:
        raise ValueError(f"the feature {key!r} does not contain rows of {widths[0]} values")
    return np.frombuffer(b"".join(rows), dtypes[itemsize]).reshape(len(rows), widths[0])


def parse(serialized, vectors=()):
    """Parses serialized records in the TensorFlow graph.

    Args:
        serialized: string (n,), results of `serialize`.
        vectors: names of the vectors to return.

    Returns:
        A dict: "id" string (n,); "images", "texts" and "languages" ragged string (n, None), with
        one language per text; "label" int64 (n,), -1 for a record without a label; "score" float32
        (n,), nan for a record without a score; "vectors/<name>" ragged string (n, None), the bytes
        of each row, for each name of `vectors`.
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
            **{VECTORS + name: ragged for name in vectors},
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
    return _ints_feature(name, (value,))


def _ints_feature(name, values):
    """Encodes a feature with a list of nonnegative integers."""
    numbers = b"".join(_varint(int(value)) for value in values)
    return _feature(name, b"\x1a", b"\n" + _varint(len(numbers)) + numbers)


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
