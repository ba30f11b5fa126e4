"""From the samples of a shard to records, and to what is left out."""

import posixpath

from tf_mural.data.records import Dropped, Record
from tf_mural.datasets import image_files


def of_shard(shard, captions):
    """Yields a `Record` or `Dropped` for each sample of a shard, and for each link that gave none.

    Args:
        shard: `shards.Shard`.
        captions: has `texts(sample)`, which gives pairs (language, text) and, where there are none,
            the reason; and `expected`, languages to note the lack of.
    """
    seen = set()
    for one in shard.samples():
        if isinstance(one, Dropped):
            yield one
            continue
        if shard.told:
            seen.add(posixpath.basename(one.key))
        yield from _items(one, f"{shard.name}:{one.key}", captions)
    for one in shard.tells():
        if one.key not in seen:
            yield from _items(one, f"{shard.name}:{one.key}", captions)


def _items(sample, name, captions):
    item = _item(sample, name, captions)
    yield item
    if isinstance(item, Record):
        codes = {code for code, _ in item.texts}
        for code in captions.expected:
            if code not in codes:
                yield Dropped("no text in the language", f"{name}, {code}", text=True)


def _item(sample, name, captions):
    if sample.image is None and sample.problem is None:
        return Dropped(*_without_image(sample, name))
    if sample.problem:
        return Dropped(sample.problem, name)
    texts, reason = captions.texts(sample)
    if reason:
        return Dropped(reason, name if sample.url is None else f"{name}, {sample.url}")
    image, reason = image_files.usable(sample.image)
    return Dropped(reason, name) if reason else Record(name, (image,), texts)


def _without_image(sample, name):
    where = name if sample.url is None else f"{name}, {sample.url}"
    if sample.status in (None, "success"):
        return "no image", where
    why = f": {sample.error}" if sample.error else ""
    return f"image was not downloaded ({sample.status})", where + why
