"""Hashes of 64 bits: of what a record holds, and of what an image looks like.

Among n different things two share such a hash by chance with a probability of n^2 / 2^65: 3 % for
a thousand million.
"""

import hashlib
import itertools
import unicodedata

from tf_mural.conversion import image_probe
from tf_mural.errors import UserError

ROW_BITS = 40  # of a position; the unit has the bits above


def of_bytes(data):
    """A hash of bytes, as an int."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def of_text(text):
    """A hash of a string."""
    return of_bytes(text.encode())


def of_record(record):
    """A hash of all that a record holds but its id."""
    sizes = [len(image) for image in record.images]
    known = repr((sizes, record.texts, record.label, record.score))
    digest = hashlib.blake2b(known.encode(), digest_size=8)
    for image in record.images:
        digest.update(image)
    return int.from_bytes(digest.digest(), "little")


def of_pairs(record):
    """A hash of each two texts of a record, whichever comes first, case and blanks aside."""
    plain = [
        " ".join(unicodedata.normalize("NFKC", text).casefold().split()) for _, text in record.texts
    ]
    return [of_bytes("\0".join(sorted(two)).encode()) for two in itertools.combinations(plain, 2)]


def perceptual(data):
    """A hash of what an image looks like, by the few lowest frequencies of its brightness.

    Images that look alike differ in few of its bits.

    Args:
        data: encoded bytes.

    Returns:
        An int, or a string: why it does not decode.

    Raises:
        UserError: the library is not installed.
    """
    try:
        import imagehash
    except ImportError as error:
        message = "near duplicates and excluded images need ImageHash: pip install ImageHash"
        raise UserError(message) from error
    image = image_probe.grey(data)
    if isinstance(image, str):
        return image
    return int(str(imagehash.phash(image)), 16)


def position(unit, row):
    """One number for a row of a unit, in the order of the input."""
    return unit << ROW_BITS | row
