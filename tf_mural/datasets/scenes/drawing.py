"""Draws scenes as PNG: two shapes on a patterned gray background, with random jitter.

An image has 72 x 72 pixels. Both shapes are completely inside every crop of 64 x 64 pixels, because
a caption must be true for any crop.
"""

import io
import math
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from tf_mural.datasets.scenes.scene import Scene

SIZE = 72
CROP_SIZE = 64
# Bounds of the area that all crops share: SIZE - CROP_SIZE to CROP_SIZE along both axes, reduced by
# half a pixel on each side.
LOW, HIGH = SIZE - CROP_SIZE + 0.5, CROP_SIZE - 0.5
SUPERSAMPLING = 4  # Shapes are drawn at this scale and averaged, which gives soft edges.
RADII = {"big": (11.5, 13.0), "small": (5.8, 7.0)}
MIN_GAP = 2.0
# Maximum distance of two shapes perpendicular to the axis of their relation, as a fraction of their
# distance along the axis.
MAX_SLANT = 0.35
COLORS = {
    "red": (215, 35, 40), "blue": (35, 75, 215), "green": (35, 150, 55), "yellow": (250, 220, 40),
    "orange": (250, 130, 20), "purple": (135, 45, 175), "black": (22, 22, 22),
    "white": (245, 245, 245),
}  # fmt: skip
COLOR_JITTER = 10


@dataclass(frozen=True)
class Placement:
    """The center and the radius of a shape in pixels; y points downwards."""

    x: float
    y: float
    radius: float


def draw_scene(scene: Scene, rng: Random) -> bytes:
    """Returns a PNG (72, 72, 3) of a scene, with placements and jitter sampled from `rng`."""
    return render(scene, arrange(scene, rng), rng)


def arrange(scene: Scene, rng: Random) -> tuple[Placement, Placement]:
    """Samples placements of the first and the second shape for which the relation holds.

    The shapes do not touch and are inside every crop. Their distance along the axis of the relation
    is at least twice their distance perpendicular to this axis.
    """
    radii = [rng.uniform(*RADII[obj.size]) for obj in (scene.first, scene.second)]
    # The left or upper shape is placed first; the result is reversed if this shape is the second
    # one.
    is_reversed = scene.link in ("right of", "below")
    low, high = reversed(radii) if is_reversed else radii
    distance = rng.uniform(low + high + MIN_GAP, HIGH - LOW - low - high)
    start = rng.uniform(LOW + low, HIGH - high - distance)
    across = rng.uniform(LOW + low, HIGH - low)
    other_across = across + rng.uniform(-MAX_SLANT, MAX_SLANT) * distance
    along = (start, start + distance)
    across = (across, _clip(other_across, LOW + high, HIGH - high))
    if scene.link in ("left of", "right of"):
        placements = [Placement(along[i], across[i], (low, high)[i]) for i in (0, 1)]
    else:
        placements = [Placement(across[i], along[i], (low, high)[i]) for i in (0, 1)]
    return tuple(reversed(placements)) if is_reversed else tuple(placements)


def render(scene: Scene, placements: tuple[Placement, Placement], rng: Random) -> bytes:
    """Returns a PNG (72, 72, 3) of a scene.

    Args:
        scene: the scene.
        placements: placements of the first and the second shape.
        rng: source of the shades, the rotation of the shapes, and the pattern.
    """
    light = int(rng.uniform(168, 190))
    image = Image.new("RGB", (SIZE * SUPERSAMPLING, SIZE * SUPERSAMPLING), (light,) * 3)
    canvas = ImageDraw.Draw(image)
    dark = light - int(rng.uniform(34, 44))
    PATTERNS[scene.background](canvas, (dark,) * 3, rng)
    for obj, placement in zip((scene.first, scene.second), placements, strict=True):
        angle = math.radians(rng.uniform(-7, 7))
        fill = tuple(
            _clip(int(channel + rng.uniform(-COLOR_JITTER, COLOR_JITTER)), 0, 255)
            for channel in COLORS[obj.color]
        )
        for outline in OUTLINES[obj.noun]:
            canvas.polygon(_to_canvas(outline, placement, angle), fill=fill)
    buffer = io.BytesIO()
    image.reduce(SUPERSAMPLING).save(buffer, format="PNG")
    return buffer.getvalue()


