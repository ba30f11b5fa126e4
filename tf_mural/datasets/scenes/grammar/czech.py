"""Czech: three genders (door and clock are plural only), genitive and instrumental after places."""

from tf_mural.datasets.scenes.grammar.base import Grammar, Link, spaced

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
# Nominative, genitive, instrumental.
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


def say(thing, case):
    """A thing in a case, as `Grammar.say`."""
    gender, column = GENDERS[thing.noun], CASES.index(case)
    ending = ENDINGS[gender][column]
    adjectives = (ADJECTIVES[word] + ending for word in (thing.size, thing.colour) if word)
    return spaced(*adjectives, NOUNS[gender][thing.noun][column])


GRAMMAR = Grammar(
    say=say,
    links={
        "left of": Link("{first} nalevo od {second}", second="genitive"),
        "right of": Link("{first} napravo od {second}", second="genitive"),
        "above": Link("{first} nad {second}", second="instrumental"),
        "below": Link("{first} pod {second}", second="instrumental"),
        "next to": Link("{first} vedle {second}", second="genitive"),
        "and": Link("{first} a {second}"),
    },
    caption="{phrase} na {background} pozadí",
    backgrounds={
        "plain": "jednobarevném",
        "striped": "pruhovaném",
        "dotted": "puntíkovaném",
        "checkered": "kostkovaném",
    },
)
