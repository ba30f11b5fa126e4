"""SentencePiece models: reads them, changes their ids, and builds them from pieces with scores.

The ids of a model are the positions of its pieces. Therefore a change of ids, such as that of
XLM-R, is a change of the order of the pieces, and the graph contains no table of ids.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

from tf_mural import file_io
from tf_mural.errors import UserError

# Types of pieces in the proto of SentencePiece.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2  # types of models
SPACE = "▁"  # stands for a space in pieces
# Names of the special tokens in models of XLM-R. Other pieces follow, and the last one is <mask>.
_XLM_R = (("<s>", CONTROL), ("<pad>", CONTROL), ("</s>", CONTROL), ("<unk>", UNKNOWN))
# Fields of the trainer that change ids, with their numbers and defaults in the file format. The
# others, such as the paths of the training texts, are not stored.
_TRAINER_FIELDS = {
    "model_type": (3, UNIGRAM),
    "treat_whitespace_as_suffix": (24, False),
    "byte_fallback": (35, False),
    "unk_id": (40, 0),
    "bos_id": (41, 1),
    "eos_id": (42, 2),
    "pad_id": (43, -1),
    "unk_piece": (45, "<unk>"),
    "bos_piece": (46, "<s>"),
    "eos_piece": (47, "</s>"),
    "pad_piece": (48, "<pad>"),
}
_NORMALIZER_FIELDS = {
    "name": (1, ""),
    "precompiled_charsmap": (2, b""),
    "add_dummy_prefix": (3, True),
    "remove_extra_whitespaces": (4, True),
    "escape_whitespaces": (5, True),
    "normalization_rule_tsv": (6, ""),
}
_PIECE_FIELDS = {"piece": (1, ""), "score": (2, 0.0), "type": (3, NORMAL)}
_MODEL_TYPES = {UNIGRAM: "UNIGRAM", BPE: "BPE", 3: "WORD", 4: "CHAR"}


@functools.cache
def model_class() -> Any:
    """Returns the message class `ModelProto` of the files of SentencePiece.

    The class has only the fields that this module uses. The class of the package sentencepiece
    needs a newer version of protobuf than Apache Beam accepts. The class has its own descriptor
    pool, so that it does not clash with the class of that package.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    proto = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="sentencepiece.proto", package="sentencepiece")
    types = {bool: proto.TYPE_BOOL, int: proto.TYPE_INT32, float: proto.TYPE_FLOAT}
    types |= {str: proto.TYPE_STRING, bytes: proto.TYPE_BYTES}

    def add_fields(name, fields):
        message = file.message_type.add(name=name)
        for field, (number, default) in fields.items():
            text = str(default).lower() if isinstance(default, bool) else default
            message.field.add(
                name=field,
                number=number,
                label=proto.LABEL_OPTIONAL,
                type=types[type(default)],
                default_value=None if default in ("", b"") else str(text),
            )

    add_fields("Piece", _PIECE_FIELDS)
    add_fields("TrainerSpec", _TRAINER_FIELDS)
    add_fields("NormalizerSpec", _NORMALIZER_FIELDS)
    model = file.message_type.add(name="ModelProto")
    parts = (("pieces", "Piece"), ("trainer_spec", "TrainerSpec"))
    for number, (field, name) in enumerate(
        (*parts, ("normalizer_spec", "NormalizerSpec")), start=1
    ):
        model.field.add(
            name=field,
            number=number,
            label=proto.LABEL_REPEATED if field == "pieces" else proto.LABEL_OPTIONAL,
            type=proto.TYPE_MESSAGE,
            type_name=f".sentencepiece.{name}",
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sentencepiece.ModelProto"))


def read_model(path: str | os.PathLike) -> Any:
    """Reads a SentencePiece model.

    Returns:
        `ModelProto`.

    Raises:
        UserError: the file is missing, damaged, or is of a type other than unigram and BPE.
    """
    try:
        content = file_io.read_bytes(path)
    except OSError as error:
        raise UserError(
            f"SentencePiece model {path}: {error.strerror}; expected a file such as spiece.model"
        ) from error
    return parse_model(content, f"SentencePiece model {path}")


def parse_model(content: bytes, where: str = "the SentencePiece model") -> Any:
    """Parses the bytes of a SentencePiece model, and checks it.

    Args:
        content: content of a file *.model.
        where: name of the model in messages.

    Returns:
        `ModelProto` with only the fields that change ids.

    Raises:
        UserError: see `read_model`.
    """
    from google.protobuf.message import DecodeError

    proto = model_class()()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise UserError(f"{where} is damaged ({error}); copy or download it again") from error
    if not proto.pieces:
        raise UserError(f"{where} has no pieces; is it a complete SentencePiece model?")
    if proto.trainer_spec.model_type not in (UNIGRAM, BPE):
        name = _MODEL_TYPES.get(proto.trainer_spec.model_type, proto.trainer_spec.model_type)
        raise UserError(f"{where} is of the type {name}, expected UNIGRAM or BPE")
    unknown = [i for i, piece in enumerate(proto.pieces) if piece.type == UNKNOWN]
    if len(unknown) != 1:
        raise UserError(f"{where} has {len(unknown)} pieces for unknown texts, expected 1")
    return _essential(proto, unknown[0])


def _essential(proto, unknown_id):
    """Returns a copy of a model with only the fields that change ids."""
    result = model_class()()
    result.pieces.extend(proto.pieces)
    result.normalizer_spec.CopyFrom(proto.normalizer_spec)
    result.normalizer_spec.ClearField("name")
    result.normalizer_spec.ClearField("normalization_rule_tsv")
    for field in _TRAINER_FIELDS:
        setattr(result.trainer_spec, field, getattr(proto.trainer_spec, field))
    _set_special_ids(result, unknown_id)
    return result


def _set_special_ids(proto, unknown_id):
    """Makes the special ids of the trainer agree with the positions of the pieces."""
    trainer = proto.trainer_spec
    ids = {p.piece: i for i, p in enumerate(proto.pieces) if p.type == CONTROL}
    trainer.unk_id, trainer.unk_piece = unknown_id, proto.pieces[unknown_id].piece
    trainer.bos_id = ids.get(trainer.bos_piece, -1)
    trainer.eos_id = ids.get(trainer.eos_piece, -1)
    trainer.pad_id = ids.get(trainer.pad_piece, -1)


def build_model(
    pieces: Sequence[tuple[str, float, int]],
    model_type: int = UNIGRAM,
    charsmap: bytes = b"",
    dummy_prefix: bool = True,
    single_spaces: bool = True,
) -> Any:
    """Builds a model from pieces.

    Args:
        pieces: (piece, score, type of the piece) in the order of the ids.
        model_type: `UNIGRAM` or `BPE`.
        charsmap: compiled table of the normalization of characters; b"": no normalization.
        dummy_prefix: whether a space is put before each text.
        single_spaces: whether spaces at the start, at the end and of two or more are removed.

    Returns:
        `ModelProto`.

    Raises:
        UserError: a piece is a duplicate, or not exactly one piece has the type `UNKNOWN`.
    """
    proto, first = model_class()(), {}
    for i, (piece, score, kind) in enumerate(pieces):
        if first.setdefault(piece, i) != i:
            raise UserError(f"piece {piece!r} has the ids {first[piece]} and {i}, expected one id")
        proto.pieces.add(piece=piece, score=score, type=kind)
    proto.trainer_spec.model_type = model_type
    proto.trainer_spec.byte_fallback = any(kind == BYTE for _, _, kind in pieces)
    proto.normalizer_spec.precompiled_charsmap = charsmap
    proto.normalizer_spec.add_dummy_prefix = dummy_prefix
    proto.normalizer_spec.remove_extra_whitespaces = single_spaces
    proto.normalizer_spec.escape_whitespaces = True
    return parse_model(proto.SerializeToString(), "the vocabulary")


def xlm_r_model(proto: Any, where: str = "the SentencePiece model", has_mask: bool = True) -> Any:
    """Returns a model with the ids of XLM-R, MetaCLIP 2 and other models that fairseq trained.

    These ids are 0 for <s>, 1 for <pad>, 2 for </s>, 3 for <unk>. The other pieces follow with the
    ids of the file increased by 1, and the last id is that of <mask>.

    Args:
        proto: `ModelProto` whose first pieces are <unk>, <s> and </s>.
        where: name of the model in messages.
        has_mask: whether <mask> is appended.

    Raises:
        UserError: the model has other first pieces.
    """
    names = [piece.piece for piece in proto.pieces[:3]]
    if names != ["<unk>", "<s>", "</s>"]:
        raise UserError(
            f"{where} starts with the pieces {' '.join(names)}, but a model of XLM-R starts with "
            "<unk> <s> </s>"
        )
    result = model_class()()
    result.CopyFrom(proto)
    del result.pieces[:]
    for piece, kind in _XLM_R:
        result.pieces.add(piece=piece, score=0.0, type=kind)
    result.pieces.extend(proto.pieces[3:])
    if has_mask:
        result.pieces.add(piece="<mask>", score=0.0, type=CONTROL)
    result.trainer_spec.pad_piece = "<pad>"
    _set_special_ids(result, 3)
    return result
