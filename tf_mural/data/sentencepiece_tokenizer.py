"""A tokenizer for SentencePiece models, unigram and BPE, in TensorFlow.

Special tokens in a text are treated as plain text: "</s>" in a caption is four characters. Hugging
Face's tokenizers convert such a text to the special token. This difference is intended, because no
text may end the row of a model or mask a part of it.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from tf_mural.data import sentencepiece_model, text_steps
from tf_mural.data.base_tokenizer import BaseTokenizer
from tf_mural.data.wordpiece import import_tensorflow_text
from tf_mural.errors import UserError


class SentencePieceTokenizer(BaseTokenizer):
    """Maps strings to padded rows of token ids of a SentencePiece model.

    Args:
        model: `ModelProto`, or the content of a file *.model. The positions of its pieces are the
            token ids; see `sentencepiece_model.xlm_r_model` for XLM-R.
        max_tokens: number of tokens per row, including the tokens at the start and at the end.
        start: tokens before each text. None: none.
        end: tokens behind each text. None: the token </s> of the model, if it has one.
        pad_id: token that pads rows. None: the padding token of the model, or else that of `end`.
        steps: names of the steps that normalize texts before the model does (see `text_steps`).
        prefix: string that is put before each text.

    Raises:
        UserError: the model is damaged or of another type, or has no padding token, `max_tokens` is
            too small, or a step is unknown.
    """

    def __init__(
        self,
        model: Any,
        max_tokens: int = 64,
        start: Sequence[int] | None = None,
        end: Sequence[int] | None = None,
        pad_id: int | None = None,
        steps: Sequence[str] = (),
        prefix: str = "",
    ):
        content = model if isinstance(model, bytes) else model.SerializeToString()
        self._proto = sentencepiece_model.parse_model(content)
        trainer = self._proto.trainer_spec
        if end is None:
            end = () if trainer.eos_id < 0 else (trainer.eos_id,)
        if pad_id is None:
            pad_id = trainer.pad_id if trainer.pad_id >= 0 else next(iter(end), None)
        if pad_id is None:
            raise UserError("the SentencePiece model has no padding token: set pad_id")
        self._steps = text_steps.check_steps(steps)
        lower_case = text_steps.lowers(self._steps)
        super().__init__(max_tokens, pad_id, trainer.unk_id, start or (), end, lower_case, prefix)
        for token in (*self._start, *self._end, pad_id):
            if not 0 <= token < self.size:
                raise UserError(
                    f"the special token {token} is not an id of the vocabulary of {self.size} "
                    "pieces"
                )
        self._content = self._proto.SerializeToString(deterministic=True)
        _load(self._content)

    @property
    def model(self) -> bytes:
        """Content of a file *.model with the ids of this tokenizer."""
        return self._content

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps that normalize texts before the model does."""
        return self._steps

    @property
    def size(self) -> int:
        """Number of pieces, which is also the number of rows of an embedding table."""
        return len(self._proto.pieces)

    @functools.cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Pieces in the order of their ids. "▁" stands for a space."""
        return tuple(piece.piece for piece in self._proto.pieces)

    @functools.cached_property
    def hash(self) -> str:
        """Hash of the pieces, scores, normalization, special tokens and `prefix`."""
        settings = [self._start, self._end, self._pad_id, self._steps]
        content = self._content + json.dumps(settings).encode("utf-8")
        return f"sp-{hashlib.sha256(content).hexdigest()[:16]}{self._hash_suffix()}"

    @property
    def has_bytes(self) -> bool:
        """Whether characters that are not in the vocabulary are split into bytes."""
        return self._proto.trainer_spec.byte_fallback

    def _compute_pieces(self, strings):
        # The model belongs to the graph of the function. `tf.random.set_seed` deletes models that
        # were created outside of graphs, and a SavedModel would have to track them.
        return _build(self._content).tokenize(text_steps.apply(strings, self._steps))

    @functools.cached_property
    def _space_ids(self):
        space = {sentencepiece_model.SPACE}
        return tuple(i for i, piece in enumerate(self._proto.pieces) if set(piece.piece) == space)


def _build(content):
    tf, tensorflow_text = import_tensorflow_text()
    with tf.device("CPU"):
        return tensorflow_text.SentencepieceTokenizer(content, out_type=tf.int32)


def _load(content):
    """Checks that a SentencePiece model can be used."""
    tf, _ = import_tensorflow_text()
    try:
        with tf.init_scope():
            _build(content)
    except tf.errors.OpError as error:
        raise UserError(f"the SentencePiece model cannot be used: {error.message}") from error
