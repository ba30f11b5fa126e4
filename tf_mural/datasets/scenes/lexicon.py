"""The lexicon of `scenes`: citation forms of the words of the grammar, from English.

Nouns have no article, adjectives are masculine or without an ending, and the relations are those of
languages in which they stand between the two objects.
"""

import re
from collections.abc import Callable, Sequence

from tf_mural.data.lexicon import Lexicon
from tf_mural.datasets.scenes.grammar import (
    GRAMMARS,
    chinese,
    czech,
    french,
    german,
    italian,
    japanese,
    korean,
    spanish,
    swahili,
    turkish,
    ukrainian,
)
from tf_mural.datasets.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    LINKS,
    NOUNS,
    SIZES,
    SceneObject,
)
from tf_mural.errors import UserError, lookup

_LINK = re.compile(r"\{first\} ([^{}]+?)(?: | d')\{second\}")
# {language: "background"}
BACKGROUND = {
    "de": "Hintergrund", "fr": "fond", "cs": "pozadí", "zh": "背景", "ja": "背景", "ko": "배경",
    "it": "sfondo", "es": "fondo", "uk": "тло", "tr": "arka plan", "sw": "mandharinyuma",
}  # fmt: skip


def _declined(module):
    return {noun: forms[0] for nouns in module.NOUNS.values() for noun, forms in nouns.items()}


def _with_gender(module):
    return module.MASCULINE | module.FEMININE


def _first(table):
    return {word: forms[0] for word, forms in table.items()}


_SWAHILI = dict(zip(swahili.ADJECTIVES, swahili.CLASSES["n"], strict=False))
_UKRAINIAN = {
    word: stem
    + (ukrainian.SOFT_ENDINGS if word in ukrainian.SOFT else ukrainian.HARD_ENDINGS)["m"][0]
    for word, stem in ukrainian.ADJECTIVES.items()
}
# {language: ({noun: citation form}, {adjective: citation form})}
WORDS = {
    "de": (_first(german.NOUNS), german.ADJECTIVES),
    "fr": (_with_gender(french), _first(french.ADJECTIVES)),
    "cs": (
        _declined(czech),
        {word: stem + czech.ENDINGS["m"][0] for word, stem in czech.ADJECTIVES.items()},
    ),
    "zh": (
        {word: noun for word, (_, noun) in chinese.NOUNS.items()},
        chinese.SIZES | chinese.COLORS,
    ),
    "ja": (japanese.ANIMALS | japanese.THINGS, japanese.SIZES | japanese.COLORS),
    "ko": (korean.NOUNS, korean.ADJECTIVES),
    "it": (_with_gender(italian), _first(italian.ADJECTIVES)),
    "es": (_with_gender(spanish), _first(spanish.ADJECTIVES)),
    "uk": (_declined(ukrainian), _UKRAINIAN),
    "tr": (_first(turkish.NOUNS), turkish.ADJECTIVES),
    "sw": (_first(swahili.NOUNS), _SWAHILI | swahili.LINKED_COLORS),
}


def scenes_lexicon(languages: Sequence[str] = ()) -> Lexicon:
    """Returns the lexicon from English into languages of scenes.

    Args:
        languages: codes of the target languages; empty: all languages but English.
    """
    codes = languages or tuple(WORDS)
    return Lexicon({("en", code): _table(code) for code in codes}, "scenes")


def _table(code):
    nouns, adjectives = WORDS[code]
    grammar = GRAMMARS[code]
    table = {**nouns, **{word: adjectives[word] for word in SIZES + COLORS}}
    # The texts of the backgrounds in Ukrainian contain the noun.
    backgrounds = {word: grammar.backgrounds[word].replace("тлі", "") for word in BACKGROUNDS}
    table |= {word: text.strip() for word, text in backgrounds.items()}
    table["background"] = BACKGROUND[code]
    for link in LINKS:
        if match := _LINK.fullmatch(grammar.link_templates[link].template):
            table[link] = match[1]
    return {word: (text,) for word, text in table.items()}


def make(
    inputs: Sequence[str], options, report: Callable[[str], None]
) -> dict[tuple[str, str], dict[str, Sequence[str]]]:
    """Returns the tables of `scenes_lexicon`; see `tf_mural.datasets.lexicons` for the arguments.

    Raises:
        UserError: there are inputs, or a language is none of scenes.
    """
    if inputs:
        raise UserError(f"the source 'scenes' reads no files, got {', '.join(inputs)}")
    codes = [code for code in options.languages if code != "en"]
    for code in codes:
        lookup(WORDS, code, "language of scenes")
    return scenes_lexicon(codes).tables


def word_forms(code: str) -> dict[str, frozenset]:
    """Returns {English word: all forms of its translation} of the nouns, sizes and colors.

    Args:
        code: code of a language.
    """
    nouns, adjectives = WORDS[code]
    grammar = GRAMMARS[code]
    links = grammar.link_templates.values()
    cases = dict.fromkeys(["base", *(case for link in links for case in (link.first, link.second))])

    def words(noun, size=None, color=None):
        texts = [grammar.noun_phrase(SceneObject(noun, size, color), case) for case in cases]
        return {word for text in texts for word in text.lower().replace("'", " ").split()}

    forms, bare = {}, {noun: words(noun) for noun in NOUNS}
    for noun in NOUNS:
        articles = {w for w in bare[noun] if sum(w in other for other in bare.values()) > 4}
        forms[noun] = bare[noun] - articles | {nouns[noun].lower()}
    for word in SIZES + COLORS:
        size, color = (word, None) if word in SIZES else (None, word)
        changed = [words(noun, size, color) - bare[noun] for noun in NOUNS]
        forms[word] = set().union(*changed) | {adjectives[word].lower()}
    return {word: frozenset(values) for word, values in forms.items()}
