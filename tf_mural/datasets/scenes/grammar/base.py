"""Turns objects into noun phrases, phrases and captions; the common part of all languages.

A language is a table of words and one function that forms the noun phrase of an object in a
grammatical case. Two objects are linked by a template and by the cases that the template requires.
The template determines the word order: the Turkish template puts the second object first.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tf_mural.datasets.scenes.scene import Phrase, Scene, SceneObject


@dataclass(frozen=True)
class LinkTemplate:
    """A template with {first} and {second}, and the grammatical case of each of them."""

    template: str
    first: str = "base"
    second: str = "base"


@dataclass(frozen=True)
class Grammar:
    """One language.

    Attributes:
        noun_phrase: callable (object, case) -> text. Every language has the case "base"; further
            cases depend on the language.
        link_templates: a `LinkTemplate` for each of `scene.LINKS`.
        caption_template: template with {phrase} and {background}.
        backgrounds: the text of {background} for each of `scene.BACKGROUNDS`.
        full_stop: the punctuation mark at the end of a sentence.
    """

    noun_phrase: Callable[[SceneObject, str], str]
    link_templates: dict[str, LinkTemplate]
    caption_template: str
    backgrounds: dict[str, str]
    full_stop: str = "."

    def phrase(self, phrase: Phrase) -> str:
        """Returns the text of a phrase, without a capital or a full stop."""
        if phrase.link is None:
            return self.noun_phrase(phrase.first, "base")
        link = self.link_templates[phrase.link]
        return link.template.format(
            first=self.noun_phrase(phrase.first, link.first),
            second=self.noun_phrase(phrase.second, link.second),
        )

    def caption(self, scene: Scene) -> str:
        """Returns the caption of a scene, a complete sentence."""
        background = self.backgrounds[scene.background]
        text = self.caption_template.format(phrase=self.phrase(scene), background=background)
        return self.sentence(text)

    def sentence(self, text: str) -> str:
        """Returns `text` with a capital, if the script has them, and a full stop."""
        return text[:1].upper() + text[1:] + self.full_stop


def join_words(*words: str | None) -> str:
    """Joins the words that are not empty or None with spaces."""
    return " ".join(word for word in words if word)
