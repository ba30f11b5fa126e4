"""Prompts for zero-shot classification, in any language, and their class embeddings.

clip.py                the 80 English templates of CLIP; class names as words
templates.py           prompts from templates and class names
files.py               folders of prompts, one file per language
published_formats.py   prompts in the formats in which other projects publish them
class_embeddings.py    one embedding per class, cached by content

The package contains only English prompts; prompts in other languages are read from files.
"""

from tf_mural.evaluation.prompts.class_embeddings import class_embeddings
from tf_mural.evaluation.prompts.clip import FOOD_SUFFIX, TEMPLATES, humanize_class
from tf_mural.evaluation.prompts.files import read
from tf_mural.evaluation.prompts.templates import (
    FilledTemplates,
    Prompts,
    combine,
    count_prompts,
    english,
)

__all__ = [
    "FOOD_SUFFIX",
    "TEMPLATES",
    "FilledTemplates",
    "Prompts",
    "class_embeddings",
    "combine",
    "count_prompts",
    "english",
    "humanize_class",
    "read",
]
