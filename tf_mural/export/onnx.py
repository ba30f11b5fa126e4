"""Exports each tower to ONNX with Keras' exporter."""

import os

from tf_mural import file_io
from tf_mural.errors import UserError
from tf_mural.export.parity import assert_close, max_difference, sample_tower_inputs
from tf_mural.modalities import MODALITIES

ONNX_TOLERANCES = {"": 1e-4, "int8": 1e-2}
_INSTALL = "pip install -r requirements-export.txt"


def export_onnx(folder, model, quantize=""):
    """Writes image.onnx, text.onnx, vocab.txt and preprocessing.json, and checks the embeddings.

    The input of image.onnx is "pixels", float32 (n, size, size, 3) in [0, 255], resized and cropped
    as described in preprocessing.json. The input of text.onnx is "tokens", int32 (n, t), padded
    with 0. A further tower "teacher" is written to teacher.onnx. All ONNX models return normalized
    embeddings, float32 (n, d).

    Args:
        folder: output folder.
        model: `experiment.Model`.
        quantize: "int8" quantizes the matrix products of the text tower to 8-bit integers; the
            weights of these products then take a quarter of their float32 size. "" keeps float32.

    Returns:
        {tower: maximum absolute difference between the embeddings of the ONNX model and
        those of `model`}.

    Raises:
        UserError: a package is missing, or a difference exceeds `ONNX_TOLERANCES`.
    """
    try:
        import onnxruntime
        import tf2onnx  # noqa: F401  (used by Keras' exporter)
    except ImportError as error:
        raise UserError(f"the export to ONNX needs {error.name}: {_INSTALL}") from error
    import keras

    file_io.makedirs(folder)
    inputs, differences = sample_tower_inputs(model), {}
    for name, modality in model.encoder.modalities.items():
        path = os.path.join(folder, f"{name}.onnx")
        tower, key = _normalized_tower(model.encoder, name), MODALITIES[modality].input_key
        shape = (None, *tower.input.shape[1:])
        spec = keras.InputSpec(shape=shape, dtype=inputs[modality].dtype.name, name=key)
        tower.export(path, format="onnx", input_signature=[spec], verbose=False)
        if quantize and modality == "text":
            _quantize(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (actual,) = session.run(None, {session.get_inputs()[0].name: inputs[modality]})
        expected = model.encoder.encode(name, inputs[modality], training=False)
        differences[name] = max_difference(actual, expected)
        tolerance = ONNX_TOLERANCES[quantize if modality == "text" else ""]
        assert_close(path, {name: differences[name]}, tolerance)
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{piece}\n" for piece in model.tokenizer.vocabulary)
    file_io.write_json(os.path.join(folder, "preprocessing.json"), _preprocessing(model))
    return differences


def _normalized_tower(encoder, name):
    """Returns a model that consists of a tower and the normalization of `DualEncoder.encode`."""
    import keras

    tower, key = encoder.towers[name], MODALITIES[encoder.modalities[name]].input_key
    inputs = keras.Input(tower.input.shape[1:], dtype=tower.input.dtype, name=key)
    return keras.Model(inputs, encoder.encode(name, inputs), name=f"{name}_encoder")


def _quantize(path):
    from onnxruntime import quantization

    quantization.quantize_dynamic(
        path, path, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=True
    )


def _preprocessing(model):
    preprocessing, method = model.preprocessing, model.preprocessing.method
    antialias = "antialiased" if preprocessing.antialias else "no antialiasing"
    return {
        "images": {
            "resize": preprocessing.resize,
            "crop": preprocessing.crop,
            "resize_method": f"{method}, both sides to `resize`, {antialias}, rounded",
            "orientation": "upright, as EXIF states",
            "background": preprocessing.background,
            "crop_place": "centre",
            "range": [0, 255],
        },
        "texts": {
            "vocabulary": "vocab.txt",
            "vocabulary_hash": model.tokenizer.hash,
            "max_tokens": model.tokenizer.max_tokens,
            "lower_case": model.tokenizer.hash.endswith("-lower"),
            "row": "[CLS] pieces [SEP] [PAD]...",
        },
    }
