"""Converts the samples of a shard to records."""

import posixpath

from tf_mural.data.records import Record, Skipped
from tf_mural.datasets import image_files


class AdjacentCaptions:
    """The captions next to the images.

    Args:
        language: language code of the captions.

    Attributes:
        expected: languages whose missing texts are counted; empty for this class.
    """

    expected = ()

    def __init__(self, language):
        self._language = language

    def texts(self, sample):
        """Returns ((language, text) pairs of a sample, None), or ((), reason) without a caption."""
        text = (sample.text or "").strip()
        return (((self._language, text),), None) if text else ((), "no caption")


def shard_to_records(shard, captions):
    """Yields a `Record` or `Skipped` for each sample of a shard and each link without an image.

    Args:
        shard: `shards.Shard`.
        captions: an object with the interface of `AdjacentCaptions`.
    """
    keys = set()
    for sample in shard.samples():
        if isinstance(sample, Skipped):
            yield sample
            continue
        if shard.sidecar:
            keys.add(posixpath.basename(sample.key))
        yield from _to_items(sample, f"{shard.name}:{sample.key}", captions)
    for sample in shard.sidecar_samples():
        if sample.key not in keys:
            yield from _to_items(sample, f"{shard.name}:{sample.key}", captions)


def _to_items(sample, name, captions):
    """Yields the `Record` or `Skipped` of a sample, and `Skipped` for each missing language."""
    item = _to_item(sample, name, captions)
    yield item
    if isinstance(item, Record):
        codes = {code for code, _ in item.texts}
        for code in captions.expected:
            if code not in codes:
                yield Skipped("no text in the language", f"{name}, {code}", text_only=True)


def _to_item(sample, name, captions):
    if sample.image is None and sample.problem is None:
        return _skip_without_image(sample, name)
    if sample.problem:
        return Skipped(sample.problem, name)
    texts, reason = captions.texts(sample)
    if reason:
        return Skipped(reason, name if sample.url is None else f"{name}, {sample.url}")
    image, reason = image_files.validate_image(sample.image)
    return Skipped(reason, name) if reason else Record(name, (image,), texts)


def _skip_without_image(sample, name):
    where = name if sample.url is None else f"{name}, {sample.url}"
    if sample.status in (None, "success"):
        return Skipped("no image", where)
    error = f": {sample.error}" if sample.error else ""
    return Skipped(f"image was not downloaded ({sample.status})", where + error)
