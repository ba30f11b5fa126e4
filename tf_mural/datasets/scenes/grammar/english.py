"""English: the words of a meaning are English already; what is left is the article."""

from tf_mural.datasets.scenes.grammar.base import Grammar, Link, spaced


def say(thing, case):
    """A thing in a case, as `Grammar.say`."""
    words = spaced(thing.size, thing.colour, thing.noun)
    return ("an " if words[0] in "aeiou" else "a ") + words


GRAMMAR = Grammar(
    say=say,
    links={
        "left of": Link("{first} to the left of {second}"),
        "right of": Link("{first} to the right of {second}"),
        "above": Link("{first} above {second}"),
        "below": Link("{first} below {second}"),
        "next to": Link("{first} next to {second}"),
        "and": Link("{first} and {second}"),
    },
    caption="{phrase} on a {background} background",
    backgrounds={
        "plain": "plain",
        "striped": "striped",
        "dotted": "dotted",
        "checkered": "checkered",
    },
)
