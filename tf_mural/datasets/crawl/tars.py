"""Tars of images, captions and what else is known of them, one after another (webdataset).

They are read as streams, member by member; nothing is unpacked, so that the names in them name
samples and no places. What a tar that was cut short holds as a whole is kept.
"""

import posixpath
import tarfile

from tf_mural.data.records import Dropped
from tf_mural.datasets.crawl import sample

_KINDS = (*sample.IMAGES, "txt", "json")
_MOST_BYTES = 256 << 20  # of a member


def samples(path, images=True):
    """Yields each `Sample` of a tar, and `Dropped` where it ends too early.

    Args:
        path: of the tar.
        images: whether to read the images; their bytes are b"" if not.
    """
    key, parts, usual = None, {}, None
    try:
        for name, kind, data in _members(path, images):
            if name != key:
                if key is not None:
                    yield sample.of_parts(key, parts)
                    usual = set(parts)
                key, parts = name, {}
            parts[kind] = data
    except tarfile.TarError as error:
        # The one before the break is whole if it has what the others have.
        if usual and usual <= set(parts):
            yield sample.of_parts(key, parts)
        yield Dropped("tar is cut short or broken", f"{path}, after {key or 'nothing'}: {error}")
        return
    if key is not None:
        yield sample.of_parts(key, parts)


def _members(path, images):
    """Yields (name of the sample, kind of file, bytes)."""
    with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:", tarinfo=_Strict) as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # They are kept for access by name, which nobody wants here.
            folder, base = posixpath.split(info.name)
            stem, _, kind = base.partition(".")
            kind = kind.lower()
            if not info.isreg() or not stem or kind not in _KINDS or info.size > _MOST_BYTES:
                continue
            wanted = images or kind not in sample.IMAGES
            data = tar.extractfile(info).read() if wanted else b""
            yield posixpath.join(folder, stem), kind, data


class _Strict(tarfile.TarInfo):
    """Without it, tarfile takes a broken or missing header for the end."""

    @classmethod
    def fromtarfile(cls, tar):
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error
