"""Languages by their codes and names: every convention is mapped to one BCP 47 tag.

The tag that records store consists of the language and, if it is not the usual script of the
language, the script: "de", "zh" (simplified characters), "zh-Hant", "sr-Latn". A region, such as BR
in pt-BR, is removed, because texts from two regions count as texts in one language.

    convention                         examples                  stored as
    ISO 639-1, BCP 47, POSIX locale    de, EN, zh_CN, pt-br      de, en, zh, pt
    script, or region that implies one zh-TW, sr_Latn, pa_PK     zh-Hant, sr-Latn, pa-Arab
    FLORES-200                         deu_Latn, zho_Hant        de, zh-Hant
    ISO 639-2 and 639-3                eng, ger, arb             en, de, ar
    deprecated codes                   iw, in, jp                he, id, ja
    English names                      German, Slovenian         de, sl

Many short words are valid three-letter codes: url, alt, src and key are codes of languages too.
Therefore `find`, which decides whether a column is a language, accepts only the three-letter codes
in languages.tsv. `canonicalize`, which parses codes that a user gives, accepts all.
"""

import dataclasses
import difflib
import functools
import importlib.resources
import re
import unicodedata

import langcodes

from tf_mural.errors import UserError

# langcodes would replace these codes by fil, ak and fa-AF, but data sets distinguish the languages.
_NOT_MERGED = {"tl", "tw", "prs"}
# "jp" is the code of the country Japan. langcodes converts the other old codes, such as "iw".
_OLD = {"jp": "ja"}
# Usual scripts of languages for which CLDR's likely subtags have no script, or a combination.
_USUAL_SCRIPTS = {"acm": "Arab", "acq": "Arab", "ajp": "Arab", "azb": "Arab", "prs": "Arab"}
_PARTS = {("ko", "Hang"): "Kore", ("ja", "Hrkt"): "Jpan", ("zh", "Hani"): "Hans"}
_NO_LANGUAGE = {None, "und", "mul", "mis", "zxx"}
_TAG = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*")


@dataclasses.dataclass(frozen=True)
class Language:
    """A language as records store it.

    Attributes:
        code: BCP 47 tag of the language, with the script if it is not the usual one.
        cut: the parts of the original code that the tag lacks, such as "region BR"; "" if none.
    """

    code: str
    cut: str = ""

    def describe_change(self, name):
        """Returns how the name differs from the code: "pt_BR is stored as pt (region BR cut)"."""
        cut = f" ({self.cut} cut)" if self.cut else ""
        return f"{name} is stored as {self.code}{cut}"


@functools.lru_cache(maxsize=4096)
def find(name):
    """Returns the `Language` that a header, file name or key names, or None.

    Args:
        name: a two-letter code with an optional script and region, a FLORES-200 code, an English
            name of a language, or a three-letter code of languages.tsv, in any case.
    """
    return _parse(_table().get(_key(name), name))


def by_code(values, where):
    """Returns a copy of a dict in which codes replace names of languages; other keys are kept.

    Args:
        values: dict from codes or names of languages, such as the names of files.
        where: name of the source, for the error message.

    Raises:
        UserError: two names mean the same language.
    """
    named = {}
    for name in values:
        language = find(name)
        named.setdefault(language.code if language else name, []).append(name)
    for code, names in named.items():
        if len(names) > 1:
            raise UserError(f"{where}: {' and '.join(names)} are both {code!r}: keep one of them")
    return {code: values[names[0]] for code, names in named.items()}


def canonicalize(code, option="language"):
    """Returns the BCP 47 tag of a language that a user names.

    Unlike `find`, this function accepts all three-letter codes.

    Args:
        code: a code or an English name of a language.
        option: name of the argument that contains the code, for the error message.

    Raises:
        UserError: there is no such language.
    """
    language = find(code) or _parse(code, any_code=True)
    if language is None:
        raise UserError(f"{option}: expected a language code such as en, got {code!r}{hint(code)}")
    return language.code


def hint(name):
    """Returns "; did you mean 'x'?" for a language with a similar name or code, or ""."""
    if find(name):
        return ""
    if re.fullmatch("[A-Za-z]{2}", name):
        # The name may be the code of a country, such as cz, dk or gr, instead of a language.
        likely = langcodes.Language.get(f"und-{name}").maximize().language
        return f"; did you mean {likely!r}?" if likely not in (None, "und", "en") else ""
    names = [known for known in _table() if len(known) > 3]
    similar = difflib.get_close_matches(_key(name), names, n=1, cutoff=0.85)
    return f"; did you mean {similar[0]!r}?" if similar else ""


def choose(codes, available, description="language"):
    """Returns the available codes that a user names, in the order in which the user names them.

    A name matches a code if both are equal or mean the same language: "de", "German" and "deu_Latn"
    choose the code "deu" of records that use three-letter codes.

    Args:
        codes: codes or names of languages.
        available: codes of records.
        description: noun for a code, for the error message.

    Raises:
        UserError: a name matches no available code.
    """
    chosen = {}
    for code in codes:
        match = match_code(code, available)
        if match is None:
            known = ", ".join(available) or "(none)"
            raise UserError(f"unknown {description} {code!r}; known: {known}{hint(code)}")
        chosen[match] = None
    return list(chosen)


def match_code(code, available):
    """Returns the available code that equals a code or means the same language, or None."""
    if code in available:
        return code
    language = find(code)
    if language is None:
        return None
    matches = (
        other for other in available if (match := find(other)) and match.code == language.code
    )
    return next(matches, None)


def _parse(name, any_code=False):
    """Returns the `Language` of a code, or None.

    Args:
        name: a code.
        any_code: whether to accept three-letter codes that are not in languages.tsv.
    """
    if not _TAG.fullmatch(name):
        return None
    language, *rest = re.split("[-_]", name.lower())
    language = _OLD.get(language, _table().get(language, language))
    listed = language in _tags()
    if len(language) == 3 and not (listed or any_code):
        return None
    try:
        tag = langcodes.Language.get("-".join([language, *rest]), language not in _NOT_MERGED)
    except langcodes.LanguageTagError:
        return None
    # The subtag registry of langcodes lacks the newest codes of languages.tsv.
    valid = tag.is_valid() or (listed and not rest)
    return _shorten(tag) if valid and tag.language not in _NO_LANGUAGE else None


def _shorten(tag):
    """Returns the `Language` of a parsed tag."""
    usual = _usual_script(tag.language)
    script = tag.script
    if script is None and tag.territory:
        script = tag.maximize().script
    script = _PARTS.get((tag.language, script), script)
    code = tag.language if script in (None, usual) else f"{tag.language}-{script}"
    cut = [f"region {tag.territory}"] if tag.territory else []
    cut += [f"variant {variant}" for variant in tag.variants or ()]
    cut += [f"extension {part}" for part in (*(tag.extensions or ()), tag.private) if part]
    return Language(code, ", ".join(cut))


@functools.cache
def _usual_script(language):
    usual = _USUAL_SCRIPTS.get(language)
    return usual or langcodes.Language.make(language=language).maximize().script


@functools.cache
def _table():
    """Returns {three-letter code or key of an English name: tag} of languages.tsv."""
    text = importlib.resources.files("tf_mural").joinpath("languages.tsv").read_text("utf-8")
    lines = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    return {name: tag for name, tag in lines}


@functools.cache
def _tags():
    return frozenset(tag.partition("-")[0] for tag in _table().values())


def _key(name):
    """Returns a name in lower case without accents and punctuation."""
    letters = (c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return re.sub(r"[\W_]+", " ", "".join(letters).lower()).strip()
