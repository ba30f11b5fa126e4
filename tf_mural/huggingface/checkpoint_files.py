"""Downloads the files of a Hugging Face checkpoint, and reads JSON files and tensors."""

import glob
import json
import os

import numpy as np

from tf_mural.errors import UserError, lookup

# The last files belong to tokenizers and to the modules of sentence-transformers.
_DESCRIPTIONS = (
    "*config.json",
    "vocab.txt",
    "tokenizer.json",
    "special_tokens_map.json",
    "*.model",
    "vocab.json",
    "merges.txt",
    "modules.json",
)
# Weights may be sharded: the index then names model-00001-of-00002.safetensors and so on.
WEIGHTS = "model.safetensors"
_WEIGHT_PATTERNS = (WEIGHTS, f"{WEIGHTS}.index.json", "model-*.safetensors", f"*_Dense/{WEIGHTS}")
_PICKLES = "pytorch_model*.bin"
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def fetch(name, weights=False):
    """Returns the folder of a checkpoint, and downloads the checkpoint if necessary.

    Args:
        name: folder, or name on huggingface.co ("owner/model").
        weights: True downloads the weights, False only the files that describe the model.

    Raises:
        UserError: the folder does not exist, or the checkpoint cannot be downloaded.
    """
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        return folder
    if not name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(
            f"no folder {name!r}; expected a folder with the config.json and the weights of a "
            "checkpoint, or a name on huggingface.co such as kakaobrain/align-base"
        )
    folder = _download(name, _WEIGHT_PATTERNS if weights else _DESCRIPTIONS)
    if weights and not _weight_files(folder):
        raise UserError(
            f"{name} has no {WEIGHTS} on huggingface.co; if it has pytorch_model.bin, which is a "
            f"pickle, download it with `hf download {name} --local-dir FOLDER`, convert it with "
            f"`{_conversion('FOLDER')}`, which needs torch and safetensors, and give hf:FOLDER"
        )
    return folder


def _download(name, patterns):
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"downloading {name} needs huggingface_hub: pip install huggingface_hub, or give the "
            "folder of a checkpoint"
        ) from error
    try:
        return huggingface_hub.snapshot_download(name, allow_patterns=list(patterns))
    except Exception as error:  # the hub, the network and the disk raise errors of many types
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        kinds = [kind.__name__ for kind in type(error).__mro__]
        advice = next((text for kind, text in _ADVICE.items() if kind in kinds), _OTHER_ADVICE)
        raise UserError(
            f"{name} cannot be downloaded from huggingface.co ({reason}); "
            + advice.format(name=name)
        ) from error


# Names of errors of huggingface_hub, the more special ones first.
_ADVICE = {
    "GatedRepoError": (
        "the access is restricted: open https://huggingface.co/{name}, accept the terms, and log "
        "in with `hf auth login`"
    ),
    "RepositoryNotFoundError": (
        "there is no public model of this name: check the spelling, or log in with `hf auth login` "
        "if the model is private"
    ),
    "HFValidationError": "expected a name such as google/siglip2-base-patch16-224, or a folder",
    "LocalEntryNotFoundError": (
        "there is no connection, and no copy in the cache: connect this machine, or download the "
        "checkpoint on another machine with `hf download {name} --local-dir FOLDER`, copy the "
        "folder and give hf:FOLDER"
    ),
}
_OTHER_ADVICE = (
    "check the name and the connection, or download the checkpoint on another machine with "
    "`hf download {name} --local-dir FOLDER`, copy the folder and give hf:FOLDER"
)


def read_json(folder, name, optional=False):
    """Returns the content of a JSON file, or None if an optional file does not exist.

    Raises:
        UserError: a required file is missing, or the file does not contain a JSON object.
    """
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        if optional:
            return None
        raise UserError(f"{folder} has no {name}; expected the folder of a complete checkpoint")
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def read_tensors(folder):
    """Returns {name: array} of all tensors, which are memory-mapped.

    Raises:
        UserError: there are no weights, a file is missing or damaged, or the weights are pickles,
            which may run any code when they are read.
    """
    paths = _weight_files(folder)
    pickles = sorted(glob.glob(os.path.join(glob.escape(folder), _PICKLES)))
    if not paths and pickles:
        raise UserError(
            f"{pickles[0]} is a pickle, which may run any code when it is read; convert it once, "
            f"with torch and safetensors installed: {_conversion(folder)}"
        )
    if not paths:
        raise UserError(f"{folder} has no weights; expected {WEIGHTS}")
    tensors = {}
    for path in paths:
        if not os.path.exists(path):
            raise UserError(f"{path} is missing, but the index names it; download this file again")
        tensors |= _read_safetensors(path)
    return tensors


def _conversion(folder):
    """Returns a shell command that converts all pickles of a folder to one safetensors file."""
    pickles, target = os.path.join(folder, _PICKLES), os.path.join(folder, WEIGHTS)
    code = (
        "import glob, torch, safetensors.torch as s; t = {}; "
        f"[t.update(torch.load(f, 'cpu', weights_only=True)) for f in glob.glob({pickles!r})]; "
        f"s.save_file({{k: v.clone().contiguous() for k, v in t.items()}}, {target!r})"
    )
    return f'python -c "{code}"'


def _weight_files(folder):
    """Returns the paths of the weights: a single file or all shards; [] if there are no weights."""
    if os.path.exists(path := os.path.join(folder, WEIGHTS)):
        return [path]
    index = read_json(folder, f"{WEIGHTS}.index.json", optional=True)
    shards = sorted(set(index["weight_map"].values())) if index else ()
    return [os.path.join(folder, shard) for shard in shards]


def _read_safetensors(path):
    # A safetensors file has 8 bytes with the length of a JSON header, then the header, then data.
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length) if length < size else b"")
    except ValueError as error:
        raise UserError(
            f"{path} is not a safetensors file, or it is truncated; download it again"
        ) from error
    header.pop("__metadata__", None)
    ends = (entry["data_offsets"][1] for entry in header.values())
    expected_size = 8 + length + max(ends, default=0)
    if expected_size > size:
        raise UserError(
            f"{path} has {size} bytes, expected {expected_size}; it is truncated: download it again"
        )
    data = np.memmap(path, np.uint8, "r")[8 + length :]
    return {name: _array(data, entry, f"{path}: {name}") for name, entry in header.items()}


def _array(data, entry, where):
    raw = data[slice(*entry["data_offsets"])]
    if entry["dtype"] == "BF16":  # a bfloat16 is the upper half of a float32
        raw = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.uint8)
        entry = {**entry, "dtype": "F32"}
    dtype = lookup(_DTYPES, entry["dtype"], f"dtype (of {where})")
    return raw.view(dtype).reshape(entry["shape"])
