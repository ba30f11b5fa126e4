"""The 80 English templates that CLIP averages over, and the names of classes as one says them.

The templates are those of openai/CLIP (MIT licence), as a set; they are put together here from
their few forms.
"""

_PHOTOS = (  # "a ... photo of"
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
_WORKS = (
    "sculpture",
    "rendering",
    "rendition",
    "tattoo",
    "drawing",
    "painting",
    "doodle",
    "sketch",
)
_LOOKS = ("hard to see", "clean", "dirty", "cool", "nice", "large", "weird", "small")
_MATERIALS = ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")

FOOD_SUFFIX = ", a type of food"


def _templates():
    """Yields the templates."""
    for article in ("a", "the"):
        for photo in _PHOTOS:
            yield f"a {photo} photo of {article} {{}}."
        for work in _WORKS:
            yield f"a {work} of {article} {{}}."
        for look in _LOOKS:
            yield f"a photo of {article} {look} {{}}."
        for material in _MATERIALS:  # "a origami" too
            yield f"{article} {material} {{}}."
        for start in ("art of", "graffiti of", "itap of", "a photo of"):
            yield f"{start} {article} {{}}."
        yield f"{article} {{}} in a video game."
    for start in ("itap of my", "a photo of my", "a photo of one", "a photo of many"):
        yield f"{start} {{}}."


TEMPLATES = tuple(_templates())


def spoken(name):
    """A data set's name of a class as words: "aquarium_fish" and "bar/indoor" without the signs.

    Of synonyms with commas between them the first is taken: "tench, Tinca tinca" is "tench".
    """
    return " ".join(name.split(",")[0].replace("_", " ").replace("/", " ").split())
