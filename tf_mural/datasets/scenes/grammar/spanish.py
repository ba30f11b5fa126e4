"""Spanish: noun, colour, size."""

from tf_mural.datasets.scenes.grammar.base import Grammar, Link, spaced

# Masculine and feminine.
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


def say(thing, case):
    """A thing in a case, as `Grammar.say`."""
    feminine = thing.noun in FEMININE
    noun = (FEMININE if feminine else MASCULINE)[thing.noun]
    size, colour = (word and ADJECTIVES[word][feminine] for word in (thing.size, thing.colour))
    return spaced("una" if feminine else "un", noun, colour, size)


GRAMMAR = Grammar(
    say=say,
    links={
        "left of": Link("{first} a la izquierda de {second}"),
        "right of": Link("{first} a la derecha de {second}"),
        "above": Link("{first} encima de {second}"),
        "below": Link("{first} debajo de {second}"),
        "next to": Link("{first} al lado de {second}"),
        "and": Link("{first} y {second}"),
    },
    caption="{phrase} sobre un fondo {background}",
    backgrounds={
        "plain": "liso",
        "striped": "de rayas",
        "dotted": "de lunares",
        "checkered": "de cuadros",
    },
)
