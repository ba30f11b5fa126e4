"""Opens the tokenizer in a file or a folder; the type of the file decides which tokenizer it is."""

import os

from tf_mural import file_io
from tf_mural.data import byte_pair_files, sentencepiece_model, text_steps, tokenizer_json
from tf_mural.data.base_tokenizer import BaseTokenizer
from tf_mural.data.byte_pair_tokenizer import CLIP_STEPS, BytePairTokenizer
from tf_mural.data.sentencepiece_tokenizer import SentencePieceTokenizer
from tf_mural.data.tokenizer_settings import Settings, read_object, read_settings
from tf_mural.data.tokenizers import Tokenizer, save_vocabulary
from tf_mural.errors import UserError

# Files that describe a tokenizer completely, the preferred file first.
FILES = (
    "tokenizer.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "vocab.txt",
    byte_pair_files.VOCABULARY,
    byte_pair_files.MERGES,
    byte_pair_files.CLIP_FILE,
)
# Files of saved tokenizers. tokenizer.json of Hugging Face has the key "model", this one has not.
_DESCRIPTION, _VOCABULARY, _MODEL = "tokenizer.json", "vocabulary.txt", "sentencepiece.model"


def open_tokenizer(
    path: str | os.PathLike,
    max_tokens: int | None = None,
    *,
    lower_case: bool | None = None,
    prefix: str = "",
) -> BaseTokenizer:
    """Opens a tokenizer; the file type decides which one it is.

    | File | Tokenizer |
    | --- | --- |
    | tokenizer.json of Hugging Face | WordPiece, Unigram, BPE, or byte-level BPE of CLIP |
    | spiece.model, sentencepiece.bpe.model, tokenizer.model, any *.model | SentencePiece |
    | vocab.txt, any *.txt | WordPiece |
    | vocab.json with merges.txt, bpe_simple_vocab_16e6.txt.gz | byte-level BPE of CLIP |

    The files tokenizer_config.json, special_tokens_map.json and config.json in the same folder give
    the special tokens, the default of `max_tokens`, and whether texts are converted to lower case.
    Rows are always padded to `max_tokens`, as in the training of CLIP and SigLIP.

    Args:
        path: file, or a folder with one of the files.
        max_tokens: number of tokens per row, including special tokens. None: the length with which
            the model was trained, if the files state one of at most 128, or else 64.
        lower_case: whether texts are converted to lower case. None: as the files say.
        prefix: string that is put before each text, such as "query: " of E5.

    Returns:
        A tokenizer with the interface of `Tokenizer`.

    Raises:
        UserError: there is no such file, or it is damaged or of another type, or a special token is
            missing, or `max_tokens` is too small.
    """
    path = os.fspath(path)
    settings = read_settings(path if file_io.isdir(path) else os.path.dirname(path))
    if file_io.isdir(path):
        if (description := read_description(path)) is not None:
            return load(path, description, max_tokens, lower_case, prefix)
        path = _find(path, settings)
    elif not file_io.exists(path):
        raise UserError(f"no tokenizer {path}: there is no such file or folder")
    max_tokens = settings.max_tokens if max_tokens is None else max_tokens
    if path.endswith(".model"):
        return _open_sentencepiece(path, settings, max_tokens, lower_case, prefix)
    name = os.path.basename(path)
    if name in (byte_pair_files.VOCABULARY, byte_pair_files.MERGES) or name.endswith(".txt.gz"):
        return _open_byte_pair(path, settings, max_tokens, lower_case, prefix)
    if name.endswith(".json"):
        return tokenizer_json.open_json(path, settings, max_tokens, lower_case, prefix)
    if name.endswith(".txt"):
        lower_case = settings.lower_case if lower_case is None else lower_case
        return Tokenizer(path, max_tokens, bool(lower_case), prefix)
    raise UserError(
        f"tokenizer {path}: unknown file type, expected *.txt with WordPiece pieces, *.model of "
        f"SentencePiece, tokenizer.json, vocab.json or {byte_pair_files.CLIP_FILE}"
    )


def _find(folder, settings):
    # Hugging Face reads SigLIP's spiece.model, even if there is a tokenizer.json.
    first = 1 if settings.tokenizer_class == "SiglipTokenizer" else 0
    for name in (*FILES[first:], *FILES[:first]):
        if file_io.exists(path := os.path.join(folder, name)):
            return path
    raise UserError(f"{folder} has no tokenizer; expected one of {', '.join(FILES)}")


def _open_sentencepiece(path, settings: Settings, max_tokens, lower_case, prefix):
    where = f"SentencePiece model {path}"
    proto = sentencepiece_model.read_model(path)
    is_xlm_r = settings.is_xlm_r or os.path.basename(path) == "sentencepiece.bpe.model"
    if is_xlm_r:
        proto = sentencepiece_model.xlm_r_model(proto, where)
    steps = settings.steps((), proto.trainer_spec.model_type == sentencepiece_model.BPE)
    trainer = proto.trainer_spec
    start = _ids(proto, settings, "bos_token", trainer.bos_id, where)
    end = _ids(proto, settings, "eos_token", trainer.eos_id, where)
    pad = _ids(proto, settings, "pad_token", trainer.pad_id, where) or end
    if not pad:
        raise UserError(f"{where} has no padding token: it has neither <pad> nor </s>")
    add_start = is_xlm_r or (settings.add_start or False)
    add_end = is_xlm_r or settings.add_end is not False
    return SentencePieceTokenizer(
        proto,
        max_tokens,
        start=start if add_start else (),
        end=end if add_end else (),
        pad_id=pad[0],
        steps=text_steps.with_lower_case(steps, lower_case),
        prefix=prefix,
    )


