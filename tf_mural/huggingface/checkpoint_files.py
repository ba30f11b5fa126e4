"""Files of a Hugging Face checkpoint: downloads them, and reads JSON and tensors."""

import json
import os

import numpy as np

from tf_mural.errors import UserError, lookup

_DESCRIPTIONS = ("*config.json", "vocab.txt", "tokenizer.json")
# In order of preference; each is a single file or sharded.
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
    """Returns the folder of a checkpoint, and downloads it if necessary.

    Args:
        name: folder, or name on huggingface.co ("owner/model").
        weights: if True, a download includes the weights; otherwise only the files that describe
            the model.

    Raises:
        UserError: the folder does not exist, or the checkpoint cannot be downloaded.
    """
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        return folder
    if not name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(
            f"no folder {name!r}; expected one with the config.json and the weights of a "
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
            f"downloading {name} needs huggingface_hub: pip install huggingface_hub, or give a "
            "folder"
        ) from error
    try:
        return huggingface_hub.snapshot_download(name, allow_patterns=list(patterns))
    except Exception as error:  # raised by the hub, the network or the disk
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"{name} cannot be downloaded from huggingface.co ({reason}); check the name and the "
            f"connection, or download it elsewhere with `hf download {name} --local-dir FOLDER` "
            "and give hf:FOLDER"
        ) from error


def read_json(folder, name, optional=False):
    """Returns the content of a JSON file, or None if it is optional and does not exist.

    Raises:
        UserError: the file is missing, or it is not a JSON object.
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
    """Returns {name: array} of all tensors. Those of safetensors files are memory-mapped.

    Raises:
        UserError: there are no weights, a file is missing or damaged, or PyTorch is needed.
    """
    paths = _weight_files(folder)
    if not paths:
        raise UserError(f"{folder} has no weights; expected {' or '.join(WEIGHTS)}")
    tensors = {}
    for path in paths:
        if not os.path.exists(path):
            raise UserError(f"{path} is missing, but the index names it; download it again")
        read = _read_safetensors if path.endswith(".safetensors") else _read_pickle
        tensors |= read(path)
    return tensors


def _weight_files(folder):
    """Returns the paths of the weights, a single file or its shards; [] if there are none."""
    for name in WEIGHTS:
        if os.path.exists(os.path.join(folder, name)):
            return [os.path.join(folder, name)]
        index = read_json(folder, f"{name}.index.json", optional=True)
        if index:
            shards = sorted(set(index["weight_map"].values()))
            return [os.path.join(folder, shard) for shard in shards]
    return []


def _read_safetensors(path):
    # The format: 8 bytes with the length of a JSON header, the header, the data.
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
    if entry["dtype"] == "BF16":  # the upper half of a float32
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
