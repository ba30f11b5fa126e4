"""The HTML page of records: it is one file, escapes every text, and needs no fonts or scripts."""

import base64
import html.parser
import io

import pytest
from helpers.images import plain_image
from PIL import Image

from tf_mural import reports
from tf_mural.data import records
from tf_mural.data.records import Record, RecordSet

ATTACK = "<script>alert(1)</script> & \"quotes\" 'single'"
VOID = {"meta", "img", "br"}
# HTML attributes with an address that a browser loads.
LOADING = {"src", "href", "srcset", "data", "poster", "action", "background"}


class Page(html.parser.HTMLParser):
    """Parses a page; fails at a tag that is closed in the wrong order or not at all.

    Attributes:
        elements: list of (tag, attributes, text) in the order of the start tags. The text includes
            the text of elements inside.
    """

    def __init__(self, path):
        super().__init__()
        self.elements, self._open = [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for element in self._open:
            element[2] += data

    def find(self, tag, **attributes):
        """Returns (attributes, text) of the elements with a tag and some attributes."""
        matches = [x for x in self.elements if x[0] == tag]
        return [(a, t) for _, a, t in matches if attributes.items() <= a.items()]


@pytest.fixture
def write_page(tmp_path):
    """Returns a callable that writes records and their page, and returns the parsed `Page`."""

    def write(*set_records, manifest=None, **options):
        records.write(tmp_path / "set", set_records, "shapes", "train")
        record_set = RecordSet.open(tmp_path / "set")
        record_set.manifest.update(manifest or {})
        stats = reports.DatasetStats(record_set)
        list(stats.collect())
        samples = reports.sample_records(record_set, 12, **options)
        reports.write_record_page(tmp_path / "page.html", stats.summary(), samples)
        return Page(tmp_path / "page.html")

    return write


def test_the_page_loads_nothing_and_runs_nothing(write_page):
    page = write_page(Record(ATTACK, (plain_image("red", "PNG"),), (("en", ATTACK),)))
    assert not page.find("script") and not page.find("link") and not page.find("iframe")
    for tag, attributes, _ in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in LOADING & attributes.keys():
            assert attributes[name].startswith("data:image/"), (tag, attributes)
    assert "url(" not in page.source and "@import" not in page.source
    (policy,) = [a for a, _ in page.find("meta") if "http-equiv" in a]
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert page.find("meta", charset="utf-8") and page.source.startswith("<!doctype html>")
    # A browser shows the caption and the name of the record unchanged.
    assert [text for _, text in page.find("dd", lang="en")] == [ATTACK]
    ((_, facts),) = page.find("figcaption")
    assert facts == f"record 0, {ATTACK}, 6 x 4 pixels"


def test_captions_have_their_language_and_the_direction_of_their_first_letter(write_page):
    texts = (("he", "שלום abc"), ("en", "one"), ("zh-Hant", "貓\n狗"), ("he", "אחד"))
    page = write_page(Record("1", (plain_image("red", "PNG"),), texts))
    assert [(a["lang"], a["dir"], text) for a, text in page.find("dd")] == [
        ("en", "auto", "one"),
        ("he", "auto", "שלום abc"),
        ("he", "auto", "אחד"),
        ("zh-Hant", "auto", "貓\n狗"),
    ]
    assert [text for _, text in page.find("dt")] == ["en", "he", "zh-Hant"], "one heading each"
    assert "&#" not in page.source, "letters are written as UTF-8"


def test_images_are_in_the_page_with_their_original_sizes(write_page):
    first, large = plain_image("red", "PNG"), plain_image("blue", "JPEG", size=(640, 320))
    page = write_page(Record("a", (first, large)), Record("b", (large,)))
    images, captions = page.find("img"), [text for _, text in page.find("figcaption")]
    assert sorted(captions) == [
        "record 0, a, 6 x 4 pixels, the first of 2 images",
        "record 1, b, 640 x 320 pixels",
    ]
    pixels = {}
    for attributes, _ in images:
        header, data = attributes["src"].split(",")
        decoded = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        assert header == f"data:image/{decoded.format.lower()};base64"
        pixels[attributes["alt"]] = decoded.size, attributes.get("class")
    # Small images are enlarged without smoothing.
    assert pixels == {"record 0": ((6, 4), "enlarged"), "record 1": ((256, 128), None)}


def test_a_broken_image_is_shown_as_broken_and_counted(write_page):
    good = plain_image("red", "PNG", size=(30, 20))
    page = write_page(
        Record("a", (b"no image",), (("en", "one"),)),
        Record("b", (good[:50],)),
        Record("c", (good,)),
    )
    broken = page.find("div", role="img")
    assert [text for _, text in broken] == ["cannot be decoded"] * 2 and len(page.find("img")) == 1
    captions = {text for _, text in page.find("figcaption")}
    assert captions == {"record 0, a", "record 1, b, 30 x 20 pixels", "record 2, c, 30 x 20 pixels"}
    ((_, text),) = [x for x in page.find("p") if "cannot be decoded" in x[1]]
    assert "2 of the shown images cannot be decoded." in text
    assert [text for _, text in page.find("dd")] == ["one"]


def test_the_page_starts_with_a_table_of_the_languages(write_page):
    image = plain_image("red", "PNG")
    page = write_page(
        Record("a", (image,), (("en", "one"), ("en", "three"), ("de", "eins"))),
        Record("b", (image,), (("en", "two"),)),
        Record("c", (), (("de", "drei"),)),
    )
    rows = [text for _, text in page.find("tr")]
    cells = [text for _, text in page.find("td")]
    assert rows[0].startswith("languagerecordsimagestexts")
    assert [row[:3] for row in rows[1:]] == ["en2", "de2", "all"]
    assert [cells[i : i + 3] for i in range(0, 24, 8)] == [
        ["2", "2", "3"],
        ["2", "1", "2"],
        ["3", "2", "5"],
    ]
    assert cells[3:8] == ["3", "5", "-", "-", "-"], "tokens are not counted without a vocabulary"
    ((_, heading),) = page.find("h1")
    assert heading.endswith("set (shapes, train)")
    assert "3 records, 2 images, 5 texts. 2 records are shown." in page.find("p")[0][1]
    tags = [tag for tag, *_ in page.elements]
    assert tags.index("table") < tags.index("figure")


def test_texts_that_are_not_shown_are_counted_by_language(write_page):
    texts = tuple((code, f"{code} {n}") for code in ("de", "en") for n in range(3))
    page = write_page(Record("a", (plain_image("red", "PNG"),), texts), captions=2)
    assert [text for _, text in page.find("p", **{"class": "note"})] == [
        "texts that are not shown: de 2, en 2"
    ]


def test_a_label_is_shown_with_its_escaped_name(write_page):
    classes = {"classes": ["cat", "<b>dog</b>"]}
    page = write_page(Record("a", (plain_image("red", "PNG"),), label=1), manifest=classes)
    assert page.find("figcaption")[0][1].endswith("class 1 (<b>dog</b>)")
    assert not page.find("table") and not page.find("b")


def test_a_set_without_images_gives_a_page_without_records(write_page):
    page = write_page(Record("a", (), (("en", "one"),)))
    assert not page.find("figure") and "0 records are shown." in page.find("p")[0][1]
