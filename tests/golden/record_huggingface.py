"""Records checkpoints of Hugging Face's classes with random weights, and outputs of these models.

    python3.11 -m venv venv-huggingface
    venv-huggingface/bin/pip install -r tests/golden/requirements-huggingface.txt
    venv-huggingface/bin/python tests/golden/record_huggingface.py

Writes these checkpoints, folders in the layout of `save_pretrained`, to huggingface/ next to this
file:

    align    AlignModel with the files of the published models: uncased, vocab.txt,
             preprocessor_config.json
    deep     AlignModel with 5 x 5 kernels and sharded weights; the preprocessing is described in
             processor_config.json and tokenizer.json, as in newer versions of transformers
    bert     BertModel, cased, with the tanh approximation of GELU
    masked   BertForMaskedLM, uncased, with exact GELU and only tokenizer.json

Writes the outputs to huggingface.npz, with the keys "<checkpoint>/<name>". The outputs are computed
in float64 and stored in float32. The names are "tokens" (int32), "image_embeds" and "text_embeds"
(before normalization), "image_rows" and "text_rows" (normalized), "logits" (texts by images),
"pixels" (of images after enlargement) and "cls" (hidden states of [CLS]).
"""

import os
import shutil

import huggingface_case as case
import numpy as np
import torch
import transformers
from PIL import Image
from transformers.models.efficientnet import image_processing_pil_efficientnet as processing

_BERT = dict(
    vocab_size=len(case.VOCABULARY), max_position_embeddings=20, attn_implementation="eager"
)


