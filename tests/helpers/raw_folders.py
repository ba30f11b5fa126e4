"""A small raw folder of every data set in its official layout.

All photographs come from the function `photograph`, except those of ImageNet. The folders contain
few irregular records, because these are tested in the test file of each data set.
"""

import json

from helpers import (
    benchmark_files,
    cifar100_files,
    crawl_files,
    imagenet_files,
    opus_files,
    sts2017_files,
)
from helpers.archives import tar_bytes, zip_bytes
from helpers.files import write_files
from helpers.images import plain_image


def photograph(color):
    """Returns the bytes of an image. Tests replace this function to make special images."""
    return plain_image(color)


def write_table(folder):
    write_files(folder, {"t.tsv": "image\ten\na.jpg\tred\nb.jpg\tblue\n"})
    write_files(folder, {"a.jpg": photograph("red"), "b.jpg": photograph("blue")})


def write_multi30k(folder, packed=False):
    names = ("1.jpg", "2.jpg")
    for task in ("task1/image_splits/train.txt", "task2/image_splits/train_images.txt"):
        write_files(folder, {f"data/{task}": "".join(f"{name}\n" for name in names)})
    for name in ("task1/raw/train.de", "task2/raw/train.1.de", "task2/raw/train.1.en"):
        write_files(folder, {f"data/{name}.gz": f"{name} 1\n{name} 2\n"})
    images = {f"flickr30k-images/{name}": photograph("red") for name in names}
    write_files(folder, {"flickr30k-images.tar.gz": tar_bytes(images)} if packed else images)


def write_opus(folder):
    folder.mkdir(parents=True)
    text = "".join(f"{n * n}\n" for n in range(999)).encode()
    opus_files.write_moses_zip(folder, first=text, second=text)


def write_tatoeba(folder):
    files = {"tatoeba.deu-eng.deu": "eins\nzwei\n", "tatoeba.deu-eng.eng": "one\ntwo\n"}
    write_files(folder, files)


def write_sts2017(folder, packed=True):
    files = {f"STS2017-extended/{name}": text for name, text in sts2017_files.TRACKS.items()}
    write_files(folder, {"STS2017-extended.zip": zip_bytes(files)} if packed else files)


def write_xtd10(folder):
    names = ("COCO_train2014_000000000001.jpg", "COCO_val2014_000000000002.jpg")
    write_files(folder, {"XTD10/test_image_names.txt": "".join(f"{name}\n" for name in names)})
    write_files(folder, {"XTD10/test_1kcaptions_en.txt": "one\ntwo\n"})
    write_files(folder, {f"{name.split('_')[1]}/{name}": photograph("red") for name in names})


def write_xtd200(folder):
    write_translations(folder, "test_image_names.txt", "COCO_val2014_00000000000{}.jpg")


def write_flickr30k_200(folder):
    write_translations(folder, "filenames.txt", "{}.jpg")


def write_translations(folder, image_list, pattern):
    """Writes two images, and a file of captions per FLORES code; eng_captions.txt is a copy."""
    names = [pattern.format(number) for number in (1, 2)]
    lines = {"eng_Latn": "one\ntwo\n", "eng_captions": "one\ntwo\n", "deu_Latn": "eins\nzwei\n"}
    write_files(folder, {image_list: "".join(f"{name}\n" for name in names)})
    write_files(folder, {f"{code}.txt": text for code, text in lines.items()})
    write_files(folder, {f"images/{name}": photograph("red") for name in names})


def write_xm3600(folder, packed=False):
    rows = benchmark_files.xm3600_rows()
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    images = {f"{row['image/key']}.jpg": photograph("red") for row in rows}
    if packed:
        files = {
            "captions.zip": zip_bytes({"captions.jsonl": lines}),
            "images.tgz": tar_bytes(images),
        }
    else:
        files = {"captions.jsonl": lines, **{f"images/{n}": data for n, data in images.items()}}
    write_files(folder, files)


def write_xm3600_parquet(folder):
    images = [photograph("red"), photograph("red")]
    benchmark_files.write_xm3600_parquet(folder, images)


def write_xflickrco(folder):
    write_files(folder, benchmark_files.xflickrco_files())
    write_files(folder, {"flickr30k-images/1001.jpg": photograph("red")})
    write_files(folder, {"val2014/COCO_val2014_000000000007.jpg": photograph("red")})


def write_xflickrco_parquet(folder):
    benchmark_files.write_xflickrco_parquet(folder, [photograph("red"), photograph("red")])


def write_wit(folder):
    benchmark_files.write_wit_parquet(folder, [photograph("red"), photograph("red")])


def write_glami(folder, packed=True):
    files = {"GLAMI-1M-dataset/GLAMI-1M-test.csv": benchmark_files.GLAMI}
    for number in range(13):
        files[f"GLAMI-1M-dataset/images/i{number}.jpg"] = photograph("red")
    archive = {"GLAMI-1M-dataset--test-only.zip": zip_bytes(files)} if packed else files
    write_files(folder, archive)


def write_cvqa(folder):
    benchmark_files.write_cvqa(folder, [photograph("red"), photograph("red")])


def write_mvl_sib(folder):
    benchmark_files.write_mvl_sib(folder, [photograph("red") for _ in range(5)])


def write_coco(folder, packed=False):
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
    splits, captions = json.dumps({"images": images}), json.dumps({"annotations": rows})
    photographs = {f"train2014/{image['filename']}": photograph("red") for image in images}
    if packed:
        files = {
            "caption_datasets.zip": zip_bytes({"dataset_coco.json": splits}),
            "train2014.zip": zip_bytes(photographs),
            "stair_captions_v1.2.tar.gz": tar_bytes(
                {"stair_captions_v1.2_train.json": captions.encode()}
            ),
        }
    else:
        lists = {"dataset_coco.json": splits, "annotations/captions_train2014.json": captions}
        files = lists | photographs
    write_files(folder, files)


