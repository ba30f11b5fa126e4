"""Language codes and names of every convention are mapped to one BCP 47 tag."""

import pytest

from tf_mural import languages
from tf_mural.data.records import is_language
from tf_mural.errors import UserError


def stored(name):
    language = languages.find(name)
    return language and language.code


@pytest.mark.parametrize(
    "names, code",
    [
        ("zh ZH zh_CN zh-SG zho_Hans zho chi cmn cmn_hans_cn zh_Hans_CN", "zh"),
        ("zh_TW zh-HK zho_Hant zh-Hant cmn_Hant", "zh-Hant"),
        ("sr srp srp_Cyrl sr_RS", "sr"),
        ("srp_Latn sr-Latn sr_ME sh", "sr-Latn"),
        ("pt pt_BR pt-br PT-br por por_Latn pt_PT", "pt"),
        ("de De deu ger deu_Latn de-AT de-1996", "de"),
        ("he iw heb heb_Hebr", "he"),
        ("id in ind_Latn", "id"),
        ("ja jp JP jpn jpn_Jpan", "ja"),
        ("ko kor_Hang ko-KR", "ko"),
        ("ar arb_Arab ara ar-EG", "ar"),
        ("arb_Latn", "ar-Latn"),
        ("sw swh swh_Latn", "sw"),
        ("yue yue_Hant zh-yue", "yue"),
        ("fa pes_Arab per", "fa"),
        ("prs prs_Arab", "prs"),
        ("tl tgl_Latn", "tl"),
        ("fil", "fil"),
        ("kas_Deva", "ks-Deva"),
        ("acm acm_Arab", "acm"),
    ],
)
def test_codes_of_one_language_are_stored_as_one_tag(names, code):
    assert {name: stored(name) for name in names.split()} == dict.fromkeys(names.split(), code)
    assert is_language(code)


@pytest.mark.parametrize(
    "name, code",
    [
        ("German", "de"),
        ("ENGLISH", "en"),
        ("Chinese (Simplified)", "zh"),
        ("chinese_traditional", "zh-Hant"),
        ("Norwegian Bokmål", "nb"),
        ("Brazilian-Portuguese", "pt"),
        ("Haitian Creole", "ht"),
    ],
)
def test_english_names_are_languages(name, code):
    assert stored(name) == code


@pytest.mark.parametrize(
    "name",
    "url alt src key img set ref caption text title license width split kind en_text id_type "
    "is_male xx und mul zxx en_ c d e de.en de/en Deutsch".split()
    + ["", " ", "\ud800", "a" * 5000],
)
def test_other_names_are_no_languages(name):
    assert languages.find(name) is None


def test_what_a_tag_lacks_is_described():
    assert languages.find("pt_BR").describe_change("pt_BR") == (
        "pt_BR is stored as pt (region BR cut)"
    )
    assert languages.find("zh_TW").describe_change("zh_TW") == (
        "zh_TW is stored as zh-Hant (region TW cut)"
    )
    assert languages.find("iw").describe_change("iw") == "iw is stored as he"
    assert languages.find("ca-valencia").cut == "variant valencia"


def test_a_user_may_name_any_code():
    named = ["url", "alt", "deu", "zh_CN", "German", "tlh"]
    assert [languages.canonicalize(code) for code in named] == [
        "url",
        "alt",
        "de",
        "zh",
        "de",
        "tlh",
    ]
    for code, likely in [("cz", "cs"), ("dk", "da"), ("germn", "german")]:
        with pytest.raises(
            UserError, match=f"language: expected .*'{code}'; did you mean '{likely}'"
        ):
            languages.canonicalize(code)
    with pytest.raises(UserError, match="^crawl: expected a language code such as en, got '3'$"):
        languages.canonicalize("3", "crawl")


def test_codes_of_records_are_chosen_by_any_convention():
    tatoeba = ["cmn", "deu", "eng", "nob"]
    assert languages.choose(["German", "eng", "zh_CN"], tatoeba) == ["deu", "eng", "cmn"]
    assert languages.choose(["nb", "nob"], tatoeba) == ["nob"]
    assert languages.match_code("pt_BR", ["en", "pt"]) == "pt"
    assert languages.match_code("pt", ["en", "pt-BR"]) == "pt-BR"  # an older record set
    assert languages.match_code("zh-Hant", ["zh"]) is None
    with pytest.raises(UserError, match="unknown language 'cz'; known: cmn, deu.*mean 'cs'"):
        languages.choose(["cz"], tatoeba)


def test_every_code_of_the_table_leads_to_a_stored_code():
    for name, tag in languages._table().items():
        assert stored(name) == stored(tag) == tag
