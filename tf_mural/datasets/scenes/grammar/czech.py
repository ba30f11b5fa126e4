"""Czech: three genders and plural-only nouns; prepositions take the genitive or instrumental."""

from tf_mural.datasets.scenes.grammar.base import Grammar, LinkTemplate, join_words

ADJECTIVES = {
    "big": "velk", "small": "mal", "red": "červen", "blue": "modr", "green": "zelen",
    "yellow": "žlut", "orange": "oranžov", "purple": "fialov", "black": "čern", "white": "bíl",
}  # fmt: skip
CASES = ("base", "genitive", "instrumental")
ENDINGS = {
    "m": ("ý", "ého", "ým"),
    "f": ("á", "é", "ou"),
    "n": ("é", "ého", "ým"),
    "p": ("é", "ých", "ými"),
}
# Nouns by gender ("p": plural only), each as nominative, genitive and instrumental.
NOUNS = {
    "m": {
        "circle": ("kruh", "kruhu", "kruhem"),
        "square": ("čtverec", "čtverce", "čtvercem"),
        "triangle": ("trojúhelník", "trojúhelníku", "trojúhelníkem"),
        "cross": ("kříž", "kříže", "křížem"),
        "ring": ("prstenec", "prstence", "prstencem"),
        "moon": ("měsíc", "měsíce", "měsícem"),
        "dog": ("pes", "psa", "psem"),
        "bird": ("pták", "ptáka", "ptákem"),
        "horse": ("kůň", "koně", "koněm"),
        "house": ("dům", "domu", "domem"),
        "tree": ("strom", "stromu", "stromem"),
        "table": ("stůl", "stolu", "stolem"),
        "key": ("klíč", "klíče", "klíčem"),
        "cup": ("šálek", "šálku", "šálkem"),
        "leaf": ("list", "listu", "listem"),
        "hat": ("klobouk", "klobouku", "kloboukem"),
        "ball": ("míč", "míče", "míčem"),
        "umbrella": ("deštník", "deštníku", "deštníkem"),
    },
    "f": {
        "star": ("hvězda", "hvězdy", "hvězdou"),
        "cat": ("kočka", "kočky", "kočkou"),
        "fish": ("ryba", "ryby", "rybou"),
        "book": ("kniha", "knihy", "knihou"),
        "chair": ("židle", "židle", "židlí"),
        "bed": ("postel", "postele", "postelí"),
        "bottle": ("láhev", "láhve", "láhví"),
        "spoon": ("lžíce", "lžíce", "lžící"),
        "flower": ("květina", "květiny", "květinou"),
        "boat": ("loď", "lodi", "lodí"),
        "shoe": ("bota", "boty", "botou"),
        "shirt": ("košile", "košile", "košilí"),
        "bag": ("taška", "tašky", "taškou"),
        "lamp": ("lampa", "lampy", "lampou"),
        "box": ("krabice", "krabice", "krabicí"),
    },
    "n": {
        "heart": ("srdce", "srdce", "srdcem"),
        "window": ("okno", "okna", "oknem"),
        "apple": ("jablko", "jablka", "jablkem"),
        "egg": ("vejce", "vejce", "vejcem"),
        "car": ("auto", "auta", "autem"),
    },
    "p": {
        "door": ("dveře", "dveří", "dveřmi"),
        "clock": ("hodiny", "hodin", "hodinami"),
    },
}
GENDERS = {noun: gender for gender, nouns in NOUNS.items() for noun in nouns}


def noun_phrase(obj, case):
    """Returns the noun phrase of an object in a case; see `Grammar.noun_phrase`."""
    gender, column = GENDERS[obj.noun], CASES.index(case)
    ending = ENDINGS[gender][column]
    adjectives = (ADJECTIVES[word] + ending for word in (obj.size, obj.color) if word)
    return join_words(*adjectives, NOUNS[gender][obj.noun][column])


GRAMMAR = Grammar(
    noun_phrase=noun_phrase,
    link_templates={
        "left of": LinkTemplate("{first} nalevo od {second}", second="genitive"),
        "right of": LinkTemplate("{first} napravo od {second}", second="genitive"),
        "above": LinkTemplate("{first} nad {second}", second="instrumental"),
        "below": LinkTemplate("{first} pod {second}", second="instrumental"),
        "next to": LinkTemplate("{first} vedle {second}", second="genitive"),
        "and": LinkTemplate("{first} a {second}"),
    },
    caption_template="{phrase} na {background} pozadí",
    backgrounds={
        "plain": "jednobarevném",
        "striped": "pruhovaném",
        "dotted": "puntíkovaném",
        "checkered": "kostkovaném",
    },
)
