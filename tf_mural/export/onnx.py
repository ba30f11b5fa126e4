"""Exports each tower to ONNX with Keras' exporter."""

import functools
import os

import numpy as np

from tf_mural import file_io
from tf_mural.data.encoder_inputs import save_tokenizer
from tf_mural.data.tokenizers import Tokenizer
from tf_mural.errors import UserError
from tf_mural.export.parity import (
    assert_close,
    max_difference,
    sample_tower_inputs,
    sample_vectors,
)
from tf_mural.modalities import MODALITIES
from tf_mural.truncation import truncate

ONNX_TOLERANCES = {"": 1e-4, "fp16": 1e-2, "int8": 1e-2}
_INSTALL = "pip install -r requirements-export.txt"


_MIN_FLOAT16_VALUES = 1024  # Smaller arrays, such as scales and biases, remain float32.
_CARD = """\
# {name}

`image.onnx` and `text.onnx` embed images and texts into one space of {width} dimensions. The inputs
are "pixels", float32 (n, size, size, 3) in [0, 255], and "tokens", int32 (n, t); preprocessing.json
describes both. The outputs are rows of norm 1, float32 (n, {width}). The inner product of two rows
is their similarity.

{changes}"""
_RECALL = """
## Recall before and after

Average recall of text-image retrieval in percent (protocol {loss.protocol}), with {loss.num_images}
images of {loss.source}:

{table}{note}
"""
_NEAR_CHANCE = """

The recall before is near that of random candidates ({chance:.2f}). Therefore this table hardly
measures a loss."""


def export_onnx(folder, model, quantize="", projection=None, dim=None):
    """Writes the ONNX models, the tokenizer and preprocessing.json, and checks the embeddings.

    A WordPiece tokenizer is written to vocab.txt and to tokenizer.json (see `write_tokenizer`).
    Another tokenizer is written to the folder "tokenizer", see `data.load_tokenizer`.

    The input of image.onnx is "pixels", float32 (n, size, size, 3) in [0, 255], resized and cropped
    as described in preprocessing.json. The input of text.onnx is "tokens", int32 (n, t), padded as
    described in that file. Each further tower, for example "teacher", is written to a file of its
    name, teacher.onnx. All ONNX models return normalized embeddings, float32 (n, d).

    Args:
        folder: output folder.
        model: `experiment.Model`.
        quantize: "int8" quantizes the matrix products of the text tower to 8-bit integers; the
            weights of these products then take a quarter of their float32 size. "fp16" stores the
            weights of all towers as float16, and computes in float32. "" keeps float32.
        projection: float32 (width, d), see `fit_projection`. Embeddings are multiplied by this
            matrix before they are normalized. None: no projection.
        dim: size of the exported embeddings, see `truncation.truncate`; None: the whole embeddings.

    Returns:
        {tower: maximum absolute difference between the embeddings of the ONNX model and
        those of `model`}.

    Raises:
        UserError: a package is missing, an operation of a tower cannot be converted, or a
            difference exceeds `ONNX_TOLERANCES`.
    """
    try:
        import onnxruntime  # noqa: F401
        import tf2onnx  # noqa: F401  (used by Keras' exporter)
    except ImportError as error:
        raise UserError(f"the export to ONNX needs {error.name}: {_INSTALL}") from error
    import keras

    _register_erfc()
    file_io.makedirs(folder)
    inputs, differences = sample_tower_inputs(model), {}
    for name, modality in model.encoder.modalities.items():
        path = os.path.join(folder, f"{name}.onnx")
        tower = _normalized_tower(model.encoder, name, projection, dim)
        key = MODALITIES[modality].input_key
        if modality == "vectors":  # each tower of stored vectors has its own width
            inputs[modality] = sample_vectors(model.encoder, name)
        shape = (None, *tower.input.shape[1:])
        spec = keras.InputSpec(shape=shape, dtype=inputs[modality].dtype.name, name=key)
        tower.export(path, format="onnx", input_signature=[spec], verbose=False)
        _remove_unused_inputs(path)
        is_quantized = quantize == "fp16" or (quantize == "int8" and modality == "text")
        if is_quantized:
            {"fp16": _store_float16, "int8": _quantize}[quantize](path)
        session = _open_session(path)
        (actual,) = session.run(None, {session.get_inputs()[0].name: inputs[modality]})
        expected = np.asarray(tower(inputs[modality], training=False))
        differences[name] = max_difference(actual, expected)
        assert_close(path, {name: differences[name]}, ONNX_TOLERANCES[quantize * is_quantized])
    _write_tokenizer_files(folder, model.tokenizer)
    file_io.write_json(os.path.join(folder, "preprocessing.json"), _preprocessing(model))
    return differences


