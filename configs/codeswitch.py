"""Code-switching: MURAL is continued on English captions with words of other languages.

The control is the stage `control`, which continues MURAL with the same data, steps and learning
rate, but without code-switching.

    python tools/train.py --stage=codeswitch
    python tools/train.py --stage=codeswitch --config.sources.captions.code_switch.per=text
"""

from ml_collections import ConfigDict

from . import control

# The lexicon of each size. "scenes" is the vocabulary of the data set scenes; the others are
# folders in --data_dir, which tools/lexicon.py makes.
LEXICONS = {"tiny": "scenes", "b3_mini": "lexicons/muse", "paper": "lexicons/muse"}


def code_switch(
    lexicon,
    fields=("caption",),
    languages=(),
    probability=0.5,
    per="word",
    texts=1.0,
    max_words=1,
):
    """Returns the value `code_switch` of a source whose words are replaced by translations.

    Args:
        lexicon: folder of a lexicon, relative to --data_dir; or "scenes", see `LEXICONS`.
        fields: text fields of the source whose words are replaced.
        languages: codes of the languages of the new words; empty: all languages of the lexicon.
        probability: probability that a word is replaced.
        per: "word" (each word has a language of its own) or "text" (all words of a text have one
            language).
        texts: share of the texts in which words are replaced.
        max_words: maximum number of words of a phrase that is replaced, from 1 to 3.
    """
    return ConfigDict(
        dict(
            fields=tuple(fields),
            lexicon=lexicon,
            languages=tuple(languages),
            probability=probability,
            per=per,
            texts=texts,
            max_words=max_words,
        )
    )


def get_config(size="tiny"):
    """Returns the config of the control, with code-switched captions of the images."""
    config = control.get_config(size)
    config.stage = "codeswitch"
    config.sources.captions.code_switch = code_switch(LEXICONS[size])
    if size == "tiny":
        config.report.compare_with, config.report.control = ("mural", "control"), "control"
    return config
