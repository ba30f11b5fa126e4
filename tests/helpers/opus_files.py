"""Writes zips in the format of OPUS."""

from helpers.archives import zip_bytes


def write_moses_zip(
    folder, a="de", b="en", first=b"eins\nzwei\n", second=b"one\ntwo\n", corpus="CCMatrix"
):
    """Writes a zip in OPUS's Moses format and returns its path.

    Args:
        folder: `pathlib.Path`.
        a, b: language codes.
        first, second: contents of the files of the languages a and b.
        corpus: name of the corpus.
    """
    stem = f"{corpus}.{a}-{b}"
    members = {
        "README": "This is the corpus\n",
        "LICENSE": "see the home page\n",
        f"{stem}.{a}": first,
        f"{stem}.{b}": second,
        f"{stem}.scores": "1.2\n1.1\n",
        f"{stem}.ids": "x\ty\n",
        f"{stem}.xml": "<cesAlign/>\n",
    }
    path = folder / f"{a}-{b}.txt.zip"
    path.write_bytes(zip_bytes(members))
    return path
