"""Describes how the pixels of an image file become the input of an image tower."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tf_mural.data.image_normalization import parse_color
from tf_mural.errors import UserError, lookup

# Methods of `tf.image.resize`.
METHODS = ("bilinear", "bicubic", "lanczos3", "lanczos5", "area", "nearest")
PADDINGS = ("symmetric", "end")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of images. It is stored as plain data with the weights of an image tower.

    An image is made upright and opaque (see `image_normalization`), resized to a square of `resize`
    pixels without keeping its aspect ratio, and rounded to 8 bits. With `keep_aspect_ratio`, the
    shorter side gets `resize` pixels, and the aspect ratio is kept. Training crops a random square
    of `crop` pixels, and all other uses crop the central square. The tower itself maps each pixel x
    in [0, 255] to (scale * x - mean) / std. The defaults are those of the paper.

    The config of a run contains `resize`, `crop`, `method`, `antialias` and `background` under
    `images`, and the arguments of the tower under `model.image`.

    Attributes:
        resize: height and width in pixels after resizing; see `keep_aspect_ratio`.
        crop: height and width in pixels after cropping.
        method: one of `METHODS`.
        antialias: whether a filter prevents aliasing when images are made smaller. With True,
            "bilinear" and "bicubic" give the pixels of Pillow's `Image.resize`.
        background: color of transparent areas, see `image_normalization.parse_color`.
        scale: float, factor of the pixels.
        mean: one float, or one float per channel.
        std: one float, or one float per channel.
        keep_aspect_ratio: whether only the shorter side has `resize` pixels after resizing, as in
            CLIP. The longer side is rounded down.
        padding: padding of the stride-2 convolutions, one of `PADDINGS`; see `models.image_tower`.

    Raises:
        UserError: a value is invalid.
    """

    resize: int
    crop: int
    method: str = "bilinear"
    antialias: bool = False
    background: str = "white"
    scale: float = 1 / 127.5
    mean: tuple = (1.0,)
    std: tuple = (1.0,)
    padding: str = "symmetric"
    keep_aspect_ratio: bool = False

    def __post_init__(self):
        if not 1 <= self.crop <= self.resize:
            raise UserError(
                f"crop is {self.crop} and resize is {self.resize}, expected 1 <= crop <= resize"
            )
        lookup(dict.fromkeys(METHODS), self.method, "method of resizing")
        lookup(dict.fromkeys(PADDINGS), self.padding, "padding")
        parse_color(self.background)
        for name in ("mean", "std"):
            values = getattr(self, name)
            values = (values,) if isinstance(values, int | float) else tuple(values)
            if len(values) not in (1, 3):
                raise UserError(f"{name} has {len(values)} values, expected 1, or 3 for R, G and B")
            object.__setattr__(self, name, tuple(map(float, values)))
        if not self.scale > 0 or not min(self.std) > 0:
            raise UserError(f"scale is {self.scale} and std is {self.std}, expected values above 0")

    @classmethod
    def from_config(
        cls, images: Mapping[str, Any], tower: Mapping[str, Any] | None = None
    ) -> "Preprocessing":
        """Returns the preprocessing that two groups of settings describe.

        Args:
            images: mapping from names of attributes to values. Attributes that are missing, as in
                the files of earlier versions of `tf_mural`, get their default values.
            tower: a second mapping, for example the arguments of `models.image_tower`. Keys that
                are not attributes of this class, and values of None, are ignored.

        Raises:
            UserError: a value is invalid.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        values = {**dict(tower or {}), **dict(images)}
        return cls(**{k: v for k, v in values.items() if k in names and v is not None})

    def with_size(self, size: int) -> "Preprocessing":
        """Returns the same preprocessing for crops of `size` pixels; `resize` changes likewise."""
        return dataclasses.replace(self, resize=round(self.resize * size / self.crop), crop=size)

    @property
    def input_scale(self) -> float | tuple[float, ...]:
        """Factor by which each pixel is multiplied, a float or a tuple of 3 floats."""
        return _scalar_or_tuple([self.scale / std for std in self._per_channel("std")])

    @property
    def input_offset(self) -> float | tuple[float, ...]:
        """Offset that is added to each scaled pixel, a float or a tuple of 3 floats."""
        pairs = zip(self._per_channel("mean"), self._per_channel("std"), strict=True)
        return _scalar_or_tuple([-mean / std for mean, std in pairs])

    def _per_channel(self, name):
        values, count = getattr(self, name), max(len(self.mean), len(self.std))
        return values * count if len(values) < count else values

    def to_json(self) -> dict[str, Any]:
        """Returns all attributes as plain data."""
        plain = dataclasses.asdict(self)
        return {**plain, "mean": list(self.mean), "std": list(self.std)}

    def changes(self) -> dict[str, Any]:
        """Returns {attribute: value} of the attributes that differ from the defaults."""
        defaults = type(self)(self.resize, self.crop).to_json()
        return {name: value for name, value in self.to_json().items() if value != defaults[name]}


def _scalar_or_tuple(values):
    return values[0] if len(set(values)) == 1 else tuple(values)