def onnx_embedder(folder, model):
    """Returns a `BatchEmbedder` that computes embeddings with exported ONNX models.

    Args:
        folder: folder that `export_onnx` wrote.
        model: the `experiment.Model` that was exported; its preprocessing and tokenizer are used.
    """

    def open_tower(modality):
        path = os.path.join(folder, f"{model.encoder.default_tower(modality)}.onnx")
        session = _open_session(path)
        (spec,) = session.get_inputs()
        dtype = {"tensor(float)": np.float32, "tensor(int32)": np.int32}[spec.type]

        def encode(rows):
            return session.run(None, {spec.name: np.asarray(rows).astype(dtype)})[0]

        return encode, session.get_outputs()[0].shape[-1]

    (encode_images, width), (encode_texts, _) = open_tower("image"), open_tower("text")
    return model.embed.with_encoders(encode_images, encode_texts, width)


def write_onnx_card(folder, name, width, changes="", loss=None):
    """Writes the model card README.md of an export.

    Args:
        folder: folder that `export_onnx` wrote.
        name: name of the model.
        width: width of the embeddings.
        changes: sentences about quantization and dimensions.
        loss: `RecallLoss`. None: the model card contains no recall.
    """
    card = _CARD.format(name=name, width=width, changes=f"{changes}\n" if changes else "")
    if loss is not None:
        note = _NEAR_CHANCE.format(chance=loss.chance) if loss.is_near_chance else ""
        card += _RECALL.format(loss=loss, table=loss.table(), note=note)
    with open(os.path.join(folder, "README.md"), "w", encoding="utf-8") as file:
        file.write(card)


def _open_session(path):
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises errors of many types
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"onnxruntime cannot load {path}, probably because tf2onnx did not convert an "
            f"operation of this encoder ({reason}): choose the format saved_model"
        ) from error


def _normalized_tower(encoder, name, projection, dim):
    """Returns a model that applies a tower, the projection or the size, and normalizes the rows."""
    import keras
    from keras import ops

    tower, key = encoder.towers[name], MODALITIES[encoder.modalities[name]].input_key
    inputs = keras.Input(tower.input.shape[1:], dtype=tower.input.dtype, name=key)
    embeddings = encoder.encode(name, inputs)
    if projection is not None:
        layer = keras.layers.Dense(projection.shape[1], use_bias=False, dtype="float32")
        embeddings = layer(embeddings)
        layer.set_weights([projection])
        embeddings = ops.normalize(embeddings, axis=-1)
    embeddings = truncate(embeddings, dim)
    return keras.Model(inputs, embeddings, name=f"{name}_encoder")


def _remove_unused_inputs(path):
    """Removes inputs that no node reads; tf2onnx adds one for a constant table of positions."""
    import onnx

    model = onnx.load(path)
    used = {name for node in model.graph.node for name in node.input}
    inputs = [value for value in model.graph.input if value.name in used]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        onnx.save(model, path)


@functools.cache
def _register_erfc():
    """Makes tf2onnx convert the operation Erfc, with which TensorFlow computes the exact GELU."""
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class Erfc:
        """Converts erfc(x) to 1 - erf(x)."""

        @classmethod
        def version_9(cls, ctx, node, **_):
            """Replaces a node; 9 is the first version of ONNX that has Erf."""
            options = {"shapes": node.output_shapes, "dtypes": node.output_dtypes}
            one = ctx.make_const(f"{node.name}/one", np.array(1, np.float32))
            erf = ctx.make_node("Erf", node.input, name=f"{node.name}/erf", **options)
            outputs = node.output
            ctx.remove_node(node.name)
            ctx.make_node("Sub", [one.output[0], erf.output[0]], outputs=outputs, **options)