def _open_byte_pair(path, settings: Settings, max_tokens, lower_case, prefix):
    if path.endswith(".gz"):
        pieces, merges = byte_pair_files.read_clip_file(path)
    else:
        pieces, merges = byte_pair_files.read_vocabulary(os.path.dirname(path))
    start, end = byte_pair_files.CLIP_SPECIAL_TOKENS
    special = {"bos_token": start, "eos_token": end} | settings.special
    special.setdefault("pad_token", special["eos_token"])
    ids = {}
    for role in ("bos_token", "eos_token", "pad_token"):
        if special[role] not in pieces:
            raise UserError(
                f"{path} has no piece {special[role]!r}, which is the {role}; state the special "
                "tokens in tokenizer_config.json"
            )
        ids[role] = pieces.index(special[role])
    return BytePairTokenizer(
        pieces,
        merges,
        max_tokens,
        start=(ids["bos_token"],),
        end=(ids["eos_token"],),
        pad_id=ids["pad_token"],
        steps=text_steps.with_lower_case(CLIP_STEPS, lower_case),
        prefix=prefix,
    )


def _ids(proto, settings, role, default, where):
    """Returns the id of a special token as a tuple with one element, () if it has none."""
    token = settings.special.get(role)
    if token is None:
        return (default,) if default >= 0 else ()
    ids = [i for i, piece in enumerate(proto.pieces) if piece.piece == token]
    if not ids:
        raise UserError(
            f"{where} has no piece {token!r}, which is the {role} of {settings.folder}; the files "
            "belong to different tokenizers"
        )
    return tuple(ids)


# --- saved tokenizers -----------------------------------------------------------------------------


def save(tokenizer: BaseTokenizer, folder: str) -> None:
    """Writes a tokenizer to a folder, from which `load` and `open_tokenizer` read it.

    Args:
        tokenizer: a tokenizer of this package.
        folder: output folder, which is created if it does not exist.
    """
    file_io.makedirs(folder)
    settings = {"max_tokens": tokenizer.max_tokens, "prefix": tokenizer.prefix}
    if not isinstance(tokenizer, Tokenizer):
        settings |= {"start": list(tokenizer.start), "end": list(tokenizer.end)}
        settings |= {"pad_id": tokenizer.pad_id, "steps": list(tokenizer.steps)}
    if isinstance(tokenizer, BytePairTokenizer):
        settings["type"] = "bytepair"
        byte_pair_files.write_vocabulary(folder, tokenizer.vocabulary, tokenizer.merges)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        settings["type"] = "sentencepiece"
        path = os.path.join(folder, _MODEL)
        with file_io.atomic_write(path) as temporary, file_io.open_file(temporary, "wb") as file:
            file.write(tokenizer.model)
    else:
        settings |= {"type": "wordpiece", "lower_case": tokenizer.lower_case}
        save_vocabulary(os.path.join(folder, _VOCABULARY), tokenizer.vocabulary)
    write_description(folder, settings)


def write_description(folder: str, description: dict) -> None:
    """Writes the description of a saved tokenizer."""
    file_io.write_json(os.path.join(folder, _DESCRIPTION), description)


def read_description(folder: str) -> dict | None:
    """Returns the description of a saved tokenizer; None if the folder contains none.

    Raises:
        UserError: the file does not contain a JSON object.
    """
    path = os.path.join(folder, _DESCRIPTION)
    if not file_io.exists(path):
        return None
    description = read_object(path)
    return description if "max_tokens" in description and "model" not in description else None


def load(folder, description, max_tokens=None, lower_case=None, prefix="") -> BaseTokenizer:
    """Reads a tokenizer that `save` wrote.

    Args:
        folder: folder of the tokenizer.
        description: result of `read_description`.
        max_tokens, lower_case, prefix: values that replace those of the description unless they are
            None or "".

    Raises:
        UserError: a file is missing or damaged.
    """
    kind = description.get("type", "wordpiece")
    keys = {"lower_case"} if kind == "wordpiece" else {"start", "end", "pad_id", "steps"}
    if kind not in ("wordpiece", "bytepair", "sentencepiece") or keys - description.keys():
        raise UserError(
            f"{os.path.join(folder, _DESCRIPTION)} describes no tokenizer that save_tokenizer "
            "wrote; copy the complete folder again"
        )
    max_tokens = max_tokens or description["max_tokens"]
    prefix = prefix or description.get("prefix", "")
    if kind == "wordpiece":
        lower_case = description["lower_case"] if lower_case is None else lower_case
        return Tokenizer(os.path.join(folder, _VOCABULARY), max_tokens, lower_case, prefix)
    options = {
        "max_tokens": max_tokens,
        "start": description["start"],
        "end": description["end"],
        "pad_id": description["pad_id"],
        "steps": text_steps.with_lower_case(description["steps"], lower_case),
        "prefix": prefix,
    }
    if kind == "bytepair":
        return BytePairTokenizer(*byte_pair_files.read_vocabulary(folder), **options)
    proto = sentencepiece_model.read_model(os.path.join(folder, _MODEL))
    return SentencePieceTokenizer(proto, **options)
