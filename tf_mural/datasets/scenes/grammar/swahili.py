"""Swahili: adjectives follow the noun and agree with its class; most colors are linked by -a."""

from tf_mural.datasets.scenes.grammar.base import Grammar, LinkTemplate, join_words

# Forms for each noun class: big, small, red, black, white, and the "of" before other colors.
# All animals take the forms of class 1. Nouns of class 11 (key) take the forms of class 3.
CLASSES = {
    "m": ("mkubwa", "mdogo", "mwekundu", "mweusi", "mweupe", "wa"),
    "ji": ("kubwa", "dogo", "jekundu", "jeusi", "jeupe", "la"),
    "ki": ("kikubwa", "kidogo", "chekundu", "cheusi", "cheupe", "cha"),
    "n": ("kubwa", "ndogo", "nyekundu", "nyeusi", "nyeupe", "ya"),
}
ADJECTIVES = ("big", "small", "red", "black", "white")
LINKED_COLORS = {
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


def noun_phrase(obj, case):
    """Returns the noun phrase of an object in a case; see `Grammar.noun_phrase`."""
    noun, noun_class = NOUNS[obj.noun]
    forms = CLASSES[noun_class]
    size, color = (
        join_words(forms[-1], LINKED_COLORS[word])
        if word in LINKED_COLORS
        else word and forms[ADJECTIVES.index(word)]
        for word in (obj.size, obj.color)
    )
    return join_words(noun, size, color)


GRAMMAR = Grammar(
    noun_phrase=noun_phrase,
    link_templates={
        "left of": LinkTemplate("{first} kushoto kwa {second}"),
        "right of": LinkTemplate("{first} kulia kwa {second}"),
        "above": LinkTemplate("{first} juu ya {second}"),
        "below": LinkTemplate("{first} chini ya {second}"),
        "next to": LinkTemplate("{first} kando ya {second}"),
        "and": LinkTemplate("{first} na {second}"),
    },
    caption_template="{phrase} kwenye mandharinyuma {background}",
    backgrounds={
        "plain": "ya rangi moja",
        "striped": "yenye mistari",
        "dotted": "yenye nukta",
        "checkered": "yenye miraba",
    },
)
