"""Records embeddings and pixels of Hugging Face's CLIP, MetaCLIP 2 and SigLIP.

    python3.11 -m venv venv-public_towers
    venv-public_towers/bin/pip install -r tests/golden/requirements-public_towers.txt
    venv-public_towers/bin/python tests/golden/record_public_towers.py [FOLDER OUTPUT]

Without arguments, the script writes public_towers.npz next to this file. The checkpoints are those
of tests/helpers/public_checkpoints.py, which draws their weights from a seed. The keys are
"<checkpoint>/<name>", and the names are "image_<size>" (embeddings of images of that size, with
interpolated positions if the size is not 32), "text", "logits" (texts by images, of the first size)
and "pixels_<index>" (uint8, of `SHAPES`). Embeddings are computed in float64, are not normalized,
and are stored in float32.

With arguments, the script writes the embeddings of the checkpoint in FOLDER to the file OUTPUT.
"""

import json
import os
import sys
import tempfile

import numpy as np
import public_towers_case as case
import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from helpers import public_checkpoints  # noqa: E402

_MODELS = {
    "clip": transformers.CLIPModel,
    "metaclip_2": transformers.MetaClip2Model,
    "siglip": transformers.SiglipModel,
}


def embeddings(folder, sizes):
    """Returns the embeddings of a checkpoint, {name: array}."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    model_class = _MODELS[config["model_type"]]
    model, info = model_class.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    model = model.eval().double()
    processor = make_processor(folder, config["model_type"])
    with torch.no_grad():
        tokens = torch.tensor(public_checkpoints.tokens(config)).long()
        arrays = {"text": pooled(model.get_text_features(tokens))}
        for size in sizes:
            options = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
            pixels = processor(list(case.images(size)), **options)["pixel_values"].double()
            output = model.get_image_features(pixels, interpolate_pos_encoding=True)
            arrays[f"image_{size}"] = pooled(output)
            if size == sizes[0]:
                output = model(input_ids=tokens, pixel_values=pixels)
                arrays["logits"] = output.logits_per_text
    return {name: np.asarray(x, np.float32) for name, x in arrays.items()}


def pooled(output):
    """Returns the embeddings in the output of a method of a model."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def make_processor(folder, model_type):
    """Returns the image processor of a checkpoint, which resizes with Pillow."""
    processor = SiglipImageProcessorPil if model_type == "siglip" else CLIPImageProcessorPil
    return processor.from_pretrained(folder)


def resized(folder, model_type):
    """Returns the images of `SHAPES` after resizing and cropping, {name: uint8 array}."""
    processor = make_processor(folder, model_type)
    options = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
    arrays = {}
    for i, shape in enumerate(case.SHAPES):
        pixels = processor([case.photograph(shape)], **options)["pixel_values"][0]
        arrays[f"pixels_{i}"] = np.asarray(pixels, np.uint8).transpose(1, 2, 0)
    return arrays


def main(arguments):
    """Writes the file."""
    if arguments:
        folder, output = arguments
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            size = json.load(file)["vision_config"]["image_size"]
        arrays = embeddings(folder, (size,))
    else:
        output, arrays = case.OUTPUTS, {}
        for name, write in public_checkpoints.FAMILIES.items():
            with tempfile.TemporaryDirectory() as folder:
                write(folder, case.SEED)
                recorded = embeddings(folder, case.SIZES)
                recorded |= resized(folder, name.removesuffix("_2") if "siglip" in name else name)
            arrays |= {f"{name}/{key}": value for key, value in recorded.items()}
    np.savez_compressed(output, **arrays)
    print(f"wrote {output}: {len(arrays)} arrays, {os.path.getsize(output)} bytes")
    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main(sys.argv[1:])
