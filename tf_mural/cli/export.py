"""Exports a trained model: python tools/export.py --model=runs/tiny/etcl-s0 --format=saved_model
--out=exported

Formats:
  saved_model  a SavedModel with the signatures embed_images (JPEG or PNG bytes, images of any size)
               and embed_texts (strings); the model includes the preprocessing and the tokenizer
  onnx         the files image.onnx, text.onnx, vocab.txt and preprocessing.json; this format needs
               the packages of requirements-export.txt
  preset       a folder with a model card; tf_mural.Embedder.load and the flag --model of other
               tools accept the folder; KerasHub's from_preset accepts the folder after "import
               tf_mural.export.presets"; keras_hub.upload_preset uploads the folder to a hub

After the export, the command loads the exported model, and compares its embeddings with those of
the original model.
"""

import os

from absl import flags

from tf_mural import file_io
from tf_mural.cli import app
from tf_mural.errors import UserError, lookup

FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string(
    "model", None, "Workdir of a finished run, or a preset. Required.", flag_values=FLAGS
)
_FORMAT = flags.DEFINE_string(
    "format",
    "saved_model",
    "Format of the export: saved_model, onnx or preset.",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string(
    "out", None, "Folder to write, which must not exist. Required.", flag_values=FLAGS
)
_QUANTIZE = flags.DEFINE_enum(
    "quantize",
    "",
    ["", "int8"],
    "With --format=onnx, int8 quantizes the matrix products of the text encoder.",
    flag_values=FLAGS,
)
_NAME = flags.DEFINE_string(
    "name",
    None,
    "Name of the model in the model card. Default: the name of the folder --out.",
    flag_values=FLAGS,
)


def main(argv=None):
    """Exports a model. `argv` is a list of flags; None means the command line."""
    app.parse(FLAGS, argv, __doc__)
    export = lookup(FORMATS, _FORMAT.value, "format")
    for name, value in (("model", _MODEL.value), ("out", _OUT.value)):
        if not value:
            raise UserError(f"--{name} is missing (--help describes this flag)")
    if os.path.exists(_OUT.value):
        raise UserError(f"{_OUT.value} already exists: remove it, or choose another --out")
    if _QUANTIZE.value and _FORMAT.value != "onnx":
        raise UserError("--quantize requires --format=onnx")
    app.import_tensorflow()
    from tf_mural import experiment

    model = experiment.load(_MODEL.value)
    with file_io.atomic_write(_OUT.value.rstrip("/"), sync=False) as temporary:
        differences = export(temporary, model)
    listed = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(
        f"{_OUT.value}: {_FORMAT.value}, maximum differences from the model's embeddings: {listed}"
    )


def _export_saved_model(folder, model):
    from tf_mural import export

    with app.quietly():
        return export.export_saved_model(folder, model)


def _export_onnx(folder, model):
    from tf_mural import export

    with app.quietly():
        return export.export_onnx(folder, model, _QUANTIZE.value)


def _export_preset(folder, model):
    from tf_mural import experiment, export
    from tf_mural.experiment.run_report import RESULTS, run_lineage
    from tf_mural.export import presets
    from tf_mural.training import checkpoints

    if presets.is_preset(_MODEL.value):
        raise UserError(f"{_MODEL.value} is already a preset: copy its folder")
    description = experiment.read_description(_MODEL.value)
    workdirs = run_lineage(_MODEL.value)
    card = presets.model_card(
        _NAME.value or os.path.basename(_OUT.value.rstrip("/")),
        description,
        [file_io.read_json(os.path.join(workdir, RESULTS)) for workdir in workdirs],
        file_io.read_json(os.path.join(workdirs[0], checkpoints.CONFIG)) if workdirs else None,
    )
    arguments = experiment.model_arguments(description)
    parts = model.encoder, model.tokenizer, model.sizes
    presets.save_preset(folder, arguments, *parts, card, model.languages)
    return export.embedding_differences(model, experiment.load(folder))


FORMATS = {
    "saved_model": _export_saved_model,
    "onnx": _export_onnx,
    "preset": _export_preset,
}
