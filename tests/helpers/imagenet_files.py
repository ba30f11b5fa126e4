"""A small version of the raw files of ImageNet: three classes, with the official layout."""

import base64

from helpers.archives import tar_bytes
from helpers.images import plain_image

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
KIT = "ILSVRC2012_devkit_t12"
TENCH, SETTER, FOX = "n01440764", "n02100735", "n02119789"  # numbers 3, 2, 1 in the kit
CLASSES = ["tench, Tinca tinca", "English setter", "kit fox, Vulpes macrotis"]

# The output of scipy.io.savemat(..., {"synsets": s}, do_compression=True) of SciPy 1.17.1; the text
# header is replaced by spaces. s is a struct array (4, 1) with the fields of the official file. The
# fourth row of the array, "canine", is a class with subclasses.
META = b" " * 124 + base64.b64decode(
    "AAFJTQ8AAAB+AQAAeJztVNFOwjAULQQREl3QJx/7ATxsOB08QaImkhhj1ODjsoyyNY7OrCXiH/gB/oTf4Q/xCbasQKmY"
    "ERaiD9zkrLlnOWe9zVkNAACsAlDma4WjCNLak32JoyCxz0HfCEWM8vclcCT5d47uzUPv/qJhWg23eykMnm7TdV6vcdKn"
    "KhFEMV0iyGjo+iGO+gkiU2KpmXkQxNwQ4SBkUsISDxMXD70AUWBwsgkW85S1eQoKRFUln9akLfQdRV9aoa8q+prsidmw"
    "rJbTbEle+Fxn+JxoPqJ/xgwO4nEd9kbRC6Jw6PlJzDBdZ18Hmt8hhwenxwzjAfz6lPva/HxSvZmhB5p+psv73Y31dx+d"
    "nN/v5MmFaTqnZ8ocWT6G5iP6KxJEmIaQ/3wMJev57PKwrTxUcuTBsm3TObeVObLuiWPNR/QMET+sw0dMfA8y8Vz4Ze1r"
    "l4tt5aKW656wbH5V/DLHKp+y5iN63yOYoH+Tgx/nsUpf1PS1uXzSVn3+Mhff8P1u9A=="
)
IMAGES = {
    TENCH: {"n01440764_1.JPEG": plain_image("red"), "n01440764_2.JPEG": plain_image("red", "PNG")},
    FOX: {"n02119789_7.JPEG": plain_image("blue"), "n02119789_8.JPEG": plain_image("blue")[:-40]},
    SETTER: {"n02100735_3.JPEG": plain_image("white", mode="CMYK")},
}
VALIDATION = {
    "ILSVRC2012_val_00000001.JPEG": plain_image("green"),
    "ILSVRC2012_val_00000002.JPEG": plain_image("pink"),
    "ILSVRC2012_val_00000004.JPEG": plain_image("black"),
}
GROUND_TRUTH = b"3\n1\n2\n2\n"


def kit_files(meta=META, ground_truth=GROUND_TRUTH):
    """Returns the files of the development kit as {path: bytes}."""
    return {
        f"{KIT}/data/meta.mat": meta,
        f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt": ground_truth,
    }


def inner_tars():
    """Returns {path: bytes} of the tar of each class."""
    return {f"{wnid}.tar": tar_bytes(files, "w:") for wnid, files in IMAGES.items()}


def as_archives():
    """Returns {path: bytes} of the published archives."""
    return {
        TRAIN: tar_bytes(inner_tars(), "w:"),
        VAL: tar_bytes(VALIDATION, "w:"),
        f"{KIT}.tar.gz": tar_bytes(kit_files()),
    }


def as_tars_in_folders():
    """Returns {path: bytes} with only the outer archives unpacked."""
    return {f"train/{name}": data for name, data in inner_tars().items()} | as_folders(("val",))


def as_folders(splits=("train", "val")):
    """Returns {path: bytes} with all archives unpacked."""
    files = {f"val/{name}": data for name, data in VALIDATION.items()} | kit_files()
    if "train" in splits:
        for wnid, images in IMAGES.items():
            files |= {f"train/{wnid}/{name}": data for name, data in images.items()}
    return files
