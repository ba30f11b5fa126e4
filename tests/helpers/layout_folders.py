"""Writes a small folder in each layout: a red and a blue image with texts in two languages.

MINIATURES maps the name of a miniature to a function that writes it to a folder and returns a
`Miniature`.
"""

import dataclasses
import json

import pytest

from helpers import crawl_files
from helpers.files import write_files
from helpers.images import plain_image

RED, BLUE = plain_image("red", "PNG"), plain_image("blue", "PNG")
RED_JPEG, BLUE_JPEG = plain_image("red"), plain_image("blue")
IMAGES = {"red.png": RED, "photos/blue.png": BLUE}
RED_TEXTS = (("en", "a red square"), ("de", "ein rotes Quadrat, schön größer"))
BLUE_TEXTS = (("en", "a blue square"), ("de", "ein blaues; grünes Quadrat"))
ENGLISH = (
    (("en", "a red square"), ("en", "it is red")),
    (("en", "a blue square"), ("en", "it is blue")),
)


@dataclasses.dataclass(frozen=True)
class Miniature:
    """The expected contents of a miniature.

    Attributes:
        layout: key of `layouts.LAYOUTS`.
        dataset: name of the data set that reads the folder.
        texts: the texts of the red and of the blue image.
        options: options that the conversion needs.
        split: the split of the records.
    """

    layout: str
    dataset: str = "table"
    texts: tuple = (RED_TEXTS, BLUE_TEXTS)
    options: dict = dataclasses.field(default_factory=dict)
    split: str = "train"


def write_wide(folder):
    rows = [["image", "en", "de"]]
    rows += [[name, *(text for _, text in texts)] for name, texts in _by_name().items()]
    content = "".join("\t".join(row) + "\n" for row in rows)
    write_files(folder, IMAGES | {"captions.tsv": content})
    return Miniature("wide")


def write_wide_jsonl(folder):
    rows = [{"image": name, "captions": dict(texts)} for name, texts in _by_name().items()]
    write_files(folder, IMAGES | {"captions.jsonl": _jsonl(rows)})
    return Miniature("wide")


def write_long(folder):
    rows = [f'{name},{code},"{text}"\n' for name, code, text in _interleaved()]
    write_files(folder, IMAGES | {"captions.csv": "image,language,text\n" + "".join(rows)})
    return Miniature("long")


def write_captions(folder):
    rows = [f"{name}#{number},{text}\n" for name, number, text in _english_rows()]
    write_files(folder, IMAGES | {"results.csv": "image_name,comment\n" + "".join(rows)})
    return _english("captions")


def write_open_clip(folder):
    rows = [f"{name}\t{text}\n" for name, _, text in _english_rows()]
    write_files(folder, IMAGES | {"train.csv": "filepath\ttitle\n" + "".join(rows)})
    return _english("open_clip")


def write_excel(folder, encoding="cp1252", name="texte.csv", delimiter=";", start=""):
    rows = [["Bild", "en", "de"]]
    rows += [[name, *(f'"{text}"' for _, text in texts)] for name, texts in _by_name().items()]
    content = start + "".join(delimiter.join(row) + "\r\n" for row in rows)
    write_files(folder, IMAGES | {name: content.encode(encoding)})
    return Miniature("excel")


def write_excel_utf8(folder):
    return write_excel(folder, "utf-8-sig", start="sep=;\r\n")


def write_excel_utf16(folder):
    return write_excel(folder, "utf-16", "texte.txt.csv", "\t")


def write_excel_unicode_text(folder):
    return write_excel(folder, "utf-16", "Texte.txt", "\t")


def write_metadata_jsonl(folder):
    rows = [{"file_name": name, "text": text} for name, _, text in _english_rows()]
    write_files(folder, IMAGES | {"metadata.jsonl": _jsonl(rows)})
    return _english("imagefolder")


def write_metadata_csv(folder):
    rows = [f"{name},{text}\n" for name, _, text in _english_rows()]
    content = "file_name,text\n" + "".join(rows)
    images = {f"train/{name}": data for name, data in IMAGES.items()}
    write_files(folder, images | {"train/metadata.csv": content})
    return _english("imagefolder")


