"""Converts the samples of a shard to records."""

import dataclasses
import posixpath

from tf_mural.data.records import Record, Skipped
from tf_mural.datasets import image_files
from tf_mural.datasets.crawl.sample_files import Sample


class AdjacentCaptions:
    """The captions next to the images.

    Args:
        language: language code of captions for which no file name and no key names the language.

    Attributes:
        expected: languages whose missing texts are counted; empty for this class.
    """

    expected = ()

    def __init__(self, language):
        self._language = language

    def texts(self, sample):
        """Returns the texts of a sample and the reason why it has no text, or None.

        The texts are pairs (language, text), or `Skipped` for texts that cannot be used.
        """
        texts = []
        for caption in sample.captions:
            if isinstance(caption, Skipped):
                texts.append(caption)
            elif text := caption[1].strip():
                texts.append((caption[0] or self._language, text))
        has_text = any(not isinstance(text, Skipped) for text in texts)
        return tuple(texts), None if has_text else "no caption"


def shard_to_records(shard, captions):
    """Yields a `Record` or `Skipped` for each sample and each missing image, and `InputParts`.

    Args:
        shard: `shards.Shard`.
        captions: an object with the interface of `AdjacentCaptions`.
    """
    keys = set()
    for sample in shard.samples():
        if not isinstance(sample, Sample):
            yield sample
            continue
        if shard.sidecar:
            keys.add(posixpath.basename(sample.key))
        yield from _to_items(sample, f"{shard.name}:{sample.key}", captions)
    for sample in shard.sidecar_samples():
        if sample.key not in keys:
            yield from _to_items(sample, f"{shard.name}:{sample.key}", captions)


def _to_items(sample, name, captions):
    """Yields the `Record` or `Skipped` of a sample, and `Skipped` for texts and languages."""
    if sample.image is None and sample.problem is None:
        yield _skip_without_image(sample, name)
        return
    if sample.problem:
        yield Skipped(sample.problem, name)
        return
    texts, reason = captions.texts(sample)
    for text in texts:
        if isinstance(text, Skipped):
            yield dataclasses.replace(text, example=f"{name}: {text.example}")
    if reason:
        yield Skipped(reason, name if sample.url is None else f"{name}, {sample.url}")
        return
    image, reason = image_files.validate_image(sample.image)
    if reason:
        yield Skipped(reason, name)
        return
    pairs = tuple(text for text in texts if not isinstance(text, Skipped))
    yield Record(name, (image,), pairs)
    codes = {code for code, _ in pairs}
    for code in captions.expected:
        if code not in codes:
            yield Skipped("no text in the language", f"{name}, {code}", text_only=True)


def _skip_without_image(sample, name):
    where = name if sample.url is None else f"{name}, {sample.url}"
    if sample.status in (None, "success"):
        return Skipped("no image", where)
    error = f": {sample.error}" if sample.error else ""
    return Skipped(f"image was not downloaded ({sample.status})", where + error)
