"""Exports a trained model: python tools/export.py --model=runs/tiny/etcl-s0 --format=saved_model
--out=exported

Formats:
  saved_model  one SavedModel with the signatures embed_images (encoded bytes of any size) and
               embed_texts (strings); pre-processing and tokenising are inside
  onnx         image.onnx and text.onnx, with vocab.txt and preprocessing.json
               (pip install -r requirements-export.txt)
  preset       a folder that KerasHub's from_preset, tf_mural.Embedder.load and the tools that take
               a trained model load, with a model card; keras_hub.upload_preset puts it on a hub

What was written is loaded again and its embeddings are compared with the model's.
"""

import os
import shutil
import uuid

import common
from absl import flags
from reporting import RESULTS, chain

from tf_mural import file_io
from tf_mural.errors import UserError, lookup

_MODEL = flags.DEFINE_string("model", None, "Workdir of a finished run, or a preset. Required.")
_FORMAT = flags.DEFINE_string("format", "saved_model", "saved_model, onnx or preset.")
_OUT = flags.DEFINE_string("out", None, "Folder to write. Required; must not be there.")
_QUANTIZE = flags.DEFINE_enum(
    "quantize", "", ["", "int8"], "Of onnx: int8 for the products of the text tower's matrices."
)
_NAME = flags.DEFINE_string("name", None, "Of the model, in its card. Default: that of the folder.")


def main():
    write = lookup(FORMATS, _FORMAT.value, "format")
    for name, value in (("model", _MODEL.value), ("out", _OUT.value)):
        if not value:
            raise UserError(f"--{name} is missing (--help tells what it is)")
    if os.path.exists(_OUT.value):
        raise UserError(f"{_OUT.value} is there already: remove it, or choose another --out")
    if _QUANTIZE.value and _FORMAT.value != "onnx":
        raise UserError("--quantize goes with --format=onnx alone")
    common.import_tensorflow()
    from tf_mural import experiment

    model = experiment.load(_MODEL.value)
    unfinished = f"{_OUT.value.rstrip('/')}.{uuid.uuid4().hex}.tmp"
    try:
        differences = write(unfinished, model)
        os.rename(unfinished, _OUT.value)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    told = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(f"{_OUT.value}: {_FORMAT.value}, at most so far from the model: {told}")


def saved_model(folder, model):
    from tf_mural import export

    with common.quietly():
        return export.export_saved_model(folder, model)


def onnx(folder, model):
    from tf_mural import export

    with common.quietly():
        return export.export_onnx(folder, model, _QUANTIZE.value)


def preset(folder, model):
    from tf_mural import experiment, export
    from tf_mural.export import presets
    from tf_mural.training import checkpoints

    if presets.is_preset(_MODEL.value):
        raise UserError(f"{_MODEL.value} is a preset already: copy its folder")
    description = checkpoints.read_model(_MODEL.value)
    runs = chain(_MODEL.value)
    card = presets.model_card(
        _NAME.value or os.path.basename(_OUT.value.rstrip("/")),
        description,
        [file_io.read_json(os.path.join(folder, RESULTS)) for folder in runs],
        file_io.read_json(os.path.join(runs[0], checkpoints.CONFIG)) if runs else None,
    )
    arguments = experiment.model_arguments(description)
    presets.save_preset(folder, arguments, model.encoder, model.tokenizer, model.sizes, card)
    return export.differences(model, experiment.load(folder))


FORMATS = {"saved_model": saved_model, "onnx": onnx, "preset": preset}

if __name__ == "__main__":
    common.run(main)
