"""Downloads the files of a Hugging Face checkpoint, and reads JSON files and tensors."""

import json
import os

import numpy as np

from tf_mural.errors import UserError, lookup

_DESCRIPTIONS = ("*config.json", "vocab.txt", "tokenizer.json")
# Names of weight files, the preferred format first. Weights of each format may be sharded.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
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
    if not weights:
        return _download(name, _DESCRIPTIONS)
    for file in WEIGHTS:
        stem, extension = os.path.splitext(file)
        folder = _download(name, (file, f"{file}.index.json", f"{stem}-*{extension}"))
        if _weight_files(folder):
            break
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
        raise UserError(
            f"{name} cannot be downloaded from huggingface.co ({reason}); check the name and the "
            f"connection, or download the checkpoint on another machine with `hf download {name} "
            "--local-dir FOLDER`, copy the folder and give hf:FOLDER"
        ) from error


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
    """Returns {name: array} of all tensors. Tensors of safetensors files are memory-mapped.

    Raises:
        UserError: there are no weights, a file is missing or damaged, or the file format requires
            PyTorch, which is not installed.
    """
    paths = _weight_files(folder)
    if not paths:
        raise UserError(f"{folder} has no weights; expected {' or '.join(WEIGHTS)}")
    tensors = {}
    for path in paths:
        if not os.path.exists(path):
            raise UserError(f"{path} is missing, but the index names it; download this file again")
        read = _read_safetensors if path.endswith(".safetensors") else _read_pickle
        tensors |= read(path)
    return tensors


def _weight_files(folder):
    """Returns the paths of the weights: a single file or all shards; [] if there are no weights."""
    for name in WEIGHTS:
        if os.path.exists(os.path.join(folder, name)):
            return [os.path.join(folder, name)]
        index = read_json(folder, f"{name}.index.json", optional=True)
        if index:
            shards = sorted(set(index["weight_map"].values()))
            return [os.path.join(folder, shard) for shard in shards]
    return []


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


def _read_pickle(path):
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} has PyTorch's own format, which needs torch: pip install torch, or choose a "
            f"checkpoint with {WEIGHTS[0]}"
        ) from error
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {name: value.float().numpy() for name, value in tensors.items()}
