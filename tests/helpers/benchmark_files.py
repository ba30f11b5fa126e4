"""Miniatures of the test sets of multilingual benchmarks, in their published layouts."""

from tf_mural.datasets import glami, wit, xflickrco, xm3600

# Captions of image i in a language are "<language> <i>a" and, except in Bengali, "<language> <i>b".
XM3600_KEYS = ("000411001ff7dd4f", "00b4a0bf26c1f0c3")


def xm3600_rows():
    """Returns the two lines of captions.jsonl as dicts."""
    order = [code for code in xm3600.LANGUAGES if code != "he"]
    order.insert(order.index("it") + 1, "he")  # the published order
    rows = []
    for number, key in enumerate(XM3600_KEYS):
        row = {"image/key": key, "image/locale": "he"}
        for code in order:
            captions = xm3600_captions(code, number)
            row[code] = {
                "caption": captions,
                "caption/tokenized": captions,
                "caption/tokenized/lowercase": [caption.lower() for caption in captions],
            }
        rows.append(row)
    return rows


def xm3600_captions(code, number):
    """Returns the captions of an image in a language."""
    return [f"{code} {number}a"] + [f"{code} {number}b"] * (code != "bn")


def write_parquet(path, columns):
    """Writes a Parquet file; `columns`: {name: list of cells}. Bytes become images of datasets."""
    import pyarrow as pa
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    arrays = {}
    for name, cells in columns.items():
        if cells and isinstance(cells[0], bytes):
            cells = pa.array([{"bytes": cell, "path": None} for cell in cells], images)
        arrays[name] = cells
    pyarrow.parquet.write_table(pa.table(arrays), path)


def write_xm3600_parquet(folder, images):
    """Writes mteb's files; the rows of every second language are in the opposite order."""
    for position, code in enumerate(xm3600.LANGUAGES):
        order = (0, 1) if position % 2 == 0 else (1, 0)
        captions = [xm3600_captions(code, number) for number in order]
        columns = {
            "image_id": [XM3600_KEYS[number] for number in order],
            "image_locale": ["he", "he"],
            "captions": captions,
            "captions_tokenized": captions,
            "captions_tokenized_lowercase": captions,
            "image": [images[number] for number in order],
        }
        write_parquet(folder / f"data/{code}-00000-of-00001.parquet", columns)


def xflickrco_captions(code):
    """Returns the captions of both images in a language: one has outer blanks."""
    return [f" {code} eins\n", f"{code} zwei"]


def xflickrco_files():
    """Returns {path: content} of IGLUE's files; the id of a COCO image is an integer."""
    import json

    files = {}
    for code in xflickrco.LANGUAGES:
        first, second = xflickrco_captions(code)
        rows = [
            {"sentences": [first], "id": "1001", "img_path": "1001.jpg"},
            {"sentences": [second], "id": 7, "img_path": "COCO_val2014_000000000007.jpg"},
        ]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files[f"annotations/{code}/test.jsonl"] = lines
        files[f"annotations/{code}/train_1.jsonl"] = "not read"
    return files


def write_xflickrco_parquet(folder, images):
    """Writes mteb's files, whose captions are texts of Python lists."""
    for code in xflickrco.LANGUAGES:
        columns = {
            "sentences": [str([caption]) for caption in xflickrco_captions(code)],
            "id": ["1001", "7"],
            "image": images,
        }
        write_parquet(folder / f"data/{code}-00000-of-00001.parquet", columns)


def write_wit_parquet(folder, images):
    """Writes mteb's files: two images per language in Arabic, and one in the others."""
    for code in wit.LANGUAGES:
        count = 2 if code == "ar" else 0
        columns = {
            "image_id": [f"wit-test_{number}" for number in range(count)],
            "captions": [[f"{code} {number}", f"{code} {number}"] for number in range(count)],
            "image": images[:count],
        }
        write_parquet(folder / f"data/{code}-00000-of-00001.parquet", columns)


def _glami_rows():
    geos = {code: geo for geo, code in glami._COUNTRIES.items()}
    rows = ["item_id,image_id,geo,name,description,category,category_name,label_source"]
    for number, code in enumerate(glami.LANGUAGES):
        geo = geos.get(code, code)
        rows.append(f'{number},i{number},{geo}," {code} shirt ","red,\nwarm",1,tops,NA')
    rows += ["100,i5,cz,kabát,,2,coats,NA", "101,i12,cz,kabát ,,2,coats,NA"]
    rows += ["102,i12,cz,kabát,,2,coats,NA"]
    return "\n".join(rows) + "\n"


GLAMI = _glami_rows()


def cvqa_columns(images):
    """Returns the columns of two questions about one photograph; options have outer blanks."""
    questions = len(images)
    return {
        "image": images,
        "ID": [f"1234567890_{number}" for number in range(questions)],
        "Subset": ["('Japanese', 'Japan')"] * questions,
        "Question": ["これは何ですか? "] * questions,
        "Translated Question": ["What is this? "] * questions,
        "Options": [["城", " 橋 ", "駅", "塔"]] * questions,
        "Translated Options": [["castle", "bridge ", "station", "tower"]] * questions,
        "Label": [number % 4 for number in range(1, questions + 1)],
        "Category": ["Objects"] * questions,
        "Image Type": ["Self"] * questions,
        "Image Source": ["Self-open"] * questions,
        "License": ["CC BY-SA"] * questions,
    }


def write_cvqa(folder, images):
    """Writes one file of the split test."""
    write_parquet(folder / "data/test-00000-of-00001.parquet", cvqa_columns(images))


def write_mvl_sib(folder, images):
    """Writes five images and two sentences in two languages; candidates have no fixed order."""
    ids = [f"image-travel_{number}" for number in range(5)]
    candidates = [[ids[1], ids[0], ids[3], ids[2]], [ids[4], ids[1], ids[2], ids[3]]]
    for code, words in (("deu_Latn", ("eins", "zwei")), ("eng_Latn", ("one", "two"))):
        parts = {
            "corpus": {"id": ids, "image": images, "modality": ["image"] * 5},
            "queries": {"id": ["query-0", "query-1"], "text": list(words)},
            "qrels": {
                "query-id": ["query-0", "query-1"],
                "corpus-id": [ids[0], ids[4]],
                "score": [1, 1],
            },
            "top_ranked": {"query-id": ["query-0", "query-1"], "corpus-ids": candidates},
        }
        for part, columns in parts.items():
            write_parquet(folder / f"{code}-{part}/test-00000-of-00001.parquet", columns)
