"""Reads the settings of a tokenizer from the JSON files of a Hugging Face repository."""

import dataclasses
import json
import os
from collections.abc import Sequence

from tf_mural import file_io
from tf_mural.data import text_steps
from tf_mural.errors import UserError

# A repository may state the number of positions of its model as the length of texts. Padding each
# text to that length would waste memory, so that greater lengths are not used as a default.
_MAX_DEFAULT, _DEFAULT_MAX_TOKENS = 128, 64
_XLM_R_CLASSES = ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast")
_XLM_R_TYPES = ("xlm-roberta", "xlm-roberta-xl", "metaclip_2", "M-CLIP")
_SIGLIP_TYPES = ("siglip", "siglip2")
# The texts of SigLIP lack punctuation. Those of SigLIP 2 are only converted to lower case.
_SIGLIP_STEPS = ("lower_words", "strip_punctuation", "single_spaces", "strip")
# Roles of special tokens, by the names of Hugging Face.
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a tokenizer.

    Attributes:
        folder: folder of the files.
        tokenizer_class: class of Hugging Face, such as "SiglipTokenizer"; "" if unknown.
        model_type: type of the model of Hugging Face, such as "siglip"; "" if unknown.
        special: {role: token}, such as {"pad_token": "<pad>"}.
        max_tokens: number of tokens per text that a tokenizer has by default.
        lower_case: whether texts are converted to lower case; None: unknown.
        add_start, add_end: whether tokens are put before and behind texts; None: unknown.
    """

    folder: str
    tokenizer_class: str = ""
    model_type: str = ""
    special: dict = dataclasses.field(default_factory=dict)
    max_tokens: int = _DEFAULT_MAX_TOKENS
    lower_case: bool | None = None
    add_start: bool | None = None
    add_end: bool | None = None

    @property
    def is_xlm_r(self) -> bool:
        """Whether the ids are those of fairseq."""
        return self.tokenizer_class in _XLM_R_CLASSES or self.model_type in _XLM_R_TYPES

    @property
    def is_siglip(self) -> bool:
        """Whether the model is SigLIP or SigLIP 2."""
        return self.model_type in _SIGLIP_TYPES or self.tokenizer_class.startswith("Siglip")

    def steps(self, steps: Sequence[str], is_bpe: bool) -> tuple[str, ...]:
        """Returns the steps that normalize texts before the tokenizer does.

        Args:
            steps: names of the steps in the file of the tokenizer.
            is_bpe: whether the vocabulary is a byte-pair encoding. That of SigLIP 2 is.
        """
        if not self.is_siglip:
            return tuple(steps)  # Hugging Face's classes ignore do_lower_case, too.
        if is_bpe:
            return text_steps.with_lower_case(steps, True)
        return text_steps.with_lower_case(_SIGLIP_STEPS, self.lower_case)


def read_settings(folder: str | os.PathLike) -> Settings:
    """Reads the settings of the tokenizer in a folder. All files are optional.

    The files are tokenizer_config.json, special_tokens_map.json and config.json.

    Raises:
        UserError: a file does not contain a JSON object.
    """
    tokenizer = _read(folder, "tokenizer_config.json")
    model = _read(folder, "config.json")
    special = _read(folder, "special_tokens_map.json") | tokenizer
    special = {role: _content(special[role]) for role in _ROLES if special.get(role)}
    text_config = model.get("text_config") or {}
    lengths = (text_config.get("max_position_embeddings"), tokenizer.get("model_max_length"))
    lengths = [n for n in lengths if isinstance(n, int) and 0 < n <= _MAX_DEFAULT]
    return Settings(
        folder=os.fspath(folder),
        tokenizer_class=tokenizer.get("tokenizer_class") or "",
        model_type=model.get("model_type") or "",
        special=special,
        max_tokens=lengths[0] if lengths else _DEFAULT_MAX_TOKENS,
        lower_case=tokenizer.get("do_lower_case"),
        add_start=tokenizer.get("add_bos_token"),
        add_end=tokenizer.get("add_eos_token"),
    )


def _content(token):
    return token.get("content", "") if isinstance(token, dict) else token


def _read(folder, name):
    """Returns the JSON object in a file, {} if the file does not exist."""
    path = os.path.join(folder, name)
    return read_object(path) if file_io.exists(path) else {}


def read_object(path: str) -> dict:
    """Returns the JSON object in a file.

    Raises:
        UserError: the file does not contain a JSON object.
    """
    try:
        data = json.loads(file_io.read_bytes(path).decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); copy or download it again") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, found a {type(data).__name__}")
    return data
