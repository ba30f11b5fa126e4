"""Random tables, tars, JSON values, names and image files, valid and damaged, from a generator.

Each function takes a `random.Random`. Valid inputs contain unique words, so that a check can
compare the words that were written with the words that were read.
"""

import csv
import io
import json
import random
import tarfile

import numpy as np
from PIL import Image

from helpers.image_cases import png16, with_alpha, with_exif, without_adobe
from helpers.images import blurred_noise, encode, plain_image

LANGUAGES = ("en", "de", "zh_CN", "deu_Latn", "pt-BR", "French", "sr_Latn", "iw", "th", "KO")
IMAGES = ("a.jpg", "b.png", "sub/c.jpg", "d e.jpg", "clé.jpg", "ё.png")
STRINGS = (
    *("", " ", "\u200b", "\u3164", "\ud800", "x\udcffy", "a\x00b", "e\u0301", "\ufeff", "\u2028"),
    *("../a.jpg", "/etc/hostname", "sub\\c.jpg", "A.JPG", "a.jpg", "./a.jpg", "a.jpg#0", "#1"),
    *("..", ".", "sub/../a.jpg", "sub//c.jpg", "..\\a.jpg", "cle\u0301.jpg", "~", "a.jpg/", "sub"),
    *("\n", "\r", "\r\n", '"', "'", "\t", ";", ",", '""', '"a', "|", "x" * 300, "NaN", "1e999"),
    *("null", "true", "{}", "[]", "%s", "{split}", "0", "-1", "ﬀ", "İ", "🙂", "id", "en", "url"),
)
HEADERS = (
    *LANGUAGES,
    *("image", "id", "split", "language", "lang", "text", "caption", "captions", "url", "alt"),
    *("title", "filepath", "file_name", "image_id", "src", "key", "", " ", "en", "captions.en"),
)


def text(rng):
    """Returns a string of words and unusual characters."""
    if rng.random() < 0.6:
        return " ".join(rng.choice(("red", "ein", "犬", "круг", "e\u0301")) for _ in range(3))
    return "".join(rng.choice(STRINGS) for _ in range(rng.randint(0, 3)))


