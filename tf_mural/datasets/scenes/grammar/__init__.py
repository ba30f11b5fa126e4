"""The twelve languages of `scenes`: the six of ETCL in the paper, and six that have no images."""

from tf_mural.datasets.scenes.grammar import (
    chinese,
    czech,
    english,
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

GRAMMARS = {
    "en": english.GRAMMAR,
    "de": german.GRAMMAR,
    "fr": french.GRAMMAR,
    "cs": czech.GRAMMAR,
    "zh": chinese.GRAMMAR,
    "ja": japanese.GRAMMAR,
    "ko": korean.GRAMMAR,
    "it": italian.GRAMMAR,
    "es": spanish.GRAMMAR,
    "uk": ukrainian.GRAMMAR,
    "tr": turkish.GRAMMAR,
    "sw": swahili.GRAMMAR,
}
