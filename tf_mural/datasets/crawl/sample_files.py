"""Groups the files of a tar or a folder into samples by their names, and reads the captions.

The name of a file is the key of its sample, a dot, and the extension; the key may contain dots, as
in "img.v1.jpg" (WebDataset would end the key at the first dot). A caption file may have a language
before its extension: "a.de.txt" is the German caption of a.jpg, unless there is an image a.de.jpg.

    .jpg .jpeg .png .webp       the image
    .txt .caption .text         a caption
    .json                       captions, as a string, a list, or an object by language: the whole
                                file, or the value of a key such as "caption"; the file may also
                                have a "url"
"""

import json
import posixpath
import reprlib
from typing import NamedTuple

from tf_mural import languages
from tf_mural.data.records import InputParts, Skipped
from tf_mural.data.text_cleaning import valid_unicode

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
_TEXT_EXTENSIONS = ("txt", "caption", "text")
_CAPTION_KEYS = ("caption", "captions", "text", "texts", "txt")


class Sample(NamedTuple):
    """One image and its metadata, or the metadata of an image that was not downloaded.

    Attributes:
        key: name of the sample in its file.
        image: bytes of the image file; b"" if the reader has images=False; None without an image.
        captions: (language code, text) of each caption next to the image, and a `Skipped` for each
            text that cannot be used. The code is None if neither a file name nor a key names it.
        url: URL of the image, or None.
        status: img2dataset's status ("success", "failed_to_download"), or None.
        error: img2dataset's error message, or None.
        problem: the reason why the sample is unusable, in a few words; None for a usable sample.
    """

    key: str
    image: bytes | None = None
    captions: tuple = ()
    url: str | None = None
    status: str | None = None
    error: str | None = None
    problem: str | None = None

    @property
    def text(self):
        """The first caption, or None."""
        pairs = (caption for caption in self.captions if not isinstance(caption, Skipped))
        return next((text for _, text in pairs), None)


class FileName(NamedTuple):
    """The parts of the name of a file.

    Attributes:
        keys: keys of the samples to which the file may belong, the most likely first.
        extension: the extension in lower case, without the dot.
        code: the language as it is written in the name, or "".
    """

    keys: tuple[str, ...]
    extension: str
    code: str

    @property
    def is_image(self):
        """Whether the file is an image."""
        return self.extension in IMAGE_EXTENSIONS


def parse_name(path):
    """Returns the `FileName` of a path, or None if no file of a sample has this extension."""
    folder, base = posixpath.split(path)
    stem, _, extension = base.rpartition(".")
    extension = extension.lower()
    is_image = extension in IMAGE_EXTENSIONS
    if (
        not stem
        or stem.startswith(".")
        or not (is_image or extension in (*_TEXT_EXTENSIONS, "json"))
    ):
        return None
    keys, code = [posixpath.join(folder, stem)], ""
    shorter, _, last = stem.rpartition(".")
    if not is_image and shorter and languages.find(last):
        keys.append(posixpath.join(folder, shorter))
        code = last
    return FileName(tuple(keys), extension, code)


class SampleFiles:
    """Collects the files of one sample, and counts those that are not used."""

    def __init__(self):
        self._keys, self._files = None, {}

    @property
    def names(self):
        """Set of (extension, language in the name) of the files."""
        return {(name.extension, name.code) for name in self._files}

    @property
    def key(self):
        """The key of the sample: the key of its image, or the only key that all files share."""
        return self._keys[0]

    def accepts(self, name):
        """Returns whether a file may belong to the sample of the collected files."""
        return self._keys is None or any(key in self._keys for key in name.keys)

    def add(self, name, data):
        """Adds a file, and returns whether it replaces a file with the same name."""
        keys = name.keys if self._keys is None else [key for key in self._keys if key in name.keys]
        self._keys = tuple(keys)
        is_repeated = name in self._files
        self._files[name] = data
        return is_repeated

    def sample(self, counts):
        """Returns the `Sample` of the files.

        Args:
            counts: `FileCounts`, to which the files and the language codes are added.
        """
        images = sorted(
            (name for name in self._files if name.is_image),
            key=lambda name: IMAGE_EXTENSIONS.index(name.extension),
        )
        counts.used += len(self._files) - len(images[1:])
        for name in images[1:]:
            counts.ignore("their sample has another image", f"{name.keys[0]}.{name.extension}")
        meta, problem = None, None
        texts, json_texts = [], []
        for name, data in self._files.items():
            code = self._language(name, counts)
            try:
                if name.extension in _TEXT_EXTENSIONS:
                    texts.append((code, data.decode("utf-8-sig")))
                elif name.extension == "json":
                    content = json.loads(data)
                    meta = content if isinstance(content, dict) else meta
                    json_texts += captions_of_json(content, code, counts)
            except UnicodeDecodeError:
                problem = (
                    "caption is not UTF-8" if name.extension != "json" else "json does not parse"
                )
            except (ValueError, RecursionError):
                problem = "json does not parse"
        url = meta.get("url") if meta else None
        image = self._files[images[0]] if images else None
        url = valid_unicode(url) if isinstance(url, str) else None
        captions = (*texts, *_without_replaced(json_texts, texts))
        return Sample(valid_unicode(self.key), image, captions, url, problem=problem)

    def _language(self, name, counts):
        """Returns the language code in the name of a file, or None if it is part of the key."""
        if not name.code or self.key == name.keys[0]:
            return None
        language = languages.find(name.code)
        counts.add_code(name.code, language)
        return language.code


