"""The web page of tools/demo.py, built with Gradio."""

import io
import os

# This environment variable stops Gradio from sending usage data, and must be set before Gradio is
# imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from tf_mural import search  # noqa: E402
from tf_mural.data.image_normalization import to_rgb  # noqa: E402
from tf_mural.errors import UserError  # noqa: E402

_MAX_SIDE = 320  # Maximum width and height of an image on the page, in pixels.
_MAX_QUERY_LENGTH = 2000  # Maximum number of characters of a query.
_MAX_QUERIES = 16  # Maximum number of queries in the comparison of languages.
_NUM_DEFAULT_LANGUAGES = 6
_FONTS = ["system-ui", "sans-serif"]
LAUNCH_OPTIONS = {
    "theme": gr.themes.Base(font=_FONTS, font_mono=["monospace"]),
    "footer_links": [],
    "show_error": True,
}


def make_page(embedder, index):
    """Returns the page as `gradio.Blocks`.

    Args:
        embedder: `tf_mural.Embedder`.
        index: `search.Index`, whose embeddings the model of `embedder` computed.
    """
    handlers = DemoHandlers(embedder, index)
    with gr.Blocks(title="tf_mural", analytics_enabled=False) as page:
        gr.Markdown(f"## Search {len(index):,} images, in any language")
        with gr.Tab("Search"):
            _add_search_tab(handlers)
        with gr.Tab("Languages side by side"):
            _add_comparison_tab(handlers)
    return page


def _add_search_tab(handlers):
    with gr.Row():
        text = gr.Textbox(
            label="Text", placeholder="un perro en la playa", max_length=_MAX_QUERY_LENGTH
        )
        count = gr.Slider(1, 50, value=10, step=1, label="Images")
    with gr.Accordion("Or search by an image", open=False):
        # With `image_mode=None`, the file is not changed, and the embedder normalizes it.
        image = gr.Image(
            label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"]
        )
    button = gr.Button("Search", variant="primary")
    note = gr.Markdown(elem_id="note")
    gallery = gr.Gallery(label="Results", columns=5, object_fit="contain", height="max-content")
    button.click(handlers.search_by_text, [text, count], [note, gallery])
    text.submit(handlers.search_by_text, [text, count], [note, gallery])
    image.change(handlers.search_by_image, [image, count], [note, gallery])


def _add_comparison_tab(handlers):
    lines = gr.Textbox(
        label="One query per line, with its language before a colon",
        lines=4,
        max_lines=_MAX_QUERIES,
        value=handlers.example_queries(0),
        placeholder="en: a dog\nde: ein Hund",
    )
    codes = handlers.languages
    with gr.Row():
        if codes:
            next_button = gr.Button("Another example")
            selected = gr.CheckboxGroup(
                codes, value=codes[:_NUM_DEFAULT_LANGUAGES], label="Languages"
            )
        compare_button = gr.Button("Compare", variant="primary")
    gallery = gr.Gallery(
        label="Best images of each query", columns=5, object_fit="contain", height="max-content"
    )
    note = gr.Markdown(elem_id="comparison-note")
    if codes:
        number = gr.State(0)
        next_button.click(handlers.next_example, [number, selected], [number, lines])
        selected.change(handlers.example_queries, [number, selected], lines)
    compare_button.click(handlers.compare_languages, [lines], [note, gallery])


