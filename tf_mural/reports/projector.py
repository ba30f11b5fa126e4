"""Files for TensorBoard's embedding projector: images and texts as points with thumbnails."""

import math
import os

import numpy as np

from tf_mural.reports import fonts

# Width of a thumbnail in pixels, and maximum number of thumbnails per row. The sprite is therefore
# at most 8,192 pixels wide.
_SIDE, _MAX_COLUMNS = 48, 170
_COLORS = ((31, 111, 235), (191, 57, 137), (26, 127, 55), (188, 76, 0), (130, 80, 223))


def write_projector(folder, embeddings, images, labels, name="embeddings"):
    """Writes points for the projector of TensorBoard.

    Args:
        folder: Folder of TensorBoard's events.
        embeddings: float32 (n, width), one per point.
        images: uint8 (h, w, 3) of each point, or None for a text.
        labels: (language or "", text) of each point; "" marks an image.
        name: Name of the points, and of their folder.
    """
    from PIL import Image
    from tensorboard.plugins import projector

    if not len(embeddings) == len(images) == len(labels) > 0:
        counts = len(embeddings), len(images), len(labels)
        raise ValueError(f"Expected as many embeddings as images and labels. Received: {counts}.")
    columns = min(_MAX_COLUMNS, math.ceil(math.sqrt(len(images))))
    size = (columns * _SIDE, math.ceil(len(images) / columns) * _SIDE)
    sprite = Image.new("RGB", size, "white")
    codes = sorted({code for code, _ in labels})
    for i, (image, (code, _)) in enumerate(zip(images, labels, strict=True)):
        if image is None:
            tile = _text_tile(code, _COLORS[codes.index(code) % len(_COLORS)])
        else:
            tile = Image.fromarray(image).resize((_SIDE, _SIDE))
        sprite.paste(tile, (i % columns * _SIDE, i // columns * _SIDE))
    os.makedirs(os.path.join(folder, name), exist_ok=True)
    sprite.save(os.path.join(folder, name, "sprite.png"))
    np.savetxt(os.path.join(folder, name, "tensors.tsv"), embeddings, "%.5g", delimiter="\t")
    with open(os.path.join(folder, name, "metadata.tsv"), "w", encoding="utf-8") as file:
        file.write("kind\tlanguage\ttext\n")
        for image, (code, text) in zip(images, labels, strict=True):
            kind = "text" if image is None else "image"
            file.write(f"{kind}\t{code or '-'}\t{' '.join(text.split())}\n")
    config = projector.ProjectorConfig()
    points = config.embeddings.add()
    points.tensor_name = name
    points.tensor_path, points.metadata_path = f"{name}/tensors.tsv", f"{name}/metadata.tsv"
    points.sprite.image_path = f"{name}/sprite.png"
    points.sprite.single_image_dim.extend([_SIDE, _SIDE])
    projector.visualize_embeddings(folder, config)


def _text_tile(code, color):
    """Returns a square with the language code of a text."""
    from PIL import Image, ImageDraw

    tile = Image.new("RGB", (_SIDE, _SIDE), color)
    font = fonts.latin_font(18)
    ImageDraw.Draw(tile).text((_SIDE // 2, _SIDE // 2), code[:5], "white", font, anchor="mm")
    return tile