def randomize(model):
    """Draws random weights, because equal weights would hide a mix-up of tensors."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                fan_in = value[0].numel() if "embedding" not in name else 4
                value.copy_(noise / fan_in**0.5)
            else:
                # The mean of scales is 1, the mean of offsets is 0.
                value.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
        if hasattr(model, "temperature"):
            model.temperature.fill_(0.0625)


def calibrate(model, size):
    """Sets the batch norm statistics to those of a single batch."""
    for module in model.vision_model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model.get_image_features(to_pixels(case.images(size, count=8)))
    model.eval()


def to_pixels(images):
    """Converts uint8 (n, h, w, 3) to float (n, 3, h, w) in [-1, 1]."""
    return torch.tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def save_tokenizer(folder, lower_case, vocabulary_file):
    """Saves a tokenizer and returns it.

    If `vocabulary_file` is True, the vocabulary is stored in vocab.txt, like in the published
    checkpoints, otherwise in tokenizer.json.
    """
    path = os.path.join(folder, "vocab.txt")
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(piece + "\n" for piece in case.VOCABULARY)
    tokenizer = transformers.BertTokenizer(path, do_lower_case=lower_case, model_max_length=64)
    tokenizer.save_pretrained(folder)
    os.remove(os.path.join(folder, "tokenizer.json" if vocabulary_file else "vocab.txt"))
    return tokenizer


def make_processor(size, crop):
    """Returns the image processor of the published models, but with the given image sizes."""
    return processing.EfficientNetImageProcessorPil(
        size={"height": size, "width": size},
        crop_size={"height": crop, "width": crop},
        do_center_crop=True,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        do_normalize=False,
        include_top=False,
        resample=Image.BILINEAR,
    )


def save(model, name, lower_case, vocabulary_file, **options):
    """Saves a model and its tokenizer; returns the model in float64, and the tokens of texts."""
    folder = os.path.join(case.FOLDER, name)
    model.eval().save_pretrained(folder, **options)
    tokenizer = save_tokenizer(folder, lower_case, vocabulary_file)
    tokens = tokenizer(
        case.TEXTS,
        padding="max_length",
        truncation=True,
        max_length=case.MAX_TOKENS,
        return_tensors="pt",
    )
    return model.double(), tokens


def align(name, vision, text, size, crop, vocabulary_file, **options):
    """Saves an AlignModel; returns its outputs."""
    # `depthwise_padding` keeps its default value. With this value, as in the published models, the
    # padding is at the end for even and for odd image sizes.
    vision = transformers.AlignVisionConfig(drop_connect_rate=0.0, image_size=crop, **vision)
    text = transformers.AlignTextConfig(**_BERT, **text)
    config = transformers.AlignConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        projection_dim=int(vision.out_channels[-1] * vision.width_coefficient),
    )
    model = transformers.AlignModel(config)
    randomize(model)
    calibrate(model, crop)
    model, tokens = save(model, name, True, vocabulary_file, **options)
    processor = make_processor(size, crop)
    if vocabulary_file:
        processor.save_pretrained(os.path.join(case.FOLDER, name))
    else:
        tokenizer = transformers.BertTokenizer.from_pretrained(os.path.join(case.FOLDER, name))
        transformers.AlignProcessor(processor, tokenizer).save_pretrained(
            os.path.join(case.FOLDER, name)
        )
    with torch.no_grad():
        pixels = to_pixels(case.images(crop)).double()
        output = model(pixel_values=pixels, **tokens)
        outputs = {
            "image_embeds": model.get_image_features(pixels).pooler_output,
            "text_embeds": model.get_text_features(**tokens).pooler_output,
            "image_rows": output.image_embeds,
            "text_rows": output.text_embeds,
            "logits": output.logits_per_text,
        }
    enlarged = processor(list(case.images(size // 2)), return_tensors="np")["pixel_values"]
    return {**outputs, "tokens": tokens["input_ids"], "pixels": enlarged.transpose(0, 2, 3, 1)}


def bert(name, model_class, lower_case, vocabulary_file, **config):
    """Saves a BERT; returns its outputs."""
    model = model_class(transformers.BertConfig(**{**_BERT, **config}))
    randomize(model)
    model, tokens = save(model, name, lower_case, vocabulary_file)
    with torch.no_grad():
        hidden = getattr(model, "bert", model)(**tokens).last_hidden_state
    return {"tokens": tokens["input_ids"], "cls": hidden[:, 0]}


def main():
    """Writes the checkpoints and the outputs."""
    torch.set_num_threads(1)
    shutil.rmtree(case.FOLDER, ignore_errors=True)
    stages = dict(
        kernel_sizes=[3, 3, 3, 3],
        num_block_repeats=[1, 1, 2, 1],
        in_channels=[32, 32, 48, 96],
        out_channels=[32, 48, 96, 192],
        expand_ratios=[1, 3, 3, 3],
        strides=[2, 1, 2, 2],
    )
    deep = {
        name: case.DEEP[f"stackwise_{argument}"]
        for name, argument in (
            ("kernel_sizes", "kernel_sizes"),
            ("num_block_repeats", "num_repeats"),
            ("in_channels", "input_filters"),
            ("out_channels", "output_filters"),
            ("expand_ratios", "expansion_ratios"),
            ("strides", "strides"),
        )
    }
    small = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    medium = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    size, crop, deep_crop = case.RESIZE, case.CROP, case.DEEP_CROP
    outputs = {
        "align": align(
            "align",
            dict(width_coefficient=0.5, depth_coefficient=1.0, **stages),
            medium, size, crop, vocabulary_file=True,
        ),
        "deep": align(
            "deep",
            dict(width_coefficient=0.25, depth_coefficient=1.2, **deep),
            small, deep_crop + 7, deep_crop, vocabulary_file=False, max_shard_size="40KB",
        ),
        "bert": bert("bert", transformers.BertModel, False, True, **medium, hidden_act="gelu_new"),
        "masked": bert("masked", transformers.BertForMaskedLM, True, False, **small),
    }  # fmt: skip
    arrays = {
        f"{model}/{name}": np.asarray(x, np.int32 if name == "tokens" else np.float32)
        for model, arrays in outputs.items()
        for name, x in arrays.items()
    }
    np.savez_compressed(case.OUTPUTS, **arrays)
    print(f"wrote {case.OUTPUTS}: {len(arrays)} arrays, {os.path.getsize(case.OUTPUTS)} bytes")
    for folder, _, names in sorted(os.walk(case.FOLDER)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            print(f"wrote {path}: {os.path.getsize(path)} bytes")
    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
