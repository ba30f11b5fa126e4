"""Pictures of scenes: two shapes on a patterned grey, jittered, as PNG.

Whatever 64 x 64 pixels are cut out of the 72 x 72, both shapes are whole in them, so that crops
falsify nothing.
"""

import io
import math
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from tf_mural.datasets.scenes.scene import Scene

SIDE = 72
CROP = 64
# What every crop holds runs from SIDE - CROP to CROP, along both axes; half a pixel is to spare.
LOW, HIGH = SIDE - CROP + 0.5, CROP - 0.5
FINE = 4  # drawn this many times larger, then averaged down: soft edges
RADII = {"big": (11.5, 13.0), "small": (5.8, 7.0)}
GAP = 2.0
SLANT = 0.35  # how far off a straight line two shapes may stand, as a part of their distance
COLOURS = {
    "red": (215, 35, 40), "blue": (35, 75, 215), "green": (35, 150, 55), "yellow": (250, 220, 40),
    "orange": (250, 130, 20), "purple": (135, 45, 175), "black": (22, 22, 22),
    "white": (245, 245, 245),
}  # fmt: skip
SHADE_JITTER = 10


@dataclass(frozen=True)
class Place:
    """Where a shape stands: its middle and its radius in pixels, y downwards."""

    x: float
    y: float
    radius: float


def picture(scene: Scene, rng: Random) -> bytes:
    """A PNG of (72, 72, 3) of `scene`; the jitter is drawn from `rng`."""
    return draw(scene, arrange(scene, rng), rng)


def arrange(scene: Scene, rng: Random) -> tuple[Place, Place]:
    """Places of the first and the second shape, apart from each other, so that the relation holds.

    Both are whole in every crop; along the axis of the relation they are at least twice as far
    apart as across it.
    """
    radii = [rng.uniform(*RADII[thing.size]) for thing in (scene.first, scene.second)]
    # First what is left or above; they are swapped at the end if the caption begins with the other.
    flipped = scene.link in ("right of", "below")
    low, high = reversed(radii) if flipped else radii
    distance = rng.uniform(low + high + GAP, HIGH - LOW - low - high)
    start = rng.uniform(LOW + low, HIGH - high - distance)
    across = rng.uniform(LOW + low, HIGH - low)
    drift = across + rng.uniform(-SLANT, SLANT) * distance
    along, beside = (start, start + distance), (across, _clip(drift, LOW + high, HIGH - high))
    if scene.link in ("left of", "right of"):
        places = [Place(along[i], beside[i], (low, high)[i]) for i in (0, 1)]
    else:
        places = [Place(beside[i], along[i], (low, high)[i]) for i in (0, 1)]
    return tuple(reversed(places)) if flipped else tuple(places)


def draw(scene: Scene, places: tuple[Place, Place], rng: Random) -> bytes:
    """A PNG of (72, 72, 3) with the two shapes at `places`; shades, tilt and pattern from `rng`."""
    light = int(rng.uniform(168, 190))
    image = Image.new("RGB", (SIDE * FINE, SIDE * FINE), (light,) * 3)
    canvas = ImageDraw.Draw(image)
    dark = light - int(rng.uniform(34, 44))
    PATTERNS[scene.background](canvas, (dark,) * 3, rng)
    for thing, place in zip((scene.first, scene.second), places, strict=True):
        tilt = math.radians(rng.uniform(-7, 7))
        fill = tuple(
            _clip(int(part + rng.uniform(-SHADE_JITTER, SHADE_JITTER)), 0, 255)
            for part in COLOURS[thing.colour]
        )
        for outline in OUTLINES[thing.noun]:
            canvas.polygon(_placed(outline, place, tilt), fill=fill)
    out = io.BytesIO()
    image.reduce(FINE).save(out, format="PNG")
    return out.getvalue()


def _clip(value, low, high):
    return max(low, min(high, value))


def _placed(outline, place, tilt):
    """An outline of the unit square as canvas points."""
    cos, sin, scale = math.cos(tilt), math.sin(tilt), place.radius
    return [
        (
            FINE * (place.x + scale * (cos * x - sin * y)),
            FINE * (place.y + scale * (sin * x + cos * y)),
        )
        for x, y in outline
    ]


def _plain(canvas, dark, rng):
    pass


def _striped(canvas, dark, rng):
    side, step = SIDE * FINE, rng.uniform(9, 12) * FINE
    slope, upright = rng.uniform(-1, 1) * side, rng.random() < 0.5
    at = -side - rng.random() * step
    while at < 2 * side:
        corners = [(at, 0), (at + step / 2, 0), (at + step / 2 + slope, side), (at + slope, side)]
        canvas.polygon(corners if upright else [(y, x) for x, y in corners], fill=dark)
        at += step


def _dotted(canvas, dark, rng):
    step, radius = rng.uniform(8.5, 10.5) * FINE, rng.uniform(2.0, 2.5) * FINE
    left, top = (rng.random() * step - step for _ in range(2))
    for i in range(10):
        for j in range(10):
            x, y = left + i * step, top + j * step
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=dark)


def _checkered(canvas, dark, rng):
    step = rng.uniform(8, 10) * FINE
    left, top = (rng.random() * step - 2 * step for _ in range(2))
    for i in range(12):
        for j in range(i % 2, 12, 2):
            x, y = left + i * step, top + j * step
            canvas.rectangle((x, y, x + step, y + step), fill=dark)


PATTERNS = {"plain": _plain, "striped": _striped, "dotted": _dotted, "checkered": _checkered}


def _arc(x, y, radius, start, end, points=48):
    """Points of a circle from one angle to another, in degrees, clockwise on the screen."""
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
    # A little more than half, so that no seam shows where two halves meet.
    return _arc(0, 0, 1.0, start, start + 190) + _arc(0, 0, 0.55, start + 190, start)


# Each fills the square from -1 to 1, y downwards.
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