def write_crawl(folder, format="webdataset"):
    rows = [
        crawl_files.row(f"00000000{n}", photograph("red"), f"text {n}", f"{n}") for n in range(3)
    ]
    crawl_files.write_shard(folder, format, rows, sidecar=False)
    (folder / "00000_stats.json").unlink()


def write_cc3m(folder):
    lines = "".join(f"text {n}\t{crawl_files.url(str(n))}\n" for n in range(3))
    write_files(folder, {"Train_GCC-training.tsv": lines})
    write_crawl(folder / "images")


def write_cc12m(folder):
    lines = "".join(f"{crawl_files.url(str(n))}\ttext {n}\n" for n in range(3))
    write_files(folder, {"cc12m.tsv": lines})
    write_crawl(folder / "images")


def write_uc2(folder):
    rows = [{"url": crawl_files.url(str(n)), "caption": {"en": f"text {n}"}} for n in range(3)]
    write_files(folder, {"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    write_crawl(folder / "images")


def write_cifar100(folder, version="binary"):
    folder.mkdir(parents=True)
    path = folder / f"cifar-100-{version}.tar.gz"
    cifar100_files.write_archive(path, cifar100_files.official_files(version))


def write_food101(folder, packed=True):
    files = {
        "meta/classes.txt": b"pie\n",
        "meta/train.json": b'{"pie": ["pie/1", "pie/2"]}',
        "meta/test.json": b'{"pie": ["pie/3"]}',
        **{f"images/pie/{number}.jpg": photograph("red") for number in (1, 2, 3)},
    }
    files = {f"food-101/{name}": data for name, data in files.items()}
    write_files(folder, {"food-101.tar.gz": tar_bytes(files)} if packed else files)


def write_sun397(folder, packed=True):
    lists = {
        "ClassName.txt": b"/a/abbey\n",
        "Training_01.txt": b"/a/abbey/1.jpg\n/a/abbey/2.jpg\n",
        "Testing_01.txt": b"/a/abbey/3.jpg\n",
    }
    files = {f"SUN397/a/abbey/{number}.jpg": photograph("red") for number in (1, 2, 3)}
    if packed:
        files = {"SUN397.tar.gz": tar_bytes(files), "Partitions.zip": zip_bytes(lists)}
    else:
        files |= {f"Partitions/{name}": data for name, data in lists.items()}
    write_files(folder, files)


def write_imagenet(folder, packed=True):
    """Writes three classes; the test must set `imagenet._NUM_CLASSES` to 3."""
    files = imagenet_files.as_archives() if packed else imagenet_files.as_folders()
    write_files(folder, files)


# {name of a raw folder: tuple (data set, split, function that writes the folder)}
FOLDERS = {
    "table": ("table", "train", write_table),
    "multi30k": ("multi30k", "train", write_multi30k),
    "multi30k, packed": ("multi30k", "train", lambda folder: write_multi30k(folder, True)),
    "opus": ("opus", "train", write_opus),
    "ccmatrix": ("ccmatrix", "train", write_opus),
    "tatoeba": ("tatoeba", "test", write_tatoeba),
    "sts2017": ("sts2017", "test", write_sts2017),
    "sts2017, unpacked": ("sts2017", "test", lambda folder: write_sts2017(folder, False)),
    "xtd10": ("xtd10", "test", write_xtd10),
    "xtd200": ("xtd200", "test", write_xtd200),
    "flickr30k_200": ("flickr30k_200", "test", write_flickr30k_200),
    "xm3600": ("xm3600", "test", write_xm3600),
    "xm3600, packed": ("xm3600", "test", lambda folder: write_xm3600(folder, True)),
    "xm3600, Parquet": ("xm3600", "test", write_xm3600_parquet),
    "xflickrco": ("xflickrco", "test", write_xflickrco),
    "xflickrco, Parquet": ("xflickrco", "test", write_xflickrco_parquet),
    "wit": ("wit", "test", write_wit),
    "glami": ("glami", "test", write_glami),
    "glami, unpacked": ("glami", "test", lambda folder: write_glami(folder, False)),
    "cvqa": ("cvqa", "test", write_cvqa),
    "mvl_sib": ("mvl_sib", "test", write_mvl_sib),
    "coco": ("coco", "train", write_coco),
    "coco, packed": ("coco", "train", lambda folder: write_coco(folder, True)),
    "crawl": ("crawl", "train", write_crawl),
    "crawl of files": ("crawl", "train", lambda folder: write_crawl(folder, "files")),
    "cc3m": ("cc3m", "train", write_cc3m),
    "cc12m": ("cc12m", "train", write_cc12m),
    "uc2": ("uc2", "train", write_uc2),
    "cifar100": ("cifar100", "train", write_cifar100),
    "cifar100, python": ("cifar100", "train", lambda folder: write_cifar100(folder, "python")),
    "food101": ("food101", "train", write_food101),
    "food101, unpacked": ("food101", "train", lambda folder: write_food101(folder, False)),
    "sun397": ("sun397", "train", write_sun397),
    "sun397, unpacked": ("sun397", "train", lambda folder: write_sun397(folder, False)),
    "imagenet": ("imagenet", "train", write_imagenet),
    "imagenet, unpacked": ("imagenet", "train", lambda folder: write_imagenet(folder, False)),
    "imagenet, val": ("imagenet", "val", write_imagenet),
}
