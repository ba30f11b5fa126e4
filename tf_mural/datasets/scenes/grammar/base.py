"""What the grammars share: how things become phrases and phrases captions.

A language is a table of words and one function that says a thing in a case. What links two things
is a pattern and the cases it wants of them, so word order is data: Turkish puts the second first.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tf_mural.datasets.scenes.scene import Phrase, Scene, Thing


@dataclass(frozen=True)
class Link:
    """`pattern` with {first} and {second}, and the case each of them stands in."""

    pattern: str
    first: str = "base"
    second: str = "base"


@dataclass(frozen=True)
class Grammar:
    """One language.

    Attributes:
      say: (thing, case) -> text; "base" is a case everywhere, others are the language's own.
      links: a `Link` for each of `meaning.LINKS`.
      caption: pattern with {phrase} and {background}.
      backgrounds: what {background} reads for each of `meaning.BACKGROUNDS`.
      stop: what ends a sentence.
    """

    say: Callable[[Thing, str], str]
    links: dict[str, Link]
    caption: str
    backgrounds: dict[str, str]
    stop: str = "."

    def phrase(self, phrase: Phrase) -> str:
        """The words of a phrase, small first letter, no stop."""
        if phrase.link is None:
            return self.say(phrase.first, "base")
        link = self.links[phrase.link]
        return link.pattern.format(
            first=self.say(phrase.first, link.first), second=self.say(phrase.second, link.second)
        )

    def describe(self, scene: Scene) -> str:
        """The caption of a scene, a whole sentence."""
        background = self.backgrounds[scene.background]
        return self.sentence(self.caption.format(phrase=self.phrase(scene), background=background))

    def sentence(self, text: str) -> str:
        """`text` with a capital (where the script has them) and a stop."""
        return text[:1].upper() + text[1:] + self.stop


def spaced(*words: str | None) -> str:
    """The words that are there, with spaces between."""
    return " ".join(word for word in words if word)
