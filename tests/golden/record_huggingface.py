"""Records checkpoints of Hugging Face's own classes, with random weights, and their outputs.

    python3.11 -m venv venv-huggingface
    venv-huggingface/bin/pip install -r tests/golden/requirements-huggingface.txt
    venv-huggingface/bin/python tests/golden/record_huggingface.py

Writes folders to huggingface/ beside this file, each as `save_pretrained` leaves it:

    align    AlignModel with the files of the published ones: uncased, vocab.txt,
             preprocessor_config.json
    deep     AlignModel with 5 x 5 kernels; weights in shards, processor_config.json and
             tokenizer.json alone, as newer versions write them
    bert     BertModel, cased, the tanh approximation of GELU
    masked   BertForMaskedLM, uncased, exact GELU, tokenizer.json alone

and huggingface.npz: per model, float32 of a pass in float64, "tokens", "image_embeds",
"text_embeds" (before normalisation), "image_rows", "text_rows", "logits" (text by image),
"pixels" (of images that the image processor had to enlarge), "cls".
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
    """Weights that no map can confuse, drawn in the order of their names."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                fan_in = value[0].numel() if "embedding" not in name else 4
                value.copy_(noise / fan_in**0.5)
            else:
                # Scales stay around 1, shifts around 0.
                value.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
        if hasattr(model, "temperature"):
            model.temperature.fill_(0.0625)


def calibrate(model, size):
    """Leaves the statistics of one batch in the batch norms."""
    for part in model.vision_model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    model.train()
    with torch.no_grad():
        model.get_image_features(pixels_of(case.images(size, count=8)))
    model.eval()


def pixels_of(images):
    """uint8 (n, h, w, 3) to float (n, 3, h, w) in [-1, 1]."""
    return torch.tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def tokenizer_of(folder, lower_case, vocabulary_file):
    """Saves a tokenizer; keeps vocab.txt, as published checkpoints have it, or tokenizer.json."""
    path = os.path.join(folder, "vocab.txt")
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(piece + "\n" for piece in case.VOCABULARY)
    made = transformers.BertTokenizer(path, do_lower_case=lower_case, model_max_length=64)
    made.save_pretrained(folder)
    os.remove(os.path.join(folder, "tokenizer.json" if vocabulary_file else "vocab.txt"))
    return made


def processor_of(size, crop):
    """The image processor of the published models, but for its sizes."""
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


def saved(model, name, lower_case, vocabulary_file, **how):
    """Saves a model and its tokenizer; returns the model in float64, and the tokens."""
    folder = os.path.join(case.FOLDER, name)
    model.eval().save_pretrained(folder, **how)
    tokenizer = tokenizer_of(folder, lower_case, vocabulary_file)
    tokens = tokenizer(
        case.TEXTS,
        padding="max_length",
        truncation=True,
        max_length=case.MAX_TOKENS,
        return_tensors="pt",
    )
    return model.double(), tokens


def align(name, vision, text, size, crop, vocabulary_file, **how):
    """Records an AlignModel; returns its outputs."""
    # The published models add a row and a column at the end, at odd sizes too.
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
    model, tokens = saved(model, name, True, vocabulary_file, **how)
    processor = processor_of(size, crop)
    if vocabulary_file:
        processor.save_pretrained(os.path.join(case.FOLDER, name))
    else:
        tokenizer = transformers.BertTokenizer.from_pretrained(os.path.join(case.FOLDER, name))
        transformers.AlignProcessor(processor, tokenizer).save_pretrained(
            os.path.join(case.FOLDER, name)
        )
    with torch.no_grad():
        pixels = pixels_of(case.images(crop)).double()
        both = model(pixel_values=pixels, **tokens)
        found = {
            "image_embeds": model.get_image_features(pixels).pooler_output,
            "text_embeds": model.get_text_features(**tokens).pooler_output,
            "image_rows": both.image_embeds,
            "text_rows": both.text_embeds,
            "logits": both.logits_per_text,
        }
    enlarged = processor(list(case.images(size // 2)), return_tensors="np")["pixel_values"]
    return {**found, "tokens": tokens["input_ids"], "pixels": enlarged.transpose(0, 2, 3, 1)}


def bert(name, kind, lower_case, vocabulary_file, **changes):
    """Records a BERT; returns its outputs."""
    model = kind(transformers.BertConfig(**{**_BERT, **changes}))
    randomize(model)
    model, tokens = saved(model, name, lower_case, vocabulary_file)
    with torch.no_grad():
        hidden = getattr(model, "bert", model)(**tokens).last_hidden_state
    return {"tokens": tokens["input_ids"], "cls": hidden[:, 0]}


def main():
    """Writes the folders and the outputs."""
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
        name: case.DEEP[f"stackwise_{theirs}"]
        for name, theirs in (
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
        for model, found in outputs.items()
        for name, x in found.items()
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