def damage(rng, data):
    """Returns bytes of which a random part is changed, removed or repeated."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not data:
            break
        start = rng.randrange(len(data))
        kind = rng.randrange(6)
        if kind == 0:
            data[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[start] = rng.choice((0, 255, 34, 10, 13, rng.randrange(256)))
        elif kind == 2:
            del data[start:]
        elif kind == 3:
            del data[start : start + rng.randint(1, 20)]
        elif kind == 4:
            data[start:start] = data[start : start + rng.randint(1, 40)]
        else:
            data[start:start] = rng.randbytes(rng.randint(1, 8))
    return bytes(data)


# --- tables ---------------------------------------------------------------------------------------


def valid_table(rng):
    """Returns (format, bytes, words, number of rows, number of invalid rows, number of columns)."""
    columns = rng.sample(("en", "de", "zh_CN", "French", "th"), rng.randint(1, 4))
    columns += rng.choices(columns, k=rng.choice((0, 0, 1)))  # repeated columns have more texts
    unused = rng.sample(("url", "alt", "key"), rng.randint(0, 2))
    columns = ["image", *columns, *unused]
    rng.shuffle(columns)
    format = rng.choice(("csv", "tsv", "jsonl"))
    words, rows, invalid = set(), [], 0
    for number in range(rng.randint(1, 12)):
        cells = []
        for column in columns:
            word = f"w{number}x{len(cells)}"
            if column == "image":
                name = rng.choice(IMAGES)
                cells.append(rng.choice((name, f"./{name}", f"{name}#{number}")))
            elif column in unused:
                cells.append("http://example.org")
            else:
                cells.append(rng.choice((word, f'{word} "quoted"', f"{word}, two\nlines", word)))
        is_ragged = format != "jsonl" and rng.random() < 0.1
        rows.append(cells[:-1] if is_ragged else cells)
        invalid += is_ragged
        if not is_ragged and format != "jsonl":
            words |= {cell.split()[0].strip(",") for cell in cells if cell.startswith("w")}
    if format == "jsonl":
        objects = [dict(zip(columns, cells, strict=True)) for cells in rows]
        words = {
            cell.split()[0].strip(",")
            for row in objects
            for cell in row.values()
            if cell.startswith("w")
        }
        lines = (json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in objects)
        return format, "\n".join(lines).encode(), words, len(rows), 0, len(set(columns))
    file = io.StringIO(newline="")
    options = {"lineterminator": rng.choice(("\n", "\r\n")), "quoting": rng.choice((0, 1))}
    writer = csv.writer(file, delimiter="," if format == "csv" else "\t", **options)
    writer.writerows([columns, *rows])
    data = file.getvalue().encode(rng.choice(("utf-8", "utf-8-sig")))
    return format, data, words, len(rows), invalid, len(columns)


def hostile_table(rng):
    """Returns (format, bytes) of a table that may be invalid in any way."""
    format = rng.choice(("csv", "tsv", "jsonl"))
    if rng.random() < 0.02:
        return format, rng.choice((b"", b"\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\0" * 50, b",\n,\n"))
    header = [rng.choice(HEADERS) for _ in range(rng.randint(1, 6))]
    header += ["image", "en"] if rng.random() < 0.8 else []
    if format == "jsonl":
        data = b"\n".join(_hostile_line(rng, header) for _ in range(rng.randint(1, 8)))
    else:
        delimiter = rng.choice(",,\t\t;|")
        quote = rng.choice(('"', "", "'"))
        rows = [header]
        for _ in range(rng.randint(0, 8)):
            width = len(header) if rng.random() < 0.9 else rng.randint(0, 9)
            rows.append([_cell(rng, name) for name in (header * 9)[:width]])
        joined = "\n".join(delimiter.join(f"{quote}{c}{quote}" for c in row) for row in rows)
        data = joined.encode(
            rng.choice(("utf-8",) * 6 + ("utf-16", "cp1252", "gb18030")), errors="replace"
        )
    if rng.random() < 0.3:
        data = damage(rng, data)
    if rng.random() < 0.005:
        data += b"\n" + b"x" * 200_000
    return format, data


def _cell(rng, name):
    if name in ("image", "filepath", "file_name") and rng.random() < 0.8:
        return rng.choice(IMAGES)
    if name in ("language", "lang") and rng.random() < 0.8:
        return rng.choice(LANGUAGES)
    return text(rng)


def _hostile_line(rng, header):
    if rng.random() < 0.03:
        return rng.choice(
            (b"[" * 100_000, b'{"en":' * 100_000, b'{"image": NaN}', b"9" * 5000, b"")
        )
    row = {name: _cell(rng, name) if rng.random() < 0.7 else value(rng) for name in header}
    line = json.dumps(row, ensure_ascii=rng.random() < 0.7).encode(errors="surrogatepass")
    if rng.random() < 0.05:  # an array that is nested as deeply as the parser allows
        depth = rng.randint(300, 1200)
        line = line[:-1] + b', "en": ' + b"[" * depth + b"]" * depth + b"}"
    return line


def table_options(rng):
    """Returns random options of the data set `table`."""
    choices = {
        "layout": ("wide", "long"),
        "quoting": ("none", "none", "minimal"),
        "language": ("en", "German", "zz"),
        "languages": (("en",), ("de", "fr"), ("alt",)),
        "columns": (("alt:en",), ("title:de", "url:fr"), ("captions.en:en",), ("x",)),
        "image_column": ("image", "filepath", "url"),
        "id_column": ("id", "image_id"),
        "split_column": ("", "split"),
        "text_column": ("text", "alt"),
        "language_column": ("lang",),
        "texts_separator": ("|", ";", " "),
        "min_texts": (0, 2),
        "image_suffix": (".jpg", "\ud800"),
        "image_dir": ("sub", "..", "missing"),
    }
    names = rng.sample(sorted(choices), rng.choice((0, 0, 0, 1, 2)))
    return {name: rng.choice(choices[name]) for name in names}


# --- JSON -----------------------------------------------------------------------------------------


def value(rng, depth=3):
    """Returns a random JSON value."""
    kind = rng.randrange(8 if depth else 5)
    if kind < 2:
        return text(rng)
    if kind < 5:
        return rng.choice((None, True, False, 0, -1, 1.5, 10**30, float("nan"), ""))
    if kind < 6:
        return [value(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    return {rng.choice(HEADERS): value(rng, depth - 1) for _ in range(rng.randint(0, 3))}


def valid_captions(rng, word):
    """Returns (JSON value, words of its captions, number of its texts that are not captions)."""
    words, unused = [], 0

    def new_text():
        nonlocal unused
        if rng.random() < 0.1:
            unused += 1
            return rng.choice((1, 2.5, True, ["nested"], {"en": "nested"}))
        words.append(f"{word}n{len(words)}")
        return words[-1]

    def texts():
        if rng.random() < 0.5:
            return [new_text() for _ in range(rng.randint(1, 3))]
        words.append(f"{word}n{len(words)}")
        return words[-1]

    by_language = {code: texts() for code in rng.sample(LANGUAGES, rng.randint(1, 3))}
    if rng.random() < 0.2:
        by_language["not-one"], unused = "unused", unused + 1
        return {rng.choice(("caption", "captions", "texts")): by_language}, words, unused
    kind = rng.randrange(4)
    if kind == 0:
        return by_language, words, unused
    if kind == 1:
        return {"captions": by_language, "url": "http://example.org"}, words, unused
    words, unused = [], 0
    captions = texts()
    return captions if kind == 2 else {"caption": captions, "width": 5}, words, unused


# --- tars -----------------------------------------------------------------------------------------


def tar_bytes(rng, members, hostile=False):
    """Returns the bytes of a tar of (name, bytes) pairs; a hostile tar has odd headers."""
    file = io.BytesIO()
    format = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=format, errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if hostile and format == tarfile.PAX_FORMAT and rng.random() < 0.2:
                keys = ("path", "size", "mtime", "GNU.sparse.map", "GNU.sparse.size", "hdrcharset")
                info.pax_headers = {rng.choice(keys): rng.choice(("", "x", "-5", "99999", "1,2"))}
            if hostile and rng.random() < 0.15:
                info.type = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE))
                info.linkname, info.size, data = rng.choice(("a.jpg", "/x", "")), 0, b""
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def damage_header(rng, tar):
    """Changes bytes of a header of a tar, and corrects its checksum."""
    tar = bytearray(tar)
    start = 512 * rng.randrange(len(tar) // 512)
    field, size = rng.choice(((0, 100), (124, 12), (124, 1), (156, 1), (257, 8), (345, 155)))
    width = rng.randint(1, size)
    tar[start + field : start + field + width] = rng.choice(
        (
            rng.randbytes(width),
            b"\xff" * width,
            b"\0" * width,
            b"7" * width,
            b"\x80" + b"\1" * width,
        )
    )[:width]
    header = tar[start : start + 512]
    checksum = sum(header[:148]) + 8 * 32 + sum(header[156:])
    tar[start + 148 : start + 156] = b"%06o\0 " % checksum
    return bytes(tar)


def member_name(rng):
    """Returns a name for a member of a tar or a file of a folder."""
    stem = rng.choice(
        ("a", "b", "a.b", "Track 2.0", ".a", "", "d/a", "\udcff", "e\u0301", "x" * 60)
    )
    code = rng.choice(("", "", "", ".de", ".zh_CN", ".xx", ".en.de"))
    extension = rng.choice(("jpg", "jpg", "txt", "txt", "json", "JPG", "png", "cls", "", "webp"))
    return f"{rng.choice(('', '', './', '/', '../'))}{stem}{code}.{extension}"


# --- images ---------------------------------------------------------------------------------------


def image_files():
    """Returns a list of small image files of all formats, modes and orientations."""
    photo = blurred_noise(4, 23, 17)
    files = [with_exif(orientation, photo) for orientation in range(1, 9)]
    files += [with_exif(6, photo, "PNG"), with_exif(3, photo, "WEBP")]
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = Image.fromarray(np.arange(391, dtype=np.uint16).reshape(17, 23) * 99)
        files.append(encode(image if mode == "I;16" else photo.convert(mode), "PNG"))
    files += [encode(photo.convert(mode), "JPEG") for mode in ("L", "RGB", "CMYK")]
    files.append(without_adobe(encode(photo.convert("CMYK"), "JPEG")))
    files += [encode(photo, "JPEG", **option) for option in ({"progressive": True}, {"quality": 5})]
    files += [encode(photo.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")]
    files += [encode(photo.convert(mode), "GIF") for mode in ("L", "P")]
    frames = [blurred_noise(seed, 23, 17).convert("P") for seed in (1, 2)]
    files.append(encode(photo.convert("P"), "GIF", save_all=True, append_images=frames))
    files += [encode(with_alpha(photo), format) for format in ("PNG", "WEBP", "GIF")]
    files += [encode(photo, "WEBP", lossless=lossless) for lossless in (False, True)]
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (7, 9, 4), np.uint16)
    files += [png16(pixels), png16(pixels[..., :1], (1,)), png16(pixels[..., :3], (1, 2, 3))]
    files.append(encode(photo.convert("P"), "PNG", transparency=3))
    files += [encode(photo, format) for format in ("TIFF", "PPM", "MPO")]
    return [*files, plain_image(size=(1, 1)), b"", b"\xff\xd8", b"GIF89a", b"BM", b"RIFF"]


# --- names of languages ---------------------------------------------------------------------------


def language_name(rng: random.Random):
    """Returns a code or name of a language, or a string that is similar to one."""
    name = rng.choice((*LANGUAGES, *HEADERS, "zho_Hant", "sr-Latn-RS", "x-klingon", "zh-min-nan"))
    kind = rng.randrange(5)
    if kind == 0:
        return name
    if kind == 1:
        return "".join(rng.choice("abcdehnrstz-_ATLC019") for _ in range(rng.randint(0, 12)))
    if kind == 2:
        parts = (
            "en",
            "zh",
            "Latn",
            "hant",
            "TW",
            "419",
            "x",
            "u",
            "a",
            "valencia",
            "twain",
            "abcd",
        )
        return rng.choice("-_").join(rng.choice(parts) for _ in range(rng.randint(1, 5)))
    if kind == 3:
        return text(rng)
    letters = list(name)
    if letters:
        letters[rng.randrange(len(letters))] = rng.choice("abz-_ é\ud800İ")
    return "".join(letters)
