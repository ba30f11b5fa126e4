"""French: sizes precede the noun and colors follow it; `de` always becomes d' before `un`."""

from tf_mural.datasets.scenes.grammar.base import Grammar, LinkTemplate, join_words

# Masculine and feminine forms.
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


def noun_phrase(obj, case):
    """Returns the noun phrase of an object in a case; see `Grammar.noun_phrase`."""
    feminine = obj.noun in FEMININE
    noun = (FEMININE if feminine else MASCULINE)[obj.noun]
    size, color = (word and ADJECTIVES[word][feminine] for word in (obj.size, obj.color))
    return join_words("une" if feminine else "un", size, noun, color)


GRAMMAR = Grammar(
    noun_phrase=noun_phrase,
    link_templates={
        "left of": LinkTemplate("{first} à gauche d'{second}"),
        "right of": LinkTemplate("{first} à droite d'{second}"),
        "above": LinkTemplate("{first} au-dessus d'{second}"),
        "below": LinkTemplate("{first} au-dessous d'{second}"),
        "next to": LinkTemplate("{first} à côté d'{second}"),
        "and": LinkTemplate("{first} et {second}"),
    },
    caption_template="{phrase} sur un fond {background}",
    backgrounds={
        "plain": "uni",
        "striped": "rayé",
        "dotted": "à pois",
        "checkered": "à carreaux",
    },
)