def _store_float16(path):
    """Stores the large weights of an ONNX model as float16, and casts them to float32 at loading.

    The model still computes in float32, because large values overflow in float16 when they are
    normalized, and because few CPUs compute in float16.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    casts = []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < _MIN_FLOAT16_VALUES:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
        casts.append(helper.make_node("Cast", [f"{name}_float16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def _quantize(path):
    from onnxruntime import quantization

    quantization.quantize_dynamic(
        path, path, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=True
    )


def _is_word_piece(tokenizer):
    return type(tokenizer) is Tokenizer and not tokenizer.prefix


def _write_tokenizer_files(folder, tokenizer):
    if tokenizer is None:
        return
    if not _is_word_piece(tokenizer):
        save_tokenizer(tokenizer, os.path.join(folder, "tokenizer"))
        return
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{piece}\n" for piece in tokenizer.vocabulary)
    write_tokenizer(os.path.join(folder, "tokenizer.json"), tokenizer)


def _preprocessing(model):
    result = {}
    if model.preprocessing is not None:
        result["images"] = _image_preprocessing(model.preprocessing)
    if model.tokenizer is not None:
        result["texts"] = _text_preprocessing(model.tokenizer)
    return result


def _text_preprocessing(tokenizer):
    settings = {
        "vocabulary_hash": tokenizer.hash,
        "max_tokens": tokenizer.max_tokens,
        "lower_case": tokenizer.lower_case,
    }
    if _is_word_piece(tokenizer):
        files = {"tokenizer": "tokenizer.json", "vocabulary": "vocab.txt"}
        rows = {"unicode_normalization": "NFC", "row": "[CLS] pieces [SEP] [PAD]..."}
        return {**files, **settings, **rows}
    rows = {"pad_id": tokenizer.pad_id, "prefix": tokenizer.prefix}
    if hasattr(tokenizer, "start"):  # A tokenizer of KerasHub describes its rows itself.
        rows |= {"start": list(tokenizer.start), "end": list(tokenizer.end)}
    return {"tokenizer": "tokenizer/", **settings, **rows, "row": "start pieces end pad_id..."}


def _image_preprocessing(preprocessing):
    antialias = "antialiased" if preprocessing.antialias else "no antialiasing"
    sides = "shorter side" if preprocessing.keep_aspect_ratio else "both sides"
    return {
        "resize": preprocessing.resize,
        "crop": preprocessing.crop,
        "resize_method": f"{preprocessing.method}, {sides} to `resize`, {antialias}, rounded",
        "orientation": "upright, as EXIF states",
        "background": preprocessing.background,
        "crop_place": "centre",
        "range": [0, 255],
    }


# --- tokenizer ------------------------------------------------------------------------------------


def write_tokenizer(path, tokenizer):
    """Writes a tokenizer to a file that `tokenizers.Tokenizer.from_file` of Hugging Face reads.

    Programs without TensorFlow, in Python, Rust, Node.js and other languages, can read this file:

        tokenizer = tokenizers.Tokenizer.from_file("exported/tokenizer.json")
        tokens = np.array([e.ids for e in tokenizer.encode_batch(texts)], np.int32)

    The tokens equal those of `data.tokenizers.Tokenizer` with two exceptions, because the file
    cannot express the rules of `Tokenizer`. An unknown character makes its whole word unknown, even
    if the word has more than 100 characters. Zero-width spaces are removed, and never separate
    words.

    Args:
        path: file to write, usually tokenizer.json.
        tokenizer: `data.tokenizers.Tokenizer`.
    """
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    ids = {piece: i for i, piece in enumerate(tokenizer.vocabulary)}
    # `WordPiece` maps longer words to [UNK]. The limit exceeds the length of all texts.
    limits = {"unk_token": "[UNK]", "max_input_chars_per_word": 2**31 - 1}
    result = tokenizers.Tokenizer(models.WordPiece(ids, **limits))
    is_lower = tokenizer.lower_case
    bert = normalizers.BertNormalizer(strip_accents=is_lower, lowercase=is_lower)
    result.normalizer = normalizers.Sequence([normalizers.NFC(), bert])
    result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, ids[token]) for token in ("[SEP]", "[CLS]")]
    result.post_processor = processors.BertProcessing(*ends)
    result.enable_truncation(tokenizer.max_tokens)
    length, pad_id = tokenizer.max_tokens, tokenizer.pad_id
    result.enable_padding(length=length, pad_id=pad_id, pad_token="[PAD]")
    result.save(str(path))
