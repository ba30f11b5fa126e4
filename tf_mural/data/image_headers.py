"""Reads from the header of an image file its size, and whether TensorFlow decodes it correctly."""

import re
import struct

# Maximum number of pixels of an image. The pixels of such an image need about 268 MB of memory.
# Larger images could exhaust the memory.
MAX_PIXELS = 89_478_485

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(="|>)([0-9])')
# PNG text chunks in which programs store EXIF data or XMP data.
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")


def header_size(data):
    """Reads the size of an image from the header of its file.

    Args:
        data: bytes of a PNG, JPEG, GIF, BMP or WebP.

    Returns:
        (width, height), or None if the header is not valid.
    """
    if data[:8] == _PNG and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        return struct.unpack("<HH", data[6:10])
    if data[:2] == b"BM" and len(data) >= 26:
        width, height = struct.unpack("<ii", data[18:26])
        return width, abs(height)
    if data[:4] == b"RIFF" and len(data) >= 30:
        return _webp_size(data)
    if data[:2] == b"\xff\xd8":
        for marker, start, _ in jpeg_segments(data):
            if _is_frame_header(marker) and len(data) >= start + 5:
                height, width = struct.unpack(">HH", data[start + 1 : start + 5])
                return width, height
    return None


def _webp_size(data):
    """Reads (width, height) from the first chunk of a WebP; None for another kind of chunk."""
    kind = data[12:16]
    if kind == b"VP8X":
        return tuple(1 + int.from_bytes(data[i : i + 3], "little") for i in (24, 27))
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return tuple(size & 0x3FFF for size in struct.unpack("<HH", data[26:30]))
    return None


def has_known_format(data):
    """Returns whether the bytes start like those of a JPEG, PNG, GIF, BMP or WebP file."""
    if data[:4] == b"RIFF":
        return data[8:12] == b"WEBP"
    return data.startswith((b"\xff\xd8", _PNG[:4], b"GIF8", b"BM"))


def decodes_alike(data):
    """Returns whether the headers show that TensorFlow decodes a file to upright RGB pixels.

    The check takes a few microseconds. The result is False if the headers do not decide this, for
    example for a PNG with an alpha channel, whose pixels may still be opaque, and for any file that
    is neither a JPEG nor a PNG.

    Args:
        data: bytes of an image file.
    """
    if data[:2] == b"\xff\xd8":
        return _is_plain_jpeg(data)
    return data[:8] == _PNG and _is_plain_png(data)


def full_gif_frame_colors(data):
    """Returns the number of colors of the first frame of a GIF, 0 if it is a part of the image."""
    colors = _gif_colors(data[10])
    position = 13 + 3 * colors
    while data[position : position + 1] == b"!":  # extensions precede the frame
        position += 2
        while size := data[position]:
            position += size + 1
        position += 1
    frame = data[position : position + 10]
    if len(frame) < 10 or frame[:9] != b"," + bytes(4) + data[6:10]:
        return 0
    return _gif_colors(frame[9]) or colors


def _gif_colors(flags):
    return 2 << (flags & 7) if flags & 0x80 else 0


def bmp_size(data):
    """Returns the size in bytes of an uncompressed BMP without bytes after its pixels."""
    start, width, height = struct.unpack("<i4xii", data[10:26])
    bits = int.from_bytes(data[28:30], "little")
    return start + (width * bits + 31) // 32 * 4 * abs(height)


def jpeg_segments(data):
    """Yields (marker, start, end) of the segments of a JPEG up to the first scan.

    The bytes `data[start:end]` are the content of the segment, without its length.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position + 4, end
        if marker == 0xDA or end < position + 4:
            return
        position = end


def _is_frame_header(marker):
    # A marker SOF0 to SOF15 starts the frame header. The range of these markers also contains the
    # markers DHT, JPG and DAC.
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)


def is_usual_jpeg(data):
    """Returns whether TensorFlow decodes the colors of a JPEG correctly, in any orientation.

    The JPEG must have 8 bits per component, Huffman coding, and one or three components, or four
    components and Adobe's marker.

    Args:
        data: bytes of a JPEG.
    """
    return any(marker == 0xDA for marker, _, _ in _checked_segments(data))


def _checked_segments(data):
    """Yields the segments of a JPEG up to the first that TensorFlow does not decode correctly."""
    components, adobe = 0, False
    for marker, start, end in jpeg_segments(data):
        if end > len(data):
            return
        if marker == 0xEE:
            adobe = adobe or data[start : start + 5] == b"Adobe"
        elif _is_frame_header(marker):
            # TensorFlow decodes the baseline, extended and progressive processes.
            if marker > 0xC2 or end < start + 6 or data[start] != 8:
                return
            components = data[start + 5]
        elif marker == 0xDA and not (components in (1, 3) or (components == 4 and adobe)):
            return
        yield marker, start, end


def _is_plain_jpeg(data):
    """Returns whether a JPEG is upright, and TensorFlow decodes its colors correctly."""
    marker, orientation, xmp_upright = None, None, True
    for marker, start, end in _checked_segments(data):
        if marker == 0xE1:
            content = data[start:end]
            if content[:6] == b"Exif\0\0":
                orientation = orientation or _exif_orientation(content[6:])
            else:
                xmp_upright = xmp_upright and _is_xmp_upright(content)
    # As in Pillow, the orientation in XMP data is used only if the EXIF data contain none.
    is_upright = xmp_upright if orientation is None else orientation == 1
    return marker == 0xDA and is_upright


def _is_plain_png(data):
    """Returns whether a PNG has no transparency, no EXIF data, and no orientation in XMP data.

    PNG files of 16 bits are included, because TensorFlow uses the high byte of each sample.
    """
    if len(data) < 33 or data[25] & 4:  # bit 2 of the color type: an alpha channel
        return False
    position = 8
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        if kind in (b"tRNS", b"eXIf"):
            return False
        if kind in _TEXT_CHUNKS:
            content = data[position + 8 : position + 8 + size]
            is_compressed = content[:19] == b"XML:com.adobe.xmp\0\1"
            if b"exif" in content[:40].lower() or is_compressed or not _is_xmp_upright(content):
                return False
        if kind == b"IEND":
            return True
        position += 12 + size
    return False


def _is_xmp_upright(content):
    """Returns whether XMP data contain no orientation, or orientation 1."""
    match = _XMP_ORIENTATION.search(content)
    return match is None or match[2] == b"1"


def _exif_orientation(tiff):
    """Returns the orientation in EXIF data, which have the format of TIFF.

    The result is None if the data contain no orientation, and -1 if the data are not valid.
    """
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return -1
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    if directory + 2 > len(tiff):
        return -1
    (count,) = struct.unpack_from(order + "H", tiff, directory)
    for number in range(count):
        position = directory + 2 + 12 * number
        if position + 12 > len(tiff):
            return -1
        tag, kind, values, value = struct.unpack_from(order + "HHIH", tiff, position)
        if tag == _ORIENTATION:
            return value if (kind, values) == (3, 1) else -1
    return None
