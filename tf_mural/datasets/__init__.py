"""The data sets that `tools/convert.py` knows, one file or folder each.

A data set is a module with

    plan(raw_dir, split, **options)   list of units: ranges of the input, as plain picklable data
    read(unit)                        iterator of records.Record and records.Dropped
    SPLITS, AUGMENTATIONS             names of its splits, and what training may do to its images
    USUAL_AUGMENTATIONS               optional: what of that goes without asking, where not all does
    splits(raw_dir, **options)        optional: the splits, where they depend on the raw data
    classes(raw_dir, **options)       optional: names of the labels, in order
    fingerprint(raw_dir, split, **options)  optional: hash of the input, where a user may change it
    VERSION                           optional: raised when the same input gives other records

Each unit becomes one shard or more, and may be read in a process of its own, which imports no
TensorFlow.
"""

import dataclasses

from tf_mural.datasets import coco, crawl, multi30k, opus, scenes, sts2017, table, tatoeba, xtd10
from tf_mural.datasets.classification import cifar100, food101, imagenet, sun397
from tf_mural.datasets.crawl import cc3m, cc12m, uc2

DATASETS = {
    "scenes": scenes,
    "table": table,
    "multi30k": multi30k,
    "ccmatrix": opus,
    "opus": opus,
    "tatoeba": tatoeba,
    "sts2017": sts2017,
    "xtd10": xtd10,
    "coco": coco,
    "cc3m": cc3m,
    "cc12m": cc12m,
    "crawl": crawl,
    "uc2": uc2,
    "cifar100": cifar100,
    "food101": food101,
    "sun397": sun397,
    "imagenet": imagenet,
}


@dataclasses.dataclass(frozen=True)
class About:
    """What a data set is, for people.

    Attributes:
        what: in a line.
        homepage: where it is found, or "".
        licence: its terms in a few words.
        download: what raw_dir is to hold, or "" where it needs none.
        splits: in words, where `SPLITS` does not say it.
    """

    what: str
    homepage: str
    licence: str
    download: str = ""
    splits: str = ""


ABOUT = {
    "scenes": About(
        "pictures of two objects, drawn on the spot, with captions in 12 languages",
        "",
        "Apache-2.0",
    ),
    "table": About(
        "one's own TSV, CSV or JSONL of image paths and texts",
        "",
        "your own",
        "the table, and the images that it names",
        "those of the table",
    ),
    "multi30k": About(
        "photographs of Flickr30K, five captions each in English and German, and translations of "
        "one to German, French and Czech",
        "https://github.com/multi30k/dataset",
        "non-commercial research and education",
        "flickr30k-images.tar.gz, or the folder that it unpacks to, by the form at "
        "https://shannon.cs.illinois.edu/DenotationGraph/; "
        "dataset/data, by git clone of the home page",
    ),
    "ccmatrix": About(
        "1,197 bitexts of 90 languages, mined from web pages",
        "https://opus.nlpl.eu/CCMatrix.php",
        "that of the web pages; see the home page",
        "zips such as de-en.txt.zip, from Moses in the table of the home page",
    ),
    "opus": About(
        "any other bitext of OPUS",
        "https://opus.nlpl.eu",
        "its own, in the zip",
        "zips such as de-en.txt.zip, from Moses in the table of the corpus",
    ),
    "tatoeba": About(
        "sentences of 112 languages with English translations, a test set",
        "https://github.com/facebookresearch/LASER/tree/main/data/tatoeba/v1",
        "CC BY 2.0 FR",
        "the files of the home page, or a clone of LASER",
    ),
    "sts2017": About(
        "sentence pairs with how alike they are, ten tracks of eight languages, a test set",
        "https://sbert.net/datasets/STS2017-extended.zip",
        "CC BY-SA 4.0",
        "STS2017-extended.zip",
    ),
    "xtd10": About(
        "1,000 photographs of COCO with a caption in each of 11 languages, a test set",
        "https://github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10",
        "non-commercial research; photographs: COCO's terms of use",
        "a clone of the home page; for the split test also train2014 and val2014 of COCO",
        "test, where there are photographs; texts, without them",
    ),
    "coco": About(
        "123,287 photographs with five captions or more in English, and in Japanese, Korean or any "
        "language that one has texts in",
        "https://cocodataset.org",
        "captions: CC BY 4.0; photographs: Flickr's terms of use",
        "train2014.zip, val2014.zip and annotations_trainval2014.zip of the home page, or what is "
        "in them; caption_datasets.zip of https://cs.stanford.edu/people/karpathy/deepimagesent, "
        "or dataset_coco.json of it; if wanted, Japanese: stair_captions_v1.2.tar.gz of "
        "https://github.com/STAIR-Lab-CIT/STAIR-captions; Korean: MSCOCO_train_val_Korean.json of "
        "https://aihub.or.kr (dataset 261)",
        "Karpathy's train, val, test and restval; texts: train without photographs",
    ),
    "cc3m": About(
        "3.3 million photographs of the web with their alt-texts (Conceptual Captions)",
        "https://ai.google.com/research/ConceptualCaptions",
        "captions: free to use, with acknowledgement; photographs: their owners'",
        "Train_GCC-training.tsv and Validation_GCC-1.1.0-Validation.tsv of the home page, and at "
        "any depth what img2dataset downloaded of their links",
        "train and val, whichever has a list and images",
    ),
    "cc12m": About(
        "12.4 million photographs of the web with their alt-texts (Conceptual 12M)",
        "https://github.com/google-research-datasets/conceptual-12m",
        "captions: free to use, with acknowledgement; photographs: their owners'",
        "cc12m.tsv of the home page, and at any depth what img2dataset downloaded of its links, or "
        "tars of others that have a url in each .json",
    ),
    "crawl": About(
        "any other images of the web, with the captions that lie beside them",
        "https://github.com/rom1504/img2dataset",
        "that of the web pages",
        "what img2dataset wrote (webdataset, files, parquet or tfrecord), or tars of .jpg and .txt "
        "that others host, such as cc3m-train-0000.tar",
        "by the names of the files; train where they name none",
    ),
    "uc2": About(
        "Conceptual Captions with translations to German, French, Czech, Japanese and Chinese",
        "https://github.com/zmykevin/UC2",
        "see the home page",
        'a JSONL of lines {"url": ..., "caption": {"en": ..., "de": ...}}, or the folders '
        "conceptual_caption_en_train.db and so on; and what img2dataset downloaded for cc3m",
        "train and val, whichever has texts",
    ),
    "cifar100": About(
        "60,000 pictures of 32x32 pixels in 100 classes",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "not stated",
        "cifar-100-binary.tar.gz or cifar-100-python.tar.gz, or what it unpacks to",
    ),
    "food101": About(
        "101,000 photographs of 101 dishes",
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        "scientific fair use; photographs: their owners' on Foodspotting",
        "food-101.tar.gz, or what it unpacks to",
    ),
    "sun397": About(
        "photographs of 397 kinds of places",
        "https://vision.princeton.edu/projects/2010/SUN",
        "not stated",
        "SUN397.tar.gz and Partitions.zip, or what they unpack to",
        "train and test, of the partition that is asked for",
    ),
    "imagenet": About(
        "1.28 million photographs of 1,000 classes, and 50,000 to validate on (ILSVRC 2012)",
        "https://image-net.org/download-images",
        "non-commercial research and education",
        "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and, for val, "
        "ILSVRC2012_devkit_t12.tar.gz, or folders train, val and ILSVRC2012_devkit_t12 of what is "
        "in them",
        "train and val, whichever is there",
    ),
}
