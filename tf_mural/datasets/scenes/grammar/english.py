"""English: only the article is added, because the words of a scene are English."""

from tf_mural.datasets.scenes.grammar.base import Grammar, LinkTemplate, join_words


def noun_phrase(obj, case):
    """Returns the noun phrase of an object in a case; see `Grammar.noun_phrase`."""
    words = join_words(obj.size, obj.color, obj.noun)
    return ("an " if words[0] in "aeiou" else "a ") + words


GRAMMAR = Grammar(
    noun_phrase=noun_phrase,
    link_templates={
        "left of": LinkTemplate("{first} to the left of {second}"),
        "right of": LinkTemplate("{first} to the right of {second}"),
        "above": LinkTemplate("{first} above {second}"),
        "below": LinkTemplate("{first} below {second}"),
        "next to": LinkTemplate("{first} next to {second}"),
        "and": LinkTemplate("{first} and {second}"),
    },
    caption_template="{phrase} on a {background} background",
    backgrounds={
        "plain": "plain",
        "striped": "striped",
        "dotted": "dotted",
        "checkered": "checkered",
    },
)
