"""Swahili: adjectives follow, begin as the noun's class says, and most colours are linked by -a."""

from tf_mural.datasets.scenes.grammar.base import Grammar, Link, spaced

# By class: big, small, red, black, white, and the -a of "of", which the other colours need. Animals
# take the forms of class 1 whatever they look like, and class 11 (a key) shares those of class 3.
CLASSES = {
    "m": ("mkubwa", "mdogo", "mwekundu", "mweusi", "mweupe", "wa"),
    "ji": ("kubwa", "dogo", "jekundu", "jeusi", "jeupe", "la"),
    "ki": ("kikubwa", "kidogo", "chekundu", "cheusi", "cheupe", "cha"),
    "n": ("kubwa", "ndogo", "nyekundu", "nyeusi", "nyeupe", "ya"),
}
ADJECTIVES = ("big", "small", "red", "black", "white")
LINKED_COLOURS = {
    "blue": "bluu", "green": "kijani", "yellow": "manjano", "orange": "rangi ya machungwa",
    "purple": "rangi ya zambarau",
}  # fmt: skip
NOUNS = {
    "circle": ("duara", "ji"), "square": ("mraba", "m"), "triangle": ("pembetatu", "n"),
    "star": ("nyota", "n"), "heart": ("moyo", "m"), "cross": ("msalaba", "m"),
    "ring": ("pete", "n"), "moon": ("mwezi", "m"),
    "dog": ("mbwa", "m"), "cat": ("paka", "m"), "bird": ("ndege", "m"), "fish": ("samaki", "m"),
    "horse": ("farasi", "m"), "house": ("nyumba", "n"), "tree": ("mti", "m"),
    "book": ("kitabu", "ki"), "table": ("meza", "n"), "chair": ("kiti", "ki"),
    "bed": ("kitanda", "ki"), "window": ("dirisha", "ji"), "door": ("mlango", "m"),
    "key": ("ufunguo", "m"), "cup": ("kikombe", "ki"), "bottle": ("chupa", "n"),
    "spoon": ("kijiko", "ki"), "apple": ("tufaha", "ji"), "egg": ("yai", "ji"),
    "flower": ("ua", "ji"), "leaf": ("jani", "ji"), "car": ("gari", "ji"), "boat": ("mashua", "n"),
    "shoe": ("kiatu", "ki"), "hat": ("kofia", "n"), "shirt": ("shati", "ji"), "bag": ("mfuko", "m"),
    "ball": ("mpira", "m"), "clock": ("saa", "n"), "lamp": ("taa", "n"), "box": ("sanduku", "ji"),
    "umbrella": ("mwavuli", "m"),
}  # fmt: skip


def say(thing, case):
    """A thing in a case, as `Grammar.say`."""
    noun, noun_class = NOUNS[thing.noun]
    forms = CLASSES[noun_class]
    size, colour = (
        spaced(forms[-1], LINKED_COLOURS[word])
        if word in LINKED_COLOURS
        else word and forms[ADJECTIVES.index(word)]
        for word in (thing.size, thing.colour)
    )
    return spaced(noun, size, colour)


GRAMMAR = Grammar(
    say=say,
    links={
        "left of": Link("{first} kushoto kwa {second}"),
        "right of": Link("{first} kulia kwa {second}"),
        "above": Link("{first} juu ya {second}"),
        "below": Link("{first} chini ya {second}"),
        "next to": Link("{first} kando ya {second}"),
        "and": Link("{first} na {second}"),
    },
    caption="{phrase} kwenye mandharinyuma {background}",
    backgrounds={
        "plain": "ya rangi moja",
        "striped": "yenye mistari",
        "dotted": "yenye nukta",
        "checkered": "yenye miraba",
    },
)
