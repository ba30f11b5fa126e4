"""Runs a small model inside mteb and sentence-transformers; prints "ok" if all values agree.

`test_mteb.py` runs this script with the interpreter of an environment that has the requirements of
this package and of mteb. The argument is an empty folder.
"""

import inspect
import sys

import mteb
import numpy as np
from datasets import Dataset, Image
from helpers import guide_models
from helpers.images import blurred_noise, encode
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.models_protocols import EncoderProtocol
from PIL import Image as Pillow
from sentence_transformers import SentenceTransformer, util

import tf_mural
from tf_mural.data.records import Record
from tf_mural.evaluation import retrieval
from tf_mural.integrations.mteb import MTEBEncoder

COUNT = 9
LANGUAGES = {"deu": ("deu-Latn", "de"), "eng": ("eng-Latn", "en")}
WORDS = {"de": "ein roter Kreis neben Quadrat Stern blau", "en": "a red circle next to star blue"}


def images():
    """Returns the bytes of different images.

    There are no equal images and texts: PyTorch may compute scores of equal vectors with different
    rounding, so that mteb's order of equal items is that of the last digits.
    """
    return [encode(blurred_noise(seed, 64, 64)) for seed in range(COUNT)]


def captions(code, image):
    """Returns one to three different captions of an image."""
    random = np.random.default_rng([image, len(code), ord(code[0])])
    words = WORDS[code].split()
    return [" ".join(random.permutation(words)[: 3 + n]) for n in range(1 + image % 3)]


def task(category):
    """Returns a task of mteb whose data are in memory; category: "t2i" or "i2t"."""
    metadata = TaskMetadata(
        name=f"Miniature{category.upper()}",
        description="A miniature of XM3600.",
        reference=None,
        dataset={"path": "NA", "revision": "NA"},
        type="Any2AnyMultilingualRetrieval",
        category=category,
        modalities=["text", "image"],
        eval_splits=["test"],
        eval_langs={name: [tag] for name, (tag, _) in LANGUAGES.items()},
        main_score="ndcg_at_10",
    )

    class Miniature(AbsTaskRetrieval):
        def load_data(self, **kwargs):
            self.dataset = {
                name: {"test": split_data(code, category)} for name, (_, code) in LANGUAGES.items()
            }
            self.data_loaded = True

    Miniature.metadata = metadata
    return Miniature()


def split_data(code, category):
    """Returns the data of a language, with the ids of mteb's task of XM3600."""
    pictures = [{"bytes": data, "path": None} for data in images()]
    is_t2i = category == "t2i"
    prefixes = ("query", "corpus") if is_t2i else ("corpus", "query")
    texts = {
        f"{prefixes[0]}-{image}-{number}": text
        for image in range(COUNT)
        for number, text in enumerate(captions(code, image))
    }
    text_rows = Dataset.from_dict({"id": list(texts), "text": list(texts.values())})
    names = [f"{prefixes[1]}-{image}" for image in range(COUNT)]
    image_rows = Dataset.from_dict({"id": names, "image": pictures}).cast_column("image", Image())
    relevant = {}
    for name in texts:
        image = f"{prefixes[1]}-{name.split('-')[1]}"
        query, document = (name, image) if is_t2i else (image, name)
        relevant.setdefault(query, {})[document] = 1
    queries, corpus = (text_rows, image_rows) if is_t2i else (image_rows, text_rows)
    return RetrievalSplitData(
        queries=queries, corpus=corpus, relevant_docs=relevant, top_ranked=None
    )


def check_mteb(embedder):
    """Compares the scores of mteb with those of the protocol retrieval/mteb."""
    model = MTEBEncoder(embedder, name="tf_mural/miniature")
    assert isinstance(model, EncoderProtocol)
    records = [
        Record(f"{i}", (data,), tuple((c, t) for c in WORDS for t in captions(c, i)))
        for i, data in enumerate(images())
    ]
    ours = retrieval.run(embedder, records, protocol="mteb").values
    for category in ("t2i", "i2t"):
        results = mteb.evaluate(model, [task(category)], cache=None, overwrite_strategy="always")
        scores = {s["hf_subset"]: s for s in results.task_results[0].scores["test"]}
        for name, (_, code) in LANGUAGES.items():
            pairs = {"ndcg_at_10": "ndcg10", "hit_rate_at_1": "hit1", "hit_rate_at_5": "hit5"}
            for key, metric in pairs.items():
                value = ours[code][f"{category}_{metric}"] / 100
                assert abs(scores[name][key] - value) < 6e-6, (category, name, key, value)
    assert 0 < ours["de"]["t2i_ndcg10"] < 100


def check_sentence_transformers(embedder):
    """Uses an embedder where sentence-transformers expects its own model."""
    for method in ("encode", "encode_query", "encode_document"):
        expected = inspect.signature(getattr(SentenceTransformer, method)).parameters
        actual = inspect.signature(getattr(type(embedder), method)).parameters
        assert list(actual) == list(expected), (method, list(expected))
    rows = embedder.encode(["a red circle", "ein Kreis"])
    expected = embedder.embed_texts(["a red circle", "ein Kreis"])
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert embedder.encode("a red circle").shape == (embedder.width,)
    tensor = embedder.encode(["a red circle"], convert_to_tensor=True)
    np.testing.assert_allclose(tensor.numpy(), rows[:1], atol=1e-6)
    picture = Pillow.fromarray(np.zeros((20, 20, 3), np.uint8))
    mixed = embedder.encode([picture, {"text": "ein Kreis"}, {"image": picture}])
    np.testing.assert_allclose(mixed[0], mixed[2], atol=1e-6)
    np.testing.assert_allclose(mixed[1], rows[1], atol=1e-6)
    corpus = ["blue star", "a red circle", "next to"]
    tensors = embedder.encode(corpus, convert_to_tensor=True, normalize_embeddings=True)
    matches = util.semantic_search(
        embedder.encode(["a red circle"], convert_to_tensor=True), tensors
    )
    assert matches[0][0]["corpus_id"] == 1 and matches[0][0]["score"] > 0.999, matches
    pairs = util.paraphrase_mining(embedder, ["a red circle", "next to", "a red circle"], top_k=1)
    assert pairs[0][1:] == [0, 2], pairs


def main(folder):
    """Loads the model and runs all checks."""
    embedder = tf_mural.Embedder.load(f"hf:{guide_models.siglip(folder)}", batch_size=16)
    check_mteb(embedder)
    check_sentence_transformers(embedder)
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])