def write_parquet(folder):
    """Writes two Parquet files as Hugging Face does; both contain the red image."""
    pa = pytest.importorskip("pyarrow", reason="Parquet is written with pyarrow")
    import pyarrow.parquet

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("caption", pa.list_(pa.string()))])
    red, blue = {"bytes": RED, "path": "0.png"}, {"bytes": BLUE, "path": "0.png"}
    (red_first, red_second), (blue_first, blue_second) = _english_texts()
    files = (
        [{"image": red, "caption": [red_first]}],
        [
            {"image": blue, "caption": [blue_first, blue_second]},
            {"image": red, "caption": [red_second]},
        ],
    )
    (folder / "data").mkdir(parents=True)
    for number, rows in enumerate(files):
        path = folder / "data" / f"train-{number:05d}-of-00002.parquet"
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=1)
    return _english("parquet")


def write_tar_txt(folder):
    (red, _), (blue, _) = _english_texts()
    files = [("red.v1.png", RED), ("red.v1.txt", red.encode())]
    files += [("blue.png", BLUE), ("blue.txt", blue.encode())]
    crawl_files.write_tar(folder / "shapes.tar", files)
    return _english("tar_txt", "crawl", tuple(texts[:1] for texts in ENGLISH))


def write_tar_languages(folder):
    files = []
    for name, image, texts in (("red", RED, RED_TEXTS), ("blue", BLUE, BLUE_TEXTS)):
        files += [(f"{name}.png", image)]
        files += [(f"{name}.{code}.txt", text.encode()) for code, text in texts]
    crawl_files.write_tar(folder / "shapes.tar", files)
    return Miniature("tar_languages", "crawl")


def write_tar_json(folder):
    """Writes captions as JSON objects by language, whose values are strings or lists."""
    contents = {"red": dict(RED_TEXTS), "blue": {code: [text] for code, text in BLUE_TEXTS}}
    files = []
    for name, image in (("red", RED), ("blue", BLUE)):
        content = json.dumps({"caption": contents[name]}).encode()
        files += [(f"{name}.png", image), (f"{name}.json", content)]
    crawl_files.write_tar(folder / "shapes.tar", files)
    return Miniature("tar_json", "crawl")


def write_coco(folder):
    ids = {"red.png": 1, "photos/blue.png": 2}
    images = [{"id": id, "file_name": name, "width": 6} for name, id in ids.items()]
    annotations = [
        {"id": id, "image_id": ids[name], "caption": text}
        for id, (name, _, text) in enumerate(_english_rows())
    ]
    content = {"info": {}, "images": images, "annotations": annotations}
    instances = {"images": images, "annotations": [{"id": 0, "image_id": 1, "bbox": [1]}]}
    files = {"annotations/my_captions_val.json": content, "annotations/instances.json": instances}
    write_files(folder, files | {f"val/{name}": data for name, data in IMAGES.items()})
    return dataclasses.replace(_english("coco"), split="val")


def _img2dataset(format):
    def write(folder):
        (red, _), (blue, _) = _english_texts()
        rows = [crawl_files.row("000000000", RED_JPEG, red)]
        rows += [crawl_files.row("000000001", BLUE_JPEG, blue), crawl_files.failed_row("000000002")]
        crawl_files.write_shard(folder, format, rows)
        return _english("img2dataset", "crawl", tuple(texts[:1] for texts in ENGLISH))

    return write


MINIATURES = {
    "wide": write_wide,
    "wide jsonl": write_wide_jsonl,
    "long": write_long,
    "captions": write_captions,
    "open_clip": write_open_clip,
    "excel cp1252": write_excel,
    "excel utf-8": write_excel_utf8,
    "excel utf-16": write_excel_utf16,
    "excel unicode text": write_excel_unicode_text,
    "metadata.jsonl": write_metadata_jsonl,
    "train/metadata.csv": write_metadata_csv,
    "parquet": write_parquet,
    "tar txt": write_tar_txt,
    "tar languages": write_tar_languages,
    "tar json": write_tar_json,
    "coco": write_coco,
    **{f"img2dataset {format}": _img2dataset(format) for format in crawl_files.FORMATS},
}


def _english(layout, dataset="table", texts=ENGLISH):
    return Miniature(layout, dataset, texts, {"language": "en"})


def _by_name():
    return dict(zip(IMAGES, (RED_TEXTS, BLUE_TEXTS), strict=True))


def _english_texts():
    return tuple(tuple(text for _, text in texts) for texts in ENGLISH)


def _interleaved():
    """Yields (image, language, text); the rows of an image are far apart."""
    for number in range(2):
        for name, texts in _by_name().items():
            yield (name, *texts[number])


def _english_rows():
    for number in range(2):
        for name, texts in zip(IMAGES, _english_texts(), strict=True):
            yield name, number, texts[number]


def _jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
