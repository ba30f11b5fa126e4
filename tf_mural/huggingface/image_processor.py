"""Reads how a checkpoint resizes, crops and scales images, from preprocessor_config.json."""

import os

from tf_mural.data.preprocessing import Preprocessing
from tf_mural.errors import UserError, lookup
from tf_mural.huggingface.checkpoint_files import read_json

# Methods of resizing, by the numbers of Pillow. Hugging Face always resizes with antialiasing.
_METHODS = {0: "nearest", 1: "lanczos3", 2: "bilinear", 3: "bicubic"}
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_COMMON = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
# Values of keys that preprocessor_config.json omits. An int as the size means the shorter side in
# CLIP, and both sides in other classes.
DEFAULTS = {
    "clip": {
        **_COMMON,
        "resample": 3,
        "size": {"shortest_edge": 224},
        "do_center_crop": True,
        "crop_size": 224,
        "image_mean": _CLIP_MEAN,
        "image_std": _CLIP_STD,
    },
    "siglip": {
        **_COMMON,
        "resample": 3,
        "size": {"height": 224, "width": 224},
        "do_center_crop": False,
        "image_mean": 0.5,
        "image_std": 0.5,
    },
    "vit": {
        **_COMMON,
        "resample": 2,
        "size": {"height": 224, "width": 224},
        "do_center_crop": False,
        "image_mean": 0.5,
        "image_std": 0.5,
    },
}


def read_preprocessing(folder, kind):
    """Returns the preprocessing of images that a checkpoint describes.

    The file is preprocessor_config.json or, if it is missing, processor_config.json.

    Args:
        folder: folder of the checkpoint.
        kind: key of `DEFAULTS`, which has the values of keys that the file omits.

    Raises:
        UserError: both files are missing, or they describe a step that `Preprocessing` does not
            have.
    """
    name = "preprocessor_config.json"
    config = read_json(folder, name, optional=True)
    if config is None:
        name = "processor_config.json"
        config = (read_json(folder, name, optional=True) or {}).get("image_processor")
    if config is None:
        raise UserError(
            f"{folder} has no preprocessor_config.json, which describes how images are resized and "
            "scaled; download this file too"
        )
    path = os.path.join(folder, name)
    stated = {key: value for key, value in config.items() if value is not None}
    config = {**DEFAULTS[kind], **stated}
    if not config["do_resize"] or config.get("do_pad"):
        raise UserError(
            f"{path}: do_resize is {config['do_resize']} and do_pad is "
            f"{config.get('do_pad', False)}, expected images that are resized and not padded"
        )
    resize, keeps = _resize(config["size"], kind == "clip", f"{path}: size")
    crop = _side(config["crop_size"], f"{path}: crop_size") if config["do_center_crop"] else resize
    if keeps and not config["do_center_crop"]:
        raise UserError(
            f"{path}: size is {config['size']} and do_center_crop is False; images of different "
            "sizes are not supported, expected a crop or a size with height and width"
        )
    if crop > resize:
        raise UserError(
            f"{path}: images of {resize} pixels cannot be cropped to {crop} pixels; expected "
            "crop_size <= size"
        )
    scaled, normalized = config["do_rescale"], config["do_normalize"]
    return Preprocessing(
        resize,
        crop,
        method=lookup(_METHODS, config["resample"], f"resample (of {path})"),
        antialias=True,
        scale=config["rescale_factor"] if scaled else 1.0,
        mean=config["image_mean"] if normalized else 0.0,
        std=config["image_std"] if normalized else 1.0,
        keep_aspect_ratio=keeps,
    )


def _resize(size, int_is_shorter_side, where):
    """Returns the size in pixels, and whether it is that of the shorter side."""
    if isinstance(size, int):
        return size, int_is_shorter_side
    if set(size) == {"shortest_edge"}:
        return size["shortest_edge"], True
    return _side(size, where), False


def _side(size, where):
    sides = {size} if isinstance(size, int) else {size.get("height"), size.get("width")}
    if len(sides) != 1 or None in sides:
        raise UserError(
            f"{where} is {size}, expected a number, shortest_edge, or equal height and width"
        )
    return sides.pop()
