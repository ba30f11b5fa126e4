"""The page of tools/demo.py: what is on it, and what happens when somebody types."""

import io
import os

# Before the import: the page asks nobody outside of this machine for anything.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import common  # noqa: E402
import gradio as gr  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from tf_mural import search as searching  # noqa: E402
from tf_mural.errors import UserError  # noqa: E402

_SIDE = 320  # pixels of a picture on the page, at most
_LONGEST = 2000  # characters of a query
_LANGUAGES = 16  # columns of the comparison, at most
_FONTS = ["system-ui", "sans-serif"]
LAUNCH = {
    "theme": gr.themes.Base(font=_FONTS, font_mono=["monospace"]),
    "footer_links": [],
    "show_error": True,
}


def page(embedder, index):
    """The page.

    Args:
        embedder: `tf_mural.Embedder`.
        index: `searching.Index` of its embeddings.
    """
    search = Search(embedder, index)
    with gr.Blocks(title="tf_mural", analytics_enabled=False) as blocks:
        gr.Markdown(f"## Search {len(index):,} images, in any language")
        with gr.Tab("Search"):
            with gr.Row():
                text = gr.Textbox(
                    label="Text", placeholder="un perro en la playa", max_length=_LONGEST
                )
                count = gr.Slider(1, 50, value=10, step=1, label="Images")
            with gr.Accordion("Or by an image", open=False):
                picture = gr.Image(label="Image", type="pil", sources=["upload", "clipboard"])
            button = gr.Button("Search", variant="primary")
            note = gr.Markdown(elem_id="note")
            gallery = gr.Gallery(
                label="Found", columns=5, object_fit="contain", height="max-content"
            )
            asked = {"fn": search.by_text, "inputs": [text, count], "outputs": [note, gallery]}
            button.click(**asked)
            text.submit(**asked)
            picture.change(search.by_image, [picture, count], [note, gallery])
        with gr.Tab("Languages side by side"):
            lines = gr.Textbox(
                label="A query a line, with its language before a colon",
                lines=4,
                max_lines=_LANGUAGES,
                value=search.example_lines(0),
                placeholder="en: a dog\nde: ein Hund",
            )
            with gr.Row():
                codes = search.languages
                if codes:
                    another = gr.Button("Another example")
                    shown = gr.CheckboxGroup(codes, value=codes[:6], label="Languages")
                compare = gr.Button("Compare", variant="primary")
            table = gr.Gallery(
                label="The best of each", columns=5, object_fit="contain", height="max-content"
            )
            said = gr.Markdown(elem_id="said")
            if codes:
                number = gr.State(0)
                another.click(search.another, [number, shown], [number, lines])
                shown.change(lambda n, some: search.example_lines(n, some), [number, shown], lines)
            compare.click(search.side_by_side, [lines], [said, table])
    return blocks


class Search:
    """Answers of the page.

    Args:
        embedder, index: see `page`.
    """

    def __init__(self, embedder, index):
        self._embedder, self._index = embedder, index
        self._source = searching.open_source(index.manifest["source"])
        self._examples = [i for i in range(min(len(index), 1000)) if self._texts(i)]
        found = {code for i in self._examples for code in self._texts(i)}
        self.languages = sorted(found, key=lambda code: (code != "en", code))

    def by_text(self, text, count):
        """(a note, pictures with captions) for a text."""
        text = (text or "").strip()[:_LONGEST]
        if not text:
            return "Type what to look for.", []
        known = self._embedder.has_known_tokens([text])[0]
        note = "" if known else _plain(common.UNKNOWN.format(text))
        (hits,) = self._index.search(self._embedder.embed_texts([text]), int(count))
        return note, self._shown(hits)

    def by_image(self, picture, count):
        """Likewise for a picture of Pillow, or None."""
        if picture is None:
            return "", []
        try:
            queries = self._embedder.embed_images([picture])
        except UserError as error:
            return _plain(str(error)), []
        (hits,) = self._index.search(queries, int(count))
        return "", self._shown(hits)

    def side_by_side(self, lines):
        """(a note, the five best of each line one after another)."""
        queries = []
        for line in (lines or "").splitlines():
            code, colon, text = line.partition(":")
            if not colon or len(code.strip()) > 8:
                code, text = "", line
            if text.strip():
                queries.append((code.strip(), text.strip()[:_LONGEST]))
        if not queries:
            return "A query a line, such as `de: ein Hund`.", []
        cut = queries[:_LANGUAGES]
        pictures = []
        embeddings = self._embedder.embed_texts([text for _, text in cut])
        for (code, _), hits in zip(cut, self._index.search(embeddings, 5), strict=True):
            pictures += self._shown(hits, code)
        same = _overlap(embeddings)
        note = f"Mean cosine similarity of the {len(cut)} queries: {same:.2f}" if same else ""
        if len(queries) > len(cut):
            note += f" (of {len(queries)} lines the first {len(cut)} are shown)"
        return note, pictures

    def example_lines(self, number, codes=None):
        """The texts of an image in the index, a line each; "" where it has none."""
        if not self._examples:
            return ""
        texts = self._texts(self._examples[number % len(self._examples)])
        codes = self.languages[:6] if codes is None else codes
        return "\n".join(f"{code}: {texts[code]}" for code in codes if code in texts)

    def another(self, number, codes):
        """The next example."""
        return number + 1, self.example_lines(number + 1, codes)

    def _texts(self, row):
        return {code: text for code, text in self._index.item(row).get("texts", [])}

    def _shown(self, hits, before=""):
        """Pictures with their scores, for a gallery; one that is gone is said to be."""
        found = []
        for rank, hit in enumerate(hits, start=1):
            caption = f"{before} {rank}. {hit.score:.3f}".strip()
            try:
                image = Image.open(io.BytesIO(self._source.read(hit.item))).convert("RGB")
                image.thumbnail((_SIDE, _SIDE))
            except (OSError, ValueError) as error:
                caption = f"{caption} (gone: {error})"
                image = Image.new("RGB", (_SIDE, _SIDE), "grey")
            found.append((image, caption))
        return found


def _overlap(embeddings):
    """Mean similarity of the rows to each other; 0 of fewer than two."""
    count = len(embeddings)
    if count < 2:
        return 0.0
    similarity = embeddings @ embeddings.T
    return float((similarity.sum() - np.trace(similarity)) / (count * (count - 1)))


def _plain(text):
    """Text as Markdown that says it, whatever it is made of."""
    return "".join(f"&#{ord(c)};" if c in "\\`*_{}[]<>()#+-.!|&$~" else c for c in text)
