"""64-bit hashes of records, texts and images.

Among n different inputs, the probability that any two share a hash is about n^2 / 2^65: 3 % for
10^9 inputs.
"""

import hashlib
import itertools
import unicodedata

from tf_mural.conversion import image_probe
from tf_mural.errors import UserError

INDEX_BITS = 40  # low bits of a position hold the record index, the other bits hold the unit


def position(unit, index):
    """Returns one integer for record `index` of a unit; positions sort in input order."""
    return unit << INDEX_BITS | index


def hash_bytes(data):
    """Returns a hash of bytes as an int in [0, 2^64)."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def hash_text(text):
    """Returns a hash of a string as an int in [0, 2^64)."""
    return hash_bytes(text.encode())


def hash_record(record):
    """Returns a hash of everything in a record except its id."""
    sizes = [len(image) for image in record.images]
    content = repr((sizes, record.texts, record.label, record.score))
    if record.roles or record.labels or record.vectors:
        vectors = {name: rows.tobytes() for name, rows in sorted(record.vectors.items())}
        content += repr((record.roles, record.labels, vectors))
    digest = hashlib.blake2b(content.encode(), digest_size=8)
    for image in record.images:
        digest.update(image)
    return int.from_bytes(digest.digest(), "little")


def hash_text_pairs(record):
    """Returns a list with a hash of each unordered pair of texts of a record.

    Case, Unicode compatibility forms and runs of white space make no difference.
    """
    normalized = [
        " ".join(unicodedata.normalize("NFKC", text).casefold().split()) for _, text in record.texts
    ]
    pairs = itertools.combinations(normalized, 2)
    return [hash_bytes("\0".join(sorted(pair)).encode()) for pair in pairs]


def perceptual_hash(data):
    """Returns the pHash of an image: 64 bits from the low DCT frequencies of its brightness.

    The hashes of similar images differ in few bits.

    Args:
        data: bytes of an image file (JPEG, PNG, ...).

    Returns:
        An int in [0, 2^64), or a string with the reason if the image does not decode.

    Raises:
        UserError: ImageHash is not installed.
    """
    try:
        import imagehash
    except ImportError as error:
        message = "near duplicates and excluded images need ImageHash: pip install ImageHash"
        raise UserError(message) from error
    image = image_probe.to_grayscale(data)
    if isinstance(image, str):
        return image
    return int(str(imagehash.phash(image)), 16)
