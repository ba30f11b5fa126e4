"""Puts sections of README.md and BUILD.md into pages of the site, so that each is written once.

A line `{{README.md: Data sets}}` becomes that section without its heading, `{{README.md:}}` what is
before the first one, and `{{BUILD.md}}` the whole file.
"""

import os
import re

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LINE = re.compile(r"^\{\{(\w+\.md)(: ?(.*))?\}\}$", re.MULTILINE)
_PAGES = {"BUILD.md": "build.md", "README.md": "index.md"}
_OUTSIDE = re.compile(
    r"\[([^\]]*)\]\(((?:\.\./)?(?:configs/|notebooks/|benchmarks/|tests/|CITATION|LICENSE))[^)]*\)"
)


def on_page_markdown(markdown, **_):
    """Called by mkdocs with the text of each page."""
    text = _LINE.sub(lambda found: _section(found[1], found[2] and found[3].strip()), markdown)
    text = text.replace("](docs/", "](")
    for file, page in _PAGES.items():
        text = re.sub(rf"\]\((\.\./)?{file}", f"]({page}", text)
    return _OUTSIDE.sub(lambda found: found[1], text)


def _section(name, title):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        text = file.read()
    if title is not None:
        parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
        sections = {
            "": parts[0].split("\n", 1)[1],
            **dict(zip(parts[1::2], parts[2::2], strict=True)),
        }
        if title not in sections:
            raise ValueError(f"{name} has no section {title!r}; it has {', '.join(sections)}")
        text = sections[title]
    return text