class FileCounts:
    """Counts of files and language codes for the ledger.

    Attributes:
        used: number of files of samples.
    """

    def __init__(self, kind):
        self._kind = kind
        self.used, self._ignored, self._codes = 0, {}, {}

    def ignore(self, reason, name):
        """Counts a file that is not used."""
        count, example = self._ignored.get(reason, (0, name))
        self._ignored[reason] = count + 1, example

    def add_code(self, name, language):
        """Counts a language code in the name of a file or in a key."""
        count, _ = self._codes.get(name, (0, None))
        self._codes[name] = count + 1, language

    def parts(self):
        """Yields the `InputParts` of all files and language codes."""
        if self.used:
            yield InputParts(self._kind, self.used)
        for reason, (count, example) in self._ignored.items():
            yield InputParts(self._kind, count, reason, valid_unicode(example))
        for name, (count, language) in self._codes.items():
            yield InputParts.language_code(valid_unicode(name), language, count)


def captions_of_json(content, code=None, counts=None):
    """Returns the captions of a JSON value, see `Sample.captions`.

    Args:
        content: a string, a list, an object with captions by language, or an object in which a key
            such as "caption" has one of these values. Other keys are ignored.
        code: language code of captions whose language the value does not name, or None.
        counts: `FileCounts`, or None.
    """
    if isinstance(content, dict):
        key = next((key for key in _CAPTION_KEYS if content.get(key) is not None), None)
        if key is None:
            named = {key: value for key, value in content.items() if languages.find(key)}
            return _captions_by_language(named, counts)
        unused = _unused_captions(content, key)
        return [*_captions_of_value(content[key], code, counts), *unused]
    return _captions_of_value(content, code, counts)


def _captions_of_value(content, code, counts):
    """Returns the captions of a string, a list, or an object with captions by language."""
    if isinstance(content, dict):
        return _captions_by_language(content, counts)
    if content is None:
        return []
    return [_caption(code, text) for text in (content if isinstance(content, list) else [content])]


def _unused_captions(content, used):
    """Yields `Skipped` for the texts of an object that are not under the key that is used."""
    for name, value in content.items():
        # "id" is also the language code of Indonesian.
        is_other = name not in (used, "id") and value != content[used]
        if is_other and value and isinstance(value, str | list | dict):
            if name in _CAPTION_KEYS or languages.find(name):
                example = f"{name}: {reprlib.repr(value)}"
                yield Skipped("text next to a caption", example, text_only=True)


def _captions_by_language(texts, counts):
    captions = []
    for name, values in texts.items():
        language = languages.find(name)
        if counts is not None:
            counts.add_code(name, language)
        values = values if isinstance(values, list) else [values]
        if language is None:
            example = f"{name!r}{languages.hint(name)}"
            captions += [Skipped("not a language code", example, text_only=True)] * len(values)
        else:
            captions += [_caption(language.code, text) for text in values if text is not None]
    return captions


def _caption(code, text):
    if isinstance(text, str):
        return code, text
    return Skipped("text is not a string", repr(text)[:80], text_only=True)


def _without_replaced(json_texts, texts):
    """Replaces captions in JSON by `Skipped` if a file has another caption in the same language.

    img2dataset writes the caption to both files, and other tools write a better caption to .txt.
    """
    codes, known = {code for code, _ in texts}, {(code, text.strip()) for code, text in texts}
    for item in json_texts:
        if isinstance(item, Skipped) or item[0] not in codes:
            yield item
        elif (item[0], item[1].strip()) not in known and item[1].strip():
            yield Skipped("caption in .json next to a .txt", item[1][:80], text_only=True)
