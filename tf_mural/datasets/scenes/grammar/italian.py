"""Italian: sizes precede the noun and colors follow it; una becomes un' before a vowel."""

from tf_mural.datasets.scenes.grammar.base import Grammar, LinkTemplate, join_words

# Masculine and feminine forms.
ADJECTIVES = {
    "big": ("grande", "grande"), "small": ("piccolo", "piccola"), "red": ("rosso", "rossa"),
    "blue": ("blu", "blu"), "green": ("verde", "verde"), "yellow": ("giallo", "gialla"),
    "orange": ("arancione", "arancione"), "purple": ("viola", "viola"),
    "black": ("nero", "nera"), "white": ("bianco", "bianca"),
}  # fmt: skip
# No noun begins with z, or s and a consonant, so `uno` is not needed.
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


def noun_phrase(obj, case):
    """Returns the noun phrase of an object in a case; see `Grammar.noun_phrase`."""
    feminine = obj.noun in FEMININE
    noun = (FEMININE if feminine else MASCULINE)[obj.noun]
    size, color = (word and ADJECTIVES[word][feminine] for word in (obj.size, obj.color))
    words = join_words(size, noun, color)
    if not feminine:
        return "un " + words
    return ("un'" if words[0] in "aeiou" else "una ") + words


GRAMMAR = Grammar(
    noun_phrase=noun_phrase,
    link_templates={
        "left of": LinkTemplate("{first} a sinistra di {second}"),
        "right of": LinkTemplate("{first} a destra di {second}"),
        "above": LinkTemplate("{first} sopra {second}"),
        "below": LinkTemplate("{first} sotto {second}"),
        "next to": LinkTemplate("{first} accanto a {second}"),
        "and": LinkTemplate("{first} e {second}"),
    },
    caption_template="{phrase} su uno sfondo {background}",
    backgrounds={
        "plain": "a tinta unita",
        "striped": "a righe",
        "dotted": "a pois",
        "checkered": "a scacchi",
    },
)
