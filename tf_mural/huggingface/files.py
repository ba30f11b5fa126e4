"""The files of a checkpoint: fetched by name or found in a folder, JSON and tensors read."""

import json
import os

import numpy as np

from tf_mural.errors import UserError, lookup

_DESCRIPTIONS = ("*config.json", "vocab.txt", "tokenizer.json")
# The first of these that a checkpoint has, whole or in shards.
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


def find(name, weights=False):
    """Folder of the files of a checkpoint.

    Args:
        name: a folder, taken as it is, or a name of huggingface.co ("owner/model").
        weights: whether those of a name are fetched too; else only what describes the model.

    Raises:
        UserError: there is no such folder, or the name cannot be fetched.
    """
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        return folder
    if not name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(
            f"no folder {name!r}; expected one with the config.json and the weights of a "
            "checkpoint, or a name of huggingface.co such as kakaobrain/align-base"
        )
    if not weights:
        return _download(name, _DESCRIPTIONS)
    for file in WEIGHTS:
        stem, ending = os.path.splitext(file)
        folder = _download(name, (file, f"{file}.index.json", f"{stem}-*{ending}"))
        if _weight_files(folder):
            break
    return folder


def _download(name, patterns):
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"fetching {name} needs huggingface_hub: pip install huggingface_hub, or give a folder"
        ) from error
    try:
        return huggingface_hub.snapshot_download(name, allow_patterns=list(patterns))
    except Exception as error:  # of the hub, of the network, of the disk: all the same to the user
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"{name} cannot be fetched from huggingface.co ({reason}); check the name and the "
            f"connection, or fetch it elsewhere by `hf download {name} --local-dir FOLDER` and "
            "give hf:FOLDER"
        ) from error


def read_json(folder, name, optional=False):
    """Plain data of a JSON file; None where it is optional and missing.

    Raises:
        UserError: missing, or no JSON object.
    """
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        if optional:
            return None
        raise UserError(f"{folder} holds no {name}; expected the folder of a whole checkpoint")
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); fetch it again") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def tensors(folder):
    """{name: array} of all tensors; those of safetensors are mapped, not read.

    Raises:
        UserError: there are none, a file is missing or damaged, or PyTorch is needed.
    """
    paths = _weight_files(folder)
    if not paths:
        raise UserError(f"{folder} holds no weights; expected {' or '.join(WEIGHTS)}")
    found = {}
    for path in paths:
        if not os.path.exists(path):
            raise UserError(f"{path} is missing, though the index names it; fetch it again")
        found |= _safetensors(path) if path.endswith(".safetensors") else _pickled(path)
    return found


def _weight_files(folder):
    """Paths of the weights, shards included; [] where there are none."""
    for name in WEIGHTS:
        if os.path.exists(os.path.join(folder, name)):
            return [os.path.join(folder, name)]
        index = read_json(folder, f"{name}.index.json", optional=True)
        if index:
            shards = sorted(set(index["weight_map"].values()))
            return [os.path.join(folder, shard) for shard in shards]
    return []


def _safetensors(path):
    """Eight bytes with the length of a JSON header, the header, the data."""
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length) if length < size else b"")
    except ValueError as error:
        raise UserError(f"{path} is no safetensors file, or cut short; fetch it again") from error
    header.pop("__metadata__", None)
    needed = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if needed > size:
        raise UserError(
            f"{path} has {size} bytes, expected {needed}; it is cut short: fetch it again"
        )
    data = np.memmap(path, np.uint8, "r")[8 + length :]
    return {name: _array(data, entry, f"{path}: {name}") for name, entry in header.items()}


def _array(data, entry, where):
    raw = data[slice(*entry["data_offsets"])]
    if entry["dtype"] == "BF16":  # the upper half of a float32
        raw = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.uint8)
        entry = {**entry, "dtype": "F32"}
    return raw.view(lookup(_DTYPES, entry["dtype"], f"dtype (of {where})")).reshape(entry["shape"])


def _pickled(path):
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is of PyTorch's own format, which needs torch: pip install torch, or take a "
            f"checkpoint with {WEIGHTS[0]}"
        ) from error
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    return {name: value.float().numpy() for name, value in loaded.items()}
