"""What to say of the classes of a labelled data set, in any language, and its embedding.

clip.py        the 80 English templates, names of classes as words
filling.py     templates and names to prompts; which languages lack what
files.py       folders of prompts, one file a language
published.py   prompts as their projects publish them
embedding.py   one vector for each class, kept on disk by content

Texts in other languages are none of the package's: they are read from files.
"""

from tf_mural.evaluation.prompts.clip import FOOD_SUFFIX, TEMPLATES, spoken
from tf_mural.evaluation.prompts.embedding import class_embeddings
from tf_mural.evaluation.prompts.files import read
from tf_mural.evaluation.prompts.templates import Filled, Prompts, combine, describe, english

__all__ = [
    "FOOD_SUFFIX",
    "TEMPLATES",
    "Filled",
    "Prompts",
    "class_embeddings",
    "combine",
    "describe",
    "english",
    "read",
    "spoken",
]
