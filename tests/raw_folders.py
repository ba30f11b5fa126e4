"""A raw folder in small for every data set, in the layouts that their home pages hand out.

What odd records of a corpus become is tested with its converter; these have few. All photographs
are those of `jpeg`, but for ImageNet's.
"""

import gzip
import io
import json
import tarfile
import zipfile

import crawl_files
import test_opus
from helpers import cifar100_files, imagenet_files, sts2017_files
from PIL import Image


def jpeg(color, size=(6, 4)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "JPEG")
    return buffer.getvalue()


def put(folder, files):
    """Writes files, bytes or text or what is to be JSON, by their paths."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(data, bytes):
            data = (data if isinstance(data, str) else json.dumps(data)).encode()
        path.write_bytes(data)


def tarred(files, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def table(folder):
    put(folder, {"t.tsv": "image\ten\na.jpg\tred\nb.jpg\tblue\n"})
    put(folder, {"a.jpg": jpeg("red"), "b.jpg": jpeg("blue")})


def multi30k(folder, packed=False):
    names = ("1.jpg", "2.jpg")
    for task in ("task1/image_splits/train.txt", "task2/image_splits/train_images.txt"):
        put(folder, {f"data/{task}": "".join(f"{name}\n" for name in names)})
    for name in ("task1/raw/train.de", "task2/raw/train.1.de", "task2/raw/train.1.en"):
        put(folder, {f"data/{name}.gz": gzip.compress(f"{name} 1\n{name} 2\n".encode())})
    photographs = {f"flickr30k-images/{name}": jpeg("red") for name in names}
    if packed:
        put(folder, {"flickr30k-images.tar.gz": tarred(photographs)})
    else:
        put(folder, photographs)


def opus(folder):
    folder.mkdir(parents=True)
    text = "".join(f"{n * n}\n" for n in range(999)).encode()
    test_opus.moses(folder, first=text, second=text)


def tatoeba(folder):
    put(folder, {"tatoeba.deu-eng.deu": "eins\nzwei\n", "tatoeba.deu-eng.eng": "one\ntwo\n"})


def sts2017(folder, packed=True):
    files = {f"STS2017-extended/{name}": text for name, text in sts2017_files.TRACKS.items()}
    put(folder, {"STS2017-extended.zip": zipped(files)} if packed else files)


def xtd10(folder):
    names = ("COCO_train2014_000000000001.jpg", "COCO_val2014_000000000002.jpg")
    put(folder, {"XTD10/test_image_names.txt": "".join(f"{name}\n" for name in names)})
    put(folder, {"XTD10/test_1kcaptions_en.txt": "one\ntwo\n"})
    put(folder, {f"{name.split('_')[1]}/{name}": jpeg("red") for name in names})


def coco(folder, packed=False):
    images = [
        {
            "filepath": "train2014",
            "filename": f"COCO_train2014_{number:012}.jpg",
            "cocoid": number,
            "split": "train",
            "sentences": [{"raw": f"listed {number}", "tokens": ["listed"]}],
        }
        for number in (1, 2)
    ]
    rows = [{"image_id": number, "id": number, "caption": f"text {number}"} for number in (1, 2)]
    lists = {
        "dataset_coco.json": json.dumps({"images": images}),
        "annotations/captions_train2014.json": json.dumps({"annotations": rows}),
    }
    photographs = {f"train2014/{image['filename']}": jpeg("red") for image in images}
    if not packed:
        put(folder, lists | photographs)
        return
    put(folder, {"caption_datasets.zip": zipped({"dataset_coco.json": lists["dataset_coco.json"]})})
    put(folder, {"train2014.zip": zipped(photographs)})
    name = "stair_captions_v1.2_train.json"
    put(folder, {"stair_captions_v1.2.tar.gz": tarred({name: list(lists.values())[1].encode()})})


def crawl(folder, form="webdataset"):
    rows = [crawl_files.row(f"00000000{n}", jpeg("red"), f"text {n}", f"{n}") for n in range(3)]
    crawl_files.write(folder, form, rows, told=False)
    (folder / "00000_stats.json").unlink()


def cc3m(folder):
    lines = "".join(f"text {n}\t{crawl_files.url(str(n))}\n" for n in range(3))
    put(folder, {"Train_GCC-training.tsv": lines})
    crawl(folder / "images")


def cc12m(folder):
    lines = "".join(f"{crawl_files.url(str(n))}\ttext {n}\n" for n in range(3))
    put(folder, {"cc12m.tsv": lines})
    crawl(folder / "images")


def uc2(folder):
    rows = [{"url": crawl_files.url(str(n)), "caption": {"en": f"text {n}"}} for n in range(3)]
    put(folder, {"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    crawl(folder / "images")


def cifar100(folder, form="binary"):
    folder.mkdir(parents=True)
    cifar100_files.write_archive(
        folder / f"cifar-100-{form}.tar.gz", cifar100_files.official_files(form)
    )


def food101(folder, packed=True):
    files = {
        "meta/classes.txt": b"pie\n",
        "meta/train.json": b'{"pie": ["pie/1", "pie/2"]}',
        "meta/test.json": b'{"pie": ["pie/3"]}',
        **{f"images/pie/{number}.jpg": jpeg("red") for number in (1, 2, 3)},
    }
    files = {f"food-101/{name}": data for name, data in files.items()}
    put(folder, {"food-101.tar.gz": tarred(files)} if packed else files)


def sun397(folder, packed=True):
    lists = {
        "ClassName.txt": b"/a/abbey\n",
        "Training_01.txt": b"/a/abbey/1.jpg\n/a/abbey/2.jpg\n",
        "Testing_01.txt": b"/a/abbey/3.jpg\n",
    }
    files = {f"SUN397/a/abbey/{number}.jpg": jpeg("red") for number in (1, 2, 3)}
    if packed:
        put(folder, {"SUN397.tar.gz": tarred(files), "Partitions.zip": zipped(lists)})
    else:
        put(folder, files | {f"Partitions/{name}": data for name, data in lists.items()})


def imagenet(folder, packed=True):
    """Its three classes need `imagenet._NUM_CLASSES` of 3."""
    files = imagenet_files.as_archives() if packed else imagenet_files.as_folders()
    put(folder, files)


# Name of each raw folder: (data set, split, function that makes it).
FOLDERS = {
    "table": ("table", "train", table),
    "multi30k": ("multi30k", "train", multi30k),
    "multi30k, packed": ("multi30k", "train", lambda folder: multi30k(folder, True)),
    "opus": ("opus", "train", opus),
    "ccmatrix": ("ccmatrix", "train", opus),
    "tatoeba": ("tatoeba", "test", tatoeba),
    "sts2017": ("sts2017", "test", sts2017),
    "sts2017, unpacked": ("sts2017", "test", lambda folder: sts2017(folder, False)),
    "xtd10": ("xtd10", "test", xtd10),
    "coco": ("coco", "train", coco),
    "coco, packed": ("coco", "train", lambda folder: coco(folder, True)),
    "crawl": ("crawl", "train", crawl),
    "crawl of files": ("crawl", "train", lambda folder: crawl(folder, "files")),
    "cc3m": ("cc3m", "train", cc3m),
    "cc12m": ("cc12m", "train", cc12m),
    "uc2": ("uc2", "train", uc2),
    "cifar100": ("cifar100", "train", cifar100),
    "cifar100, python": ("cifar100", "train", lambda folder: cifar100(folder, "python")),
    "food101": ("food101", "train", food101),
    "food101, unpacked": ("food101", "train", lambda folder: food101(folder, False)),
    "sun397": ("sun397", "train", sun397),
    "sun397, unpacked": ("sun397", "train", lambda folder: sun397(folder, False)),
    "imagenet": ("imagenet", "train", imagenet),
    "imagenet, unpacked": ("imagenet", "train", lambda folder: imagenet(folder, False)),
    "imagenet, val": ("imagenet", "val", imagenet),
}
