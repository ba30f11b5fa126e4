"""Makes a lexicon of word translations, for training on code-switched texts:

    python tools/lexicon.py bitext --records=data/scenes/bitext --out_dir=data/lexicons/bitext
    python tools/lexicon.py pairs --files=en-de.txt,en-fr.txt --out_dir=data/lexicons/muse
    python tools/lexicon.py pairs --files=de2.txt,sw2.txt --out_dir=data/lexicons/cosda
    python tools/lexicon.py vectors --files=wiki.multi.en.vec,wiki.multi.de.vec --out_dir=...
    python tools/lexicon.py titles --files=wikititles-2014_deen.xml.gz --out_dir=...
    python tools/lexicon.py freedict --files=eng-deu/eng-deu.index --out_dir=...
    python tools/lexicon.py scenes --out_dir=...

The lexicon is a folder with one text file per pair of languages, such as en-de.txt, whose lines
have a word, a tab and a translation. The files can be edited. In a config,
`code_switch=codeswitch.code_switch("lexicons/bitext")` of a source reads them.
"""

from absl import flags

from tf_mural.cli import app
from tf_mural.datasets import lexicons
from tf_mural.errors import UserError, lookup

_DEFAULTS = lexicons.LexiconOptions()

FLAGS = flags.FlagValues()
_SOURCE = flags.DEFINE_enum(
    "source",
    None,
    list(lexicons.SOURCES),
    "Where the translations come from. The name --source= may be left out. pairs: dictionaries of "
    "MUSE, CoSDA-ML and others with a word and its translation in each line. vectors: nearest "
    "neighbors of aligned word vectors (.vec). titles: titles of Wikipedia in the XML of "
    "linguatools. bitext: translation pairs of record sets (IBM model 1). freedict: dictionaries "
    "in the format of dictd. scenes: the vocabulary of the data set scenes. Required.",
    flag_values=FLAGS,
)
_FILES = flags.DEFINE_list(
    "files", [], "Comma-separated input files; of freedict, the files .index.", flag_values=FLAGS
)
_RECORDS = flags.DEFINE_list(
    "records", [], "Comma-separated folders of record sets, for bitext.", flag_values=FLAGS
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir", None, "Folder of the lexicon. Required.", flag_values=FLAGS
)
_LANGUAGES = flags.DEFINE_list(
    "languages",
    [],
    "Comma-separated codes: the language of the words, then those of the translations. Default: "
    "those in the names of the files; for bitext, en and all other languages of the records.",
    flag_values=FLAGS,
)
_MAX_TRANSLATIONS = flags.DEFINE_integer(
    "max_translations",
    _DEFAULTS.max_translations,
    "Maximum number of translations of a word. Training chooses one of them at random.",
    lower_bound=1,
    flag_values=FLAGS,
)
_MAX_WORDS = flags.DEFINE_integer(
    "max_words",
    _DEFAULTS.max_words,
    "Maximum number of words of a file of vectors, or of a language of bitext.",
    lower_bound=1,
    flag_values=FLAGS,
)
_MAX_SENTENCES = flags.DEFINE_integer(
    "max_sentences",
    _DEFAULTS.max_sentences,
    "Maximum number of translation pairs of each pair of languages, for bitext.",
    lower_bound=1,
    flag_values=FLAGS,
)
_MIN_COUNT = flags.DEFINE_integer(
    "min_count",
    _DEFAULTS.min_count,
    "Minimum number of occurrences of a word, for bitext.",
    lower_bound=1,
    flag_values=FLAGS,
)
_MIN_PROBABILITY = flags.DEFINE_float(
    "min_probability",
    _DEFAULTS.min_probability,
    "Minimum probability of a word given its translation, for bitext. For languages without spaces "
    "between words: minimum Dice coefficient.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
_ITERATIONS = flags.DEFINE_integer(
    "iterations",
    _DEFAULTS.iterations,
    "Number of iterations of IBM model 1, for bitext.",
    lower_bound=1,
    flag_values=FLAGS,
)
_STOP_WORDS = flags.DEFINE_string(
    "stop_words",
    None,
    "UTF-8 file with a word per line. These words of the source language get no translations.",
    flag_values=FLAGS,
)
_REFERENCE = flags.DEFINE_string(
    "reference",
    None,
    "Folder of a lexicon, or scenes for all forms of the words of scenes. The command prints the "
    "precision and the recall of the new lexicon, measured with this one.",
    flag_values=FLAGS,
)


def main(argv=None):
    """Makes a lexicon. `argv` is a list of flags; None means the command line."""
    app.parse(FLAGS, argv, __doc__, argument="source")
    inputs = _inputs()
    options = lexicons.LexiconOptions(
        languages=tuple(_LANGUAGES.value),
        max_translations=_MAX_TRANSLATIONS.value,
        max_words=_MAX_WORDS.value,
        max_sentences=_MAX_SENTENCES.value,
        min_count=_MIN_COUNT.value,
        min_probability=_MIN_PROBABILITY.value,
        iterations=_ITERATIONS.value,
        stop_words=_read_stop_words(),
    )
    reference = _reference()
    lexicon = lexicons.make_lexicon(_SOURCE.value, inputs, options)
    lexicon.write(_OUT_DIR.value)
    for (source, target), table in lexicon.tables.items():
        count = sum(map(len, table.values()))
        quality = ""
        if (source, target) in reference:
            precision, recall, common = lexicons.quality(table, reference[source, target])
            quality = (
                f"; precision {precision:.1%}, recall {recall:.1%} ({common:,} words compared)"
            )
        path = f"{_OUT_DIR.value}/{source}-{target}.txt"
        print(f"{path}: {len(table):,} words, {count:,} translations{quality}")


def _inputs():
    if not _SOURCE.value:
        raise UserError(f"name the source of the lexicon: one of {', '.join(lexicons.SOURCES)}")
    lookup(lexicons.SOURCES, _SOURCE.value, "source of a lexicon")
    if not _OUT_DIR.value:
        raise UserError("--out_dir is required: the folder of the lexicon")
    flag = "records" if _SOURCE.value == "bitext" else "files"
    other = "files" if flag == "records" else "records"
    if FLAGS[other].value:
        raise UserError(f"the source {_SOURCE.value} has no --{other}; give --{flag}")
    if not FLAGS[flag].value and _SOURCE.value != "scenes":
        raise UserError(f"the source {_SOURCE.value} needs --{flag}")
    return FLAGS[flag].value


def _read_stop_words():
    if not _STOP_WORDS.value:
        return frozenset()
    from tf_mural.datasets.lexicons.word_pairs import read_lines

    return frozenset(line.strip().lower() for line in read_lines(_STOP_WORDS.value)) - {""}


def _reference():
    """Returns {(source, target): {word: correct translations}} of --reference; empty without it."""
    from tf_mural.data.lexicon import Lexicon

    if not _REFERENCE.value:
        return {}
    if _REFERENCE.value != "scenes":
        return Lexicon.open(_REFERENCE.value).tables
    from tf_mural.datasets.scenes.lexicon import WORDS, word_forms

    return {("en", code): word_forms(code) for code in WORDS}
