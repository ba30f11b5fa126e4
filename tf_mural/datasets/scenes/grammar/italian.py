"""Italian: sizes before the noun, colours after it; una is cut to un' before a vowel."""

from tf_mural.datasets.scenes.grammar.base import Grammar, Link, spaced

# Masculine and feminine.
ADJECTIVES = {
    "big": ("grande", "grande"), "small": ("piccolo", "piccola"), "red": ("rosso", "rossa"),
    "blue": ("blu", "blu"), "green": ("verde", "verde"), "yellow": ("giallo", "gialla"),
    "orange": ("arancione", "arancione"), "purple": ("viola", "viola"),
    "black": ("nero", "nera"), "white": ("bianco", "bianca"),
}  # fmt: skip
# None begins with z or s and a consonant: `uno` never comes up.
MASCULINE = {
    "circle": "cerchio", "square": "quadrato", "triangle": "triangolo", "heart": "cuore",
    "ring": "anello",
    "dog": "cane", "cat": "gatto", "bird": "uccello", "fish": "pesce", "horse": "cavallo",
    "tree": "albero", "book": "libro", "table": "tavolo", "bed": "letto", "spoon": "cucchiaio",
    "egg": "uovo", "flower": "fiore", "hat": "cappello", "clock": "orologio",
    "umbrella": "ombrello",
}  # fmt: skip
FEMININE = {
    "star": "stella", "cross": "croce", "moon": "luna",
    "house": "casa", "chair": "sedia", "window": "finestra", "door": "porta", "key": "chiave",
    "cup": "tazza", "bottle": "bottiglia", "apple": "mela", "leaf": "foglia", "car": "auto",
    "boat": "barca", "shoe": "scarpa", "shirt": "camicia", "bag": "borsa", "ball": "palla",
    "lamp": "lampada", "box": "scatola",
}  # fmt: skip


def say(thing, case):
    """A thing in a case, as `Grammar.say`."""
    feminine = thing.noun in FEMININE
    noun = (FEMININE if feminine else MASCULINE)[thing.noun]
    size, colour = (word and ADJECTIVES[word][feminine] for word in (thing.size, thing.colour))
    words = spaced(size, noun, colour)
    if not feminine:
        return "un " + words
    return ("un'" if words[0] in "aeiou" else "una ") + words


GRAMMAR = Grammar(
    say=say,
    links={
        "left of": Link("{first} a sinistra di {second}"),
        "right of": Link("{first} a destra di {second}"),
        "above": Link("{first} sopra {second}"),
        "below": Link("{first} sotto {second}"),
        "next to": Link("{first} accanto a {second}"),
        "and": Link("{first} e {second}"),
    },
    caption="{phrase} su uno sfondo {background}",
    backgrounds={
        "plain": "a tinta unita",
        "striped": "a righe",
        "dotted": "a pois",
        "checkered": "a scacchi",
    },
)
