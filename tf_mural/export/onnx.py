"""ONNX of each tower, by Keras' own exporter."""

import os

import numpy as np

from tf_mural import file_io
from tf_mural.errors import UserError
from tf_mural.export.parity import far_apart, sample_texts

TOLERANCES = {"": 1e-4, "int8": 1e-2}
_INPUTS = {"image": "pixels", "text": "tokens"}
_INSTALL = "pip install -r requirements-export.txt"


def export_onnx(folder, model, quantize=""):
    """Writes image.onnx and text.onnx, with vocab.txt and preprocessing.json, and compares.

    image.onnx takes "pixels", float32 (n, size, size, 3) of 0 to 255, resized and cropped as
    preprocessing.json says; text.onnx takes "tokens", int32 (n, t), padded with 0. Both return unit
    rows, float32 (n, width).

    Args:
        folder: where to.
        model: `build.Model`.
        quantize: "int8" makes the products of the text tower's matrices integers (its weights take
            a quarter of the room); "" leaves all in float32.

    Returns:
        {"image" | "text": largest difference from the model}.

    Raises:
        UserError: a package is missing; a difference is larger than `TOLERANCES` allows.
    """
    try:
        import onnxruntime
        import tf2onnx  # noqa: F401  by which Keras exports
    except ImportError as error:
        raise UserError(f"ONNX needs {error.name}: {_INSTALL}") from error
    import keras

    file_io.make_folder(folder)
    inputs, found = _inputs(model), {}
    for kind, name in _INPUTS.items():
        path = os.path.join(folder, f"{kind}.onnx")
        tower = _whole(model.encoder, kind)
        shape = (None, *tower.input.shape[1:])
        spec = keras.InputSpec(shape=shape, dtype=inputs[kind].dtype.name, name=name)
        tower.export(path, format="onnx", input_signature=[spec], verbose=False)
        if quantize and kind == "text":
            _quantize(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (rows,) = session.run(None, {session.get_inputs()[0].name: inputs[kind]})
        expected = np.asarray(model.encoder.encode(kind, inputs[kind], training=False))
        found[kind] = float(np.abs(rows - expected).max())
        tolerance = TOLERANCES[quantize if kind == "text" else ""]
        far_apart(path, {kind: found[kind]}, tolerance)
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{piece}\n" for piece in model.tokenizer.vocabulary)
    file_io.write_json(os.path.join(folder, "preprocessing.json"), _preprocessing(model))
    return found


def _whole(encoder, kind):
    """A tower with the normalisation of `DualEncoder.encode`."""
    import keras

    tower = encoder.towers[kind]
    inputs = keras.Input(tower.input.shape[1:], dtype=tower.input.dtype, name=_INPUTS[kind])
    return keras.Model(inputs, encoder.encode(kind, inputs), name=f"{kind}_encoder")


def _inputs(model):
    """A few inputs a kind."""
    crop = model.sizes["crop"]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, crop, crop, 3)).astype(np.float32)
    return {"image": pixels, "text": np.asarray(model.tokenizer(sample_texts()))}


def _quantize(path):
    from onnxruntime import quantization

    quantization.quantize_dynamic(
        path, path, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=True
    )


def _preprocessing(model):
    return {
        "images": {
            **model.sizes,
            "resize_method": "bilinear, both sides to `resize`, no antialiasing, rounded",
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