class DemoHandlers:
    """Event handlers of the page.

    Args:
        embedder, index: see `make_page`.

    Attributes:
        languages: language codes of the texts in the index, English first.
    """

    def __init__(self, embedder, index):
        self._embedder, self._index = embedder, index
        self._source = search.open_source(index.manifest["source"])
        self._examples = [i for i in range(min(len(index), 1000)) if self._texts(i)]
        languages = {code for i in self._examples for code in self._texts(i)}
        self.languages = sorted(languages, key=lambda code: (code != "en", code))

    def search_by_text(self, text, count):
        """Returns (note, [(image, caption)]) with the images that are nearest to a text."""
        text = (text or "").strip()[:_MAX_QUERY_LENGTH]
        if not text:
            return "Enter a text.", []
        is_known = self._embedder.has_known_tokens([text])[0]
        note = search.UNKNOWN_QUERY.format(text)
        if is_known:
            (note,) = self._embedder.text_notes([text])
        embeddings = self._embedder.embed_texts([text], warn=False)
        (hits,) = self._index.search(embeddings, int(count))
        return _escape_markdown(note), self._gallery_items(hits)

    def search_by_image(self, image, count):
        """Returns (note, [(image, caption)]) with the images that are nearest to an image.

        Args:
            image: path of an image file, or None.
            count: number of images.
        """
        if image is None:
            return "", []
        try:
            queries = self._embedder.embed_images([image])
        except UserError as error:
            return _escape_markdown(str(error)), []
        (hits,) = self._index.search(queries, int(count))
        return "", self._gallery_items(hits)

    def compare_languages(self, lines):
        """Returns (note, [(image, caption)]) with the five best images of each query."""
        queries = []
        for line in (lines or "").splitlines():
            code, colon, text = line.partition(":")
            if not colon or len(code.strip()) > 8:
                code, text = "", line
            if text.strip():
                queries.append((code.strip(), text.strip()[:_MAX_QUERY_LENGTH]))
        if not queries:
            return "Enter one query per line, such as `de: ein Hund`.", []
        shown, items = queries[:_MAX_QUERIES], []
        texts = [text for _, text in shown]
        embeddings = self._embedder.embed_texts(texts, warn=False)
        for (code, _), hits in zip(shown, self._index.search(embeddings, 5), strict=True):
            items += self._gallery_items(hits, code)
        similarity = _mean_similarity(embeddings)
        note = ""
        if similarity:
            note = f"Mean cosine similarity of the {len(shown)} queries: {similarity:.2f}"
        if len(queries) > len(shown):
            note += f" (the first {len(shown)} of {len(queries)} lines are shown)"
        for text_note in filter(None, self._embedder.text_notes(texts)):
            note += f"\n\n{_escape_markdown(text_note)}"
        return note, items

    def example_queries(self, number, codes=None):
        """Returns the texts of an image of the index, one line each; "" if no image has texts."""
        if not self._examples:
            return ""
        texts = self._texts(self._examples[number % len(self._examples)])
        codes = self.languages[:_NUM_DEFAULT_LANGUAGES] if codes is None else codes
        return "\n".join(f"{code}: {texts[code]}" for code in codes if code in texts)

    def next_example(self, number, codes):
        """Returns the number of the next example, and the `example_queries` of this number."""
        return number + 1, self.example_queries(number + 1, codes)

    def _texts(self, row):
        return {code: text for code, text in self._index.item(row).get("texts", [])}

    def _gallery_items(self, hits, label=""):
        """Returns [(image, caption)]; a missing image is gray, and its caption has the reason."""
        items = []
        for rank, hit in enumerate(hits, start=1):
            caption = f"{label} {rank}. {hit.score:.3f}".strip()
            try:
                image, _ = to_rgb(Image.open(io.BytesIO(self._source.read(hit.item))))
                image = image.convert("RGB")
                image.thumbnail((_MAX_SIDE, _MAX_SIDE))
            except (OSError, ValueError, UserError) as error:
                caption = f"{caption} (missing: {error})"
                image = Image.new("RGB", (_MAX_SIDE, _MAX_SIDE), "gray")
            items.append((image, caption))
        return items


def _mean_similarity(embeddings):
    """Returns the mean cosine similarity of all pairs of rows; 0 for fewer than two rows."""
    count = len(embeddings)
    if count < 2:
        return 0.0
    similarity = embeddings @ embeddings.T
    return float((similarity.sum() - np.trace(similarity)) / (count * (count - 1)))


def _escape_markdown(text):
    return "".join(f"&#{ord(c)};" if c in "\\`*_{}[]<>()#+-.!|&$~" else c for c in text)
