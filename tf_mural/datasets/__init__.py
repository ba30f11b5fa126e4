"""The data sets that the converter supports; each is a module.

A data set is a module with

    plan(raw_dir, split, **options)   returns a list of units: ranges of the input, as plain
                                      picklable data
    read(unit)                        yields records.Record and records.Skipped
    SPLITS, AUGMENTATIONS             names of its splits; augmentations of its images that training
                                      may use
    USUAL_AUGMENTATIONS               optional: the default augmentations, if not all are
    splits(raw_dir, **options)        optional: the splits, if they depend on the raw data
    classes(raw_dir, **options)       optional: names of the labels, in order
    vectors(raw_dir, **options)       optional: {name: description} of the vectors of its records,
                                      see records.describe_vectors
    fingerprint(raw_dir, split, **options)  optional: hash of the input, if a user may change it
    VERSION                           optional: increased when the same input gives other records

Each unit becomes one or more shards. A unit may be read in a worker process, which does not import
TensorFlow.
"""

import dataclasses

from tf_mural.datasets import (
    coco,
    crawl,
    cvqa,
    flores_captions,
    glami,
    multi30k,
    mvl_sib,
    opus,
    scenes,
    sts2017,
    table,
    tatoeba,
    wit,
    xflickrco,
    xm3600,
    xtd10,
)
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
    "xtd200": flores_captions,
    "flickr30k_200": flores_captions,
    "xm3600": xm3600,
    "xflickrco": xflickrco,
    "wit": wit,
    "glami": glami,
    "cvqa": cvqa,
    "mvl_sib": mvl_sib,
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
class DatasetInfo:
    """Description of a data set for its users.

    Attributes:
        description: one line.
        homepage: its URL, or "".
        license: its terms of use in a few words.
        raw_data: required contents of raw_dir, or "" if the data set needs no raw data.
        splits: description of the splits if `SPLITS` does not list them, or "".
    """

    description: str
    homepage: str
    license: str
    raw_data: str = ""
    splits: str = ""


