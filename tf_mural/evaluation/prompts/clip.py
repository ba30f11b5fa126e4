"""The 80 English templates that CLIP averages over, and the conversion of class names to words.

The templates are those of openai/CLIP (MIT licence), generated from a few patterns.
"""

_PHOTOS = (  # adjectives of the templates "a ... photo of"
    "bad",
    "low resolution",
    "cropped",
    "bright",
    "dark",
    "close-up",
    "black and white",
    "pixelated",
    "jpeg corrupted",
    "blurry",
    "good",
)
_ARTWORKS = (
    "sculpture",
    "rendering",
    "rendition",
    "tattoo",
    "drawing",
    "painting",
    "doodle",
    "sketch",
)
_APPEARANCES = ("hard to see", "clean", "dirty", "cool", "nice", "large", "weird", "small")
_MATERIALS = ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")

FOOD_SUFFIX = ", a type of food"


def _templates():
    """Yields the templates, with {} for the class name."""
    for article in ("a", "the"):
        for photo in _PHOTOS:
            yield f"a {photo} photo of {article} {{}}."
        for artwork in _ARTWORKS:
            yield f"a {artwork} of {article} {{}}."
        for appearance in _APPEARANCES:
            yield f"a photo of {article} {appearance} {{}}."
        for material in _MATERIALS:  # CLIP writes "a origami", not "an origami"
            yield f"{article} {material} {{}}."
        for prefix in ("art of", "graffiti of", "itap of", "a photo of"):
            yield f"{prefix} {article} {{}}."
        yield f"{article} {{}} in a video game."
    for prefix in ("itap of my", "a photo of my", "a photo of one", "a photo of many"):
        yield f"{prefix} {{}}."


TEMPLATES = tuple(_templates())


def humanize_class(name):
    """Returns a class name of a data set as words, for example "bar indoor" for "bar/indoor".

    Underscores and slashes become spaces. If a name lists synonyms, separated by commas, only the
    first is used: "tench, Tinca tinca" becomes "tench".
    """
    return " ".join(name.split(",")[0].replace("_", " ").replace("/", " ").split())
