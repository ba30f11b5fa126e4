"""French: sizes before the noun, colours after it; `de` meets `un` alone, so it is always d'."""

from tf_mural.datasets.scenes.grammar.base import Grammar, Link, spaced

# Masculine and feminine.
ADJECTIVES = {
    "big": ("grand", "grande"), "small": ("petit", "petite"), "red": ("rouge", "rouge"),
    "blue": ("bleu", "bleue"), "green": ("vert", "verte"), "yellow": ("jaune", "jaune"),
    "orange": ("orange", "orange"), "purple": ("violet", "violette"), "black": ("noir", "noire"),
    "white": ("blanc", "blanche"),
}  # fmt: skip
MASCULINE = {
    "circle": "cercle", "square": "carré", "triangle": "triangle", "heart": "cœur",
    "ring": "anneau",
    "dog": "chien", "cat": "chat", "bird": "oiseau", "fish": "poisson", "horse": "cheval",
    "tree": "arbre", "book": "livre", "bed": "lit", "egg": "œuf", "boat": "bateau",
    "hat": "chapeau", "bag": "sac", "ball": "ballon", "umbrella": "parapluie",
}  # fmt: skip
FEMININE = {
    "star": "étoile", "cross": "croix", "moon": "lune",
    "house": "maison", "table": "table", "chair": "chaise", "window": "fenêtre", "door": "porte",
    "key": "clé", "cup": "tasse", "bottle": "bouteille", "spoon": "cuillère", "apple": "pomme",
    "flower": "fleur", "leaf": "feuille", "car": "voiture", "shoe": "chaussure",
    "shirt": "chemise", "clock": "horloge", "lamp": "lampe", "box": "boîte",
}  # fmt: skip


def say(thing, case):
    """A thing in a case, as `Grammar.say`."""
    feminine = thing.noun in FEMININE
    noun = (FEMININE if feminine else MASCULINE)[thing.noun]
    size, colour = (word and ADJECTIVES[word][feminine] for word in (thing.size, thing.colour))
    return spaced("une" if feminine else "un", size, noun, colour)


GRAMMAR = Grammar(
    say=say,
    links={
        "left of": Link("{first} à gauche d'{second}"),
        "right of": Link("{first} à droite d'{second}"),
        "above": Link("{first} au-dessus d'{second}"),
        "below": Link("{first} au-dessous d'{second}"),
        "next to": Link("{first} à côté d'{second}"),
        "and": Link("{first} et {second}"),
    },
    caption="{phrase} sur un fond {background}",
    backgrounds={
        "plain": "uni",
        "striped": "rayé",
        "dotted": "à pois",
        "checkered": "à carreaux",
    },
)
