"""Exports a trained model: python tools/export.py --model=runs/tiny/etcl-s0 --format=saved_model
--out=exported

Formats:
  saved_model  a SavedModel with the signatures embed_images (JPEG or PNG bytes, images of any size)
               and embed_texts (strings); the model includes the preprocessing and the tokenizer
  onnx         the files image.onnx, text.onnx, tokenizer.json, vocab.txt, preprocessing.json and
               README.md; this format needs the packages of requirements-export.txt
  preset       a folder with a model card; tf_mural.Embedder.load and the flag --model of other
               tools accept the folder; KerasHub's from_preset accepts the folder after "import
               tf_mural.export.presets"; keras_hub.upload_preset uploads the folder to a hub

After the export, the command loads the exported model, and compares its embeddings with those of
the original model. With --quantize or --dimensions, the command also compares the recall of
text-image retrieval, writes it to the model card, and refuses a loss above --max_recall_loss.
"""

import os

from absl import flags

from tf_mural import file_io
from tf_mural.cli import app, embedding_flags
from tf_mural.errors import UserError, lookup
from tf_mural.truncation import check_dim

FLAGS = flags.FlagValues()
_MODEL = embedding_flags.define_model(FLAGS)
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
    ["", "fp16", "int8"],
    "With --format=onnx, fp16 stores the weights as float16; int8 quantizes the matrix products of "
    "the text encoder.",
    flag_values=FLAGS,
)
_DIMENSIONS = flags.DEFINE_integer(
    "dimensions",
    None,
    "With --format=onnx, reduces the embeddings to this number of dimensions, by principal "
    "components that are fitted on every second record.",
    lower_bound=1,
    flag_values=FLAGS,
)
_DIM = app.define_dim(
    FLAGS,
    "With --format=saved_model or onnx, exports only the first values of each embedding, scaled to "
    "length 1.",
)
_RECORDS = flags.DEFINE_string(
    "records",
    None,
    "Record set with images and texts, on which --quantize and --dimensions are evaluated. "
    "Default: 512 scenes that this package draws.",
    flag_values=FLAGS,
)
_MAX_RECALL_LOSS = flags.DEFINE_float(
    "max_recall_loss",
    1.0,
    "Largest loss of average recall by --quantize and --dimensions, in points. With a larger loss, "
    "the command writes nothing.",
    lower_bound=0.0,
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
    embedding_flags.check_given(_MODEL, _OUT)
    if os.path.exists(_OUT.value):
        raise UserError(f"{_OUT.value} already exists: remove it, or choose another --out")
    _check_changes()
    app.import_tensorflow()
    from tf_mural import experiment

    model = experiment.load(_MODEL.value)
    if model.preprocessing is None or model.tokenizer is None:
        missing = "images" if model.preprocessing is None else "texts"
        raise UserError(f"{_MODEL.value} has no encoder of {missing}, which an export contains")
    if _DIM.value:
        check_dim(_DIM.value, model.embed.width)
        app.print_size_note(_DIM.value, model.dims)
    with file_io.atomic_write(_OUT.value.rstrip("/"), sync=False) as temporary:
        differences = export(temporary, model)
    listed = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(
        f"{_OUT.value}: {_FORMAT.value}, maximum differences from the model's embeddings: {listed}"
    )


def _check_changes():
    """Checks the flags of quantization and dimensions."""
    if _DIM.value and _FORMAT.value == "preset":
        raise UserError(
            "--dim requires --format=saved_model or onnx: a preset contains the whole model, which "
            f"can be trained further; Embedder.load(preset, dim={_DIM.value}) truncates its "
            "embeddings"
        )
    if _DIM.value and _DIMENSIONS.value:
        raise UserError(
            "--dim keeps the first values, and --dimensions keeps principal components: give one "
            "of the two flags"
        )
    for flag in (_QUANTIZE, _DIMENSIONS):
        if flag.value and _FORMAT.value != "onnx":
            raise UserError(f"--{flag.name} requires --format=onnx")
    is_changed = _QUANTIZE.value or _DIMENSIONS.value
    for name in ("records", "max_recall_loss"):
        if FLAGS[name].present and not is_changed:
            raise UserError(f"--{name} requires --quantize or --dimensions")


def _export_saved_model(folder, model):
    from tf_mural import export

    with app.quietly():
        return export.export_saved_model(folder, model, _DIM.value)


def _export_onnx(folder, model):
    from tf_mural import export

    is_changed = bool(_QUANTIZE.value or _DIMENSIONS.value)
    records, languages, projection, loss = None, None, None, None
    if is_changed:
        records, languages = _evaluation_records(model)
    if _DIMENSIONS.value:
        # The projection is fitted and evaluated on different records.
        fitted, records = export.EverySecond(records, 0), export.EverySecond(records, 1)
        projection = export.fit_projection(model.embed, fitted, _DIMENSIONS.value)
    with app.quietly():
        differences = export.export_onnx(folder, model, _QUANTIZE.value, projection, _DIM.value)
    embedder = export.onnx_embedder(folder, model)
    if is_changed:
        source = _RECORDS.value or export.SCENES
        loss = export.measure_recall_loss(model.embed, embedder, records, languages, source)
        print(loss.table())
        if loss.is_near_chance:
            print(
                f"warning: the recall on {source} is near that of random candidates "
                f"({loss.chance:.2f}), and hardly measures a loss: name other records with "
                "--records"
            )
        loss.check(_changes(), _MAX_RECALL_LOSS.value)
    changes = _changes()
    changes = f"Compared with the trained model, this export has {changes}." if changes else ""
    export.write_onnx_card(folder, _model_name(), embedder.width, changes, loss)
    return differences


def _changes():
    """Returns a description of the changes by --quantize, --dimensions and --dim."""
    names = {"fp16": "float16 weights", "int8": "int8 matrix products in the text encoder"}
    parts = [names[_QUANTIZE.value]] if _QUANTIZE.value else []
    parts += [f"{_DIMENSIONS.value} dimensions"] if _DIMENSIONS.value else []
    parts += [f"the first {_DIM.value} values of each embedding"] if _DIM.value else []
    return " and ".join(parts)


def _evaluation_records(model):
    """Returns (records, languages to score) of --records, or of the test scenes."""
    from tf_mural import export
    from tf_mural.data.records import RecordSet

    if _RECORDS.value:
        return RecordSet.open(_RECORDS.value), None
    return export.scenes_records(model.languages)


def _model_name():
    return _NAME.value or os.path.basename(_OUT.value.rstrip("/"))


def _export_preset(folder, model):
    from tf_mural import experiment, export, public_models
    from tf_mural.experiment.run_report import RESULTS, run_lineage
    from tf_mural.export import presets
    from tf_mural.training import checkpoints

    if public_models.is_public(_MODEL.value):
        presets.save_model(folder, model.encoder)
        return export.embedding_differences(model, experiment.load(folder))
    if presets.is_preset(_MODEL.value):
        raise UserError(f"{_MODEL.value} is already a preset: copy its folder")
    description = experiment.read_description(_MODEL.value)
    workdirs = run_lineage(_MODEL.value)
    card = presets.model_card(
        _model_name(),
        description,
        [file_io.read_json(os.path.join(workdir, RESULTS)) for workdir in workdirs],
        file_io.read_json(os.path.join(workdirs[0], checkpoints.CONFIG)) if workdirs else None,
    )
    if description.get("encoders"):
        presets.save_model(folder, model.encoder, card)
    else:
        arguments = experiment.model_arguments(description)
        parts = model.encoder, model.tokenizer, model.preprocessing
        presets.save_preset(folder, arguments, *parts, card, model.languages)
    return export.embedding_differences(model, experiment.load(folder))


FORMATS = {
    "saved_model": _export_saved_model,
    "onnx": _export_onnx,
    "preset": _export_preset,
}
