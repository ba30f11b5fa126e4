"""Spanish: the word order is noun, color, size."""

from tf_mural.datasets.scenes.grammar.base import Grammar, LinkTemplate, join_words

# Masculine and feminine forms.
ADJECTIVES = {
    "big": ("grande", "grande"), "small": ("pequeño", "pequeña"), "red": ("rojo", "roja"),
    "blue": ("azul", "azul"), "green": ("verde", "verde"), "yellow": ("amarillo", "amarilla"),
    "orange": ("naranja", "naranja"), "purple": ("morado", "morada"),
    "black": ("negro", "negra"), "white": ("blanco", "blanca"),
}  # fmt: skip
MASCULINE = {
    "circle": "círculo", "square": "cuadrado", "triangle": "triángulo", "heart": "corazón",
    "ring": "anillo",
    "dog": "perro", "cat": "gato", "bird": "pájaro", "fish": "pez", "horse": "caballo",
    "tree": "árbol", "book": "libro", "egg": "huevo", "car": "coche", "boat": "barco",
    "shoe": "zapato", "hat": "sombrero", "clock": "reloj", "umbrella": "paraguas",
}  # fmt: skip
FEMININE = {
    "star": "estrella", "cross": "cruz", "moon": "luna",
    "house": "casa", "table": "mesa", "chair": "silla", "bed": "cama", "window": "ventana",
    "door": "puerta", "key": "llave", "cup": "taza", "bottle": "botella", "spoon": "cuchara",
    "apple": "manzana", "flower": "flor", "leaf": "hoja", "shirt": "camisa", "bag": "bolsa",
    "ball": "pelota", "lamp": "lámpara", "box": "caja",
}  # fmt: skip


def noun_phrase(obj, case):
    """Returns the noun phrase of an object in a case; see `Grammar.noun_phrase`."""
    feminine = obj.noun in FEMININE
    noun = (FEMININE if feminine else MASCULINE)[obj.noun]
    size, color = (word and ADJECTIVES[word][feminine] for word in (obj.size, obj.color))
    return join_words("una" if feminine else "un", noun, color, size)


GRAMMAR = Grammar(
    noun_phrase=noun_phrase,
    link_templates={
        "left of": LinkTemplate("{first} a la izquierda de {second}"),
        "right of": LinkTemplate("{first} a la derecha de {second}"),
        "above": LinkTemplate("{first} encima de {second}"),
        "below": LinkTemplate("{first} debajo de {second}"),
        "next to": LinkTemplate("{first} al lado de {second}"),
        "and": LinkTemplate("{first} y {second}"),
    },
    caption_template="{phrase} sobre un fondo {background}",
    backgrounds={
        "plain": "liso",
        "striped": "de rayas",
        "dotted": "de lunares",
        "checkered": "de cuadros",
    },
)