DATASET_INFO = {
    "scenes": DatasetInfo(
        "generated images of two objects, with captions in 12 languages",
        "",
        "Apache-2.0",
    ),
    "table": DatasetInfo(
        "your own table of images and texts: TSV, CSV, JSONL, Parquet, or COCO's JSON of captions",
        "",
        "your own",
        "the table, and the images that it names",
        "those in the table",
    ),
    "multi30k": DatasetInfo(
        "photographs of Flickr30K with five captions each in English and in German, and "
        "translations of one caption to German, French and Czech",
        "https://github.com/multi30k/dataset",
        "non-commercial research and education",
        "flickr30k-images.tar.gz, or the folder that it unpacks to, requested with the form at "
        "https://shannon.cs.illinois.edu/DenotationGraph/; "
        "dataset/data of a git clone of the home page",
    ),
    "ccmatrix": DatasetInfo(
        "1,197 bitexts of 90 languages, mined from web pages",
        "https://opus.nlpl.eu/CCMatrix.php",
        "that of the web pages; see the home page",
        "zips such as de-en.txt.zip, linked as Moses in the table of the home page",
    ),
    "opus": DatasetInfo(
        "any other bitext of OPUS",
        "https://opus.nlpl.eu",
        "see the zip",
        "zips such as de-en.txt.zip, linked as Moses in the table of the corpus",
    ),
    "tatoeba": DatasetInfo(
        "sentences in 112 languages with English translations; a test set",
        "https://github.com/facebookresearch/LASER/tree/main/data/tatoeba/v1",
        "CC BY 2.0 FR",
        "the files of the home page, or a clone of LASER",
    ),
    "sts2017": DatasetInfo(
        "sentence pairs with similarity scores: ten tracks in eight languages; a test set",
        "https://sbert.net/datasets/STS2017-extended.zip",
        "CC BY-SA 4.0",
        "STS2017-extended.zip",
    ),
    "xtd10": DatasetInfo(
        "1,000 photographs of COCO with a caption in each of 11 languages; a test set",
        "https://github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10",
        "non-commercial research; photographs: COCO's terms of use",
        "a clone of the home page; for the split test also train2014 and val2014 of COCO",
        "test with the photographs, texts without them",
    ),
    "xtd200": DatasetInfo(
        "the photographs of XTD10 with captions in 201 languages, translated by machine; a test "
        "set",
        "https://github.com/visheratin/nllb-clip",
        "not stated; photographs: COCO's terms of use",
        "the folder data/xtd200 of a clone of the home page; for the split test also train2014 and "
        "val2014 of COCO",
        "test with the photographs, texts without them",
    ),
    "flickr30k_200": DatasetInfo(
        "1,000 photographs of Flickr30K with captions in 201 languages, translated by machine; a "
        "test set",
        "https://github.com/visheratin/nllb-clip",
        "not stated; photographs: non-commercial research and education",
        "the folder data/flickr30k-200 of a clone of the home page; for the split test also "
        "flickr30k-images.tar.gz, or the folder that it unpacks to, named by the option images",
        "test with the photographs, texts without them",
    ),
    "xm3600": DatasetInfo(
        "Crossmodal-3600: 3,600 photographs with 261,375 captions in 36 languages; a test set",
        "https://google.github.io/crossmodal-3600",
        "captions: CC BY 4.0; photographs: that of Open Images",
        "captions.jsonl or captions.zip, and images.tgz or the folder that it unpacks to; or the "
        "Parquet files of https://huggingface.co/datasets/mteb/xm3600",
    ),
    "xflickrco": DatasetInfo(
        "2,000 photographs of Flickr30K and COCO with a caption in each of 8 languages; a test set "
        "of IGLUE",
        "https://github.com/e-bug/iglue",
        "MIT; photographs: those of Flickr30K and COCO",
        "datasets/xFlickrCO of a clone of the home page, and the photographs of Flickr30K and of "
        "COCO's val2014; or the Parquet files of https://huggingface.co/datasets/mteb/xflickrco",
        "test with the captions, mteb with captions as mteb publishes them",
    ),
    "wit": DatasetInfo(
        "8,553 images of Wikipedia with captions in 11 languages; a test set of IGLUE",
        "https://github.com/e-bug/iglue",
        "CC BY-SA 3.0; images: see Wikipedia",
        "the Parquet files of https://huggingface.co/datasets/mteb/wit; for the split texts "
        "datasets/wit of a clone of the home page",
        "test with the images, texts without them",
    ),
    "glami": DatasetInfo(
        "GLAMI-1M: 116,004 products with images and descriptions in 13 languages; a test set",
        "https://github.com/glami/glami-1m",
        "Apache-2.0",
        "GLAMI-1M-dataset--test-only.zip, or its unpacked contents",
    ),
    "cvqa": DatasetInfo(
        "10,374 questions about photographs with four options, in 31 languages and in English; a "
        "test set",
        "https://huggingface.co/datasets/afaji/cvqa",
        "that of each photograph, some only for research",
        "the Parquet files of the home page, in a revision with labels",
    ),
    "mvl_sib": DatasetInfo(
        "3,012 sentences in 205 languages with four candidate images each; a test set",
        "https://huggingface.co/datasets/WueNLP/mvl-sib",
        "CC BY-SA 4.0",
        "the Parquet files of https://huggingface.co/datasets/artist/mvl-sib-sent2img-mteb",
    ),
    "coco": DatasetInfo(
        "123,287 photographs with at least five captions in English, and captions in Japanese, "
        "Korean or any language that you have texts in",
        "https://cocodataset.org",
        "captions: CC BY 4.0; photographs: Flickr's terms of use",
        "train2014.zip, val2014.zip and annotations_trainval2014.zip of the home page, or their "
        "contents; caption_datasets.zip of https://cs.stanford.edu/people/karpathy/deepimagesent, "
        "or its dataset_coco.json; optionally Japanese: stair_captions_v1.2.tar.gz of "
        "https://github.com/STAIR-Lab-CIT/STAIR-captions; Korean: MSCOCO_train_val_Korean.json of "
        "https://aihub.or.kr (dataset 261)",
        "Karpathy's train, val, test and restval; texts is train without photographs",
    ),
    "cc3m": DatasetInfo(
        "3.3 million web photographs with their alt-texts (Conceptual Captions)",
        "https://ai.google.com/research/ConceptualCaptions",
        "captions: free to use, with acknowledgement; photographs: that of their owners",
        "Train_GCC-training.tsv and Validation_GCC-1.1.0-Validation.tsv of the home page, and at "
        "any depth the files that img2dataset downloaded from their links",
        "train and val, if they have a list and images",
    ),
    "cc12m": DatasetInfo(
        "12.4 million web photographs with their alt-texts (Conceptual 12M)",
        "https://github.com/google-research-datasets/conceptual-12m",
        "captions: free to use, with acknowledgement; photographs: that of their owners",
        "cc12m.tsv of the home page, and at any depth the files that img2dataset downloaded from "
        "its links, or tars of other hosts that have a url in each .json",
    ),
    "crawl": DatasetInfo(
        "any other web images, with the captions in the files next to them",
        "https://github.com/rom1504/img2dataset",
        "that of the web pages",
        "output of img2dataset (webdataset, files, parquet or tfrecord), or tars of .jpg and .txt "
        "from other hosts, such as cc3m-train-0000.tar",
        "those in the names of the files; train if they contain none",
    ),
    "uc2": DatasetInfo(
        "Conceptual Captions with translations to German, French, Czech, Japanese and Chinese",
        "https://github.com/zmykevin/UC2",
        "see the home page",
        'a JSONL of lines {"url": ..., "caption": {"en": ..., "de": ...}}, or the folders '
        "conceptual_caption_en_train.db and so on; and the images that img2dataset downloaded "
        "for cc3m",
        "train and val, if they have texts",
    ),
    "cifar100": DatasetInfo(
        "60,000 images of 32x32 pixels in 100 classes",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "not stated",
        "cifar-100-binary.tar.gz or cifar-100-python.tar.gz, or its unpacked contents",
    ),
    "food101": DatasetInfo(
        "101,000 photographs of 101 dishes",
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        "scientific fair use; photographs: that of their owners on Foodspotting",
        "food-101.tar.gz, or its unpacked contents",
    ),
    "sun397": DatasetInfo(
        "photographs of 397 categories of places",
        "https://vision.princeton.edu/projects/2010/SUN",
        "not stated",
        "SUN397.tar.gz and Partitions.zip, or their unpacked contents",
        "train and test of the chosen partition",
    ),
    "imagenet": DatasetInfo(
        "1.28 million photographs of 1,000 classes, and 50,000 for validation (ILSVRC 2012)",
        "https://image-net.org/download-images",
        "non-commercial research and education",
        "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and, for val, "
        "ILSVRC2012_devkit_t12.tar.gz, or folders train, val and ILSVRC2012_devkit_t12 with their "
        "contents",
        "train and val, if they exist",
    ),
}
