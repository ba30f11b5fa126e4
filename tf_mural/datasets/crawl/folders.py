"""Folders of images, with a caption in a .txt and more in a .json of the same name beside each."""

import os

from tf_mural.datasets.crawl import sample

_KINDS = (*sample.IMAGES, "txt", "json")


def samples(path, images=True):
    """Yields each `Sample` of a folder by name; images are b"" where they are not asked for."""
    parts = {}
    for name in os.listdir(path):
        stem, dot, kind = name.rpartition(".")
        if dot and kind.lower() in _KINDS:
            parts.setdefault(stem, []).append(kind)
    for stem in sorted(parts):
        if not stem.startswith("."):
            yield _sample(path, stem, parts[stem], images)


def _sample(path, stem, kinds, images):
    data = {}
    for kind in sorted(kinds):
        if not images and kind.lower() in sample.IMAGES:
            data[kind.lower()] = b""
            continue
        try:
            with open(os.path.join(path, f"{stem}.{kind}"), "rb") as file:
                data[kind.lower()] = file.read()
        except OSError:
            return sample.Sample(stem, problem="file may not be read")
    return sample.of_parts(stem, data)


def holds_images(names):
    """Whether there are images among the names of files."""
    return any(name.rpartition(".")[2].lower() in sample.IMAGES for name in names)