def _clip(value, low, high):
    return max(low, min(high, value))


def _to_canvas(outline, placement, angle):
    """Rotates, scales and moves an outline of the square [-1, 1] to canvas coordinates."""
    cos, sin, radius = math.cos(angle), math.sin(angle), placement.radius
    return [
        (
            SUPERSAMPLING * (placement.x + radius * (cos * x - sin * y)),
            SUPERSAMPLING * (placement.y + radius * (sin * x + cos * y)),
        )
        for x, y in outline
    ]


def _plain(canvas, dark, rng):
    pass


def _striped(canvas, dark, rng):
    size, step = SIZE * SUPERSAMPLING, rng.uniform(9, 12) * SUPERSAMPLING
    slope, is_vertical = rng.uniform(-1, 1) * size, rng.random() < 0.5
    start = -size - rng.random() * step
    while start < 2 * size:
        end = start + step / 2
        corners = [(start, 0), (end, 0), (end + slope, size), (start + slope, size)]
        canvas.polygon(corners if is_vertical else [(y, x) for x, y in corners], fill=dark)
        start += step


def _dotted(canvas, dark, rng):
    step = rng.uniform(8.5, 10.5) * SUPERSAMPLING
    radius = rng.uniform(2.0, 2.5) * SUPERSAMPLING
    left, top = (rng.random() * step - step for _ in range(2))
    for i in range(10):
        for j in range(10):
            x, y = left + i * step, top + j * step
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=dark)


def _checkered(canvas, dark, rng):
    step = rng.uniform(8, 10) * SUPERSAMPLING
    left, top = (rng.random() * step - 2 * step for _ in range(2))
    for i in range(12):
        for j in range(i % 2, 12, 2):
            x, y = left + i * step, top + j * step
            canvas.rectangle((x, y, x + step, y + step), fill=dark)


PATTERNS = {"plain": _plain, "striped": _striped, "dotted": _dotted, "checkered": _checkered}


def _arc(x, y, radius, start, end, points=48):
    """Returns points of a circle from angle `start` to `end`, in degrees, clockwise on screen."""
    angles = (math.radians(start + (end - start) * i / points) for i in range(points + 1))
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def _heart():
    points = []
    for i in range(60):
        t = 2 * math.pi * i / 60
        height = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((0.95 * math.sin(t) ** 3, -(height + 2.5) / 17))
    return points


def _star():
    spokes = [(1.0 if i % 2 == 0 else 0.42, math.pi * (i / 5 - 0.5)) for i in range(10)]
    return [(length * math.cos(angle), length * math.sin(angle)) for length, angle in spokes]


def _half_ring(start):
    # The arc is slightly longer than 180 degrees, which hides the seam between two halves.
    return _arc(0, 0, 1.0, start, start + 190) + _arc(0, 0, 0.55, start + 190, start)


# Polygons of each shape, which fill the square [-1, 1]; y points downwards.
OUTLINES = {
    "circle": (_arc(0, 0, 0.95, 0, 360),),
    "square": ([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],),
    "triangle": ([(0, -0.95), (0.92, 0.72), (-0.92, 0.72)],),
    "star": (_star(),),
    "heart": (_heart(),),
    "cross": (
        [(-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3),
         (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3)],
    ),
    "ring": (_half_ring(0), _half_ring(180)),
    "moon": (_arc(0.18, 0, 1.0, 50, 310) + _arc(0.73, 0, 0.772, 277, 83),),
}  # fmt: skip
