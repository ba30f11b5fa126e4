"""German: after `ein`, adjective endings depend on the gender; in the dative they are -en."""

from tf_mural.datasets.scenes.grammar.base import Grammar, LinkTemplate, join_words

ADJECTIVES = {
    "big": "groß", "small": "klein", "red": "rot", "blue": "blau", "green": "grün",
    "yellow": "gelb", "orange": "orangefarben", "purple": "violett", "black": "schwarz",
    "white": "weiß",
}  # fmt: skip
# {(gender, case): (article, ending of the adjective)}
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


def noun_phrase(obj, case):
    """Returns the noun phrase of an object in a case; see `Grammar.noun_phrase`."""
    noun, gender = NOUNS[obj.noun]
    article, ending = FORMS[gender, case]
    adjectives = (ADJECTIVES[word] + ending for word in (obj.size, obj.color) if word)
    return join_words(article, *adjectives, noun)


GRAMMAR = Grammar(
    noun_phrase=noun_phrase,
    link_templates={
        "left of": LinkTemplate("{first} links von {second}", second="dative"),
        "right of": LinkTemplate("{first} rechts von {second}", second="dative"),
        "above": LinkTemplate("{first} über {second}", second="dative"),
        "below": LinkTemplate("{first} unter {second}", second="dative"),
        "next to": LinkTemplate("{first} neben {second}", second="dative"),
        "and": LinkTemplate("{first} und {second}"),
    },
    caption_template="{phrase} auf {background} Hintergrund",
    backgrounds={
        "plain": "einfarbigem",
        "striped": "gestreiftem",
        "dotted": "gepunktetem",
        "checkered": "kariertem",
    },
)
