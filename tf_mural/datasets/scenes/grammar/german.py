"""German: adjectives end by gender after `ein`, and all in -en in the dative that places want."""

from tf_mural.datasets.scenes.grammar.base import Grammar, Link, spaced

ADJECTIVES = {
    "big": "groß", "small": "klein", "red": "rot", "blue": "blau", "green": "grün",
    "yellow": "gelb", "orange": "orangefarben", "purple": "violett", "black": "schwarz",
    "white": "weiß",
}  # fmt: skip
# Article and ending of the adjective.
FORMS = {
    ("m", "base"): ("ein", "er"),
    ("f", "base"): ("eine", "e"),
    ("n", "base"): ("ein", "es"),
    ("m", "dative"): ("einem", "en"),
    ("f", "dative"): ("einer", "en"),
    ("n", "dative"): ("einem", "en"),
}
NOUNS = {
    "circle": ("Kreis", "m"), "square": ("Quadrat", "n"), "triangle": ("Dreieck", "n"),
    "star": ("Stern", "m"), "heart": ("Herz", "n"), "cross": ("Kreuz", "n"),
    "ring": ("Ring", "m"), "moon": ("Mond", "m"),
    "dog": ("Hund", "m"), "cat": ("Katze", "f"), "bird": ("Vogel", "m"), "fish": ("Fisch", "m"),
    "horse": ("Pferd", "n"), "house": ("Haus", "n"), "tree": ("Baum", "m"), "book": ("Buch", "n"),
    "table": ("Tisch", "m"), "chair": ("Stuhl", "m"), "bed": ("Bett", "n"),
    "window": ("Fenster", "n"), "door": ("Tür", "f"), "key": ("Schlüssel", "m"),
    "cup": ("Tasse", "f"), "bottle": ("Flasche", "f"), "spoon": ("Löffel", "m"),
    "apple": ("Apfel", "m"), "egg": ("Ei", "n"), "flower": ("Blume", "f"), "leaf": ("Blatt", "n"),
    "car": ("Auto", "n"), "boat": ("Boot", "n"), "shoe": ("Schuh", "m"), "hat": ("Hut", "m"),
    "shirt": ("Hemd", "n"), "bag": ("Tasche", "f"), "ball": ("Ball", "m"), "clock": ("Uhr", "f"),
    "lamp": ("Lampe", "f"), "box": ("Schachtel", "f"), "umbrella": ("Regenschirm", "m"),
}  # fmt: skip


def say(thing, case):
    """A thing in a case, as `Grammar.say`."""
    noun, gender = NOUNS[thing.noun]
    article, ending = FORMS[gender, case]
    adjectives = (ADJECTIVES[word] + ending for word in (thing.size, thing.colour) if word)
    return spaced(article, *adjectives, noun)


GRAMMAR = Grammar(
    say=say,
    links={
        "left of": Link("{first} links von {second}", second="dative"),
        "right of": Link("{first} rechts von {second}", second="dative"),
        "above": Link("{first} über {second}", second="dative"),
        "below": Link("{first} unter {second}", second="dative"),
        "next to": Link("{first} neben {second}", second="dative"),
        "and": Link("{first} und {second}"),
    },
    caption="{phrase} auf {background} Hintergrund",
    backgrounds={
        "plain": "einfarbigem",
        "striped": "gestreiftem",
        "dotted": "gepunktetem",
        "checkered": "kariertem",
    },
)
