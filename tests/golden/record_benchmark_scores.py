"""Records scores of mteb and CLIP_benchmark in benchmark_scores.npz, next to this file.

    python3.11 -m venv venv-benchmark_scores
    venv-benchmark_scores/bin/pip install -r tests/golden/requirements-benchmark_scores.txt
    venv-benchmark_scores/bin/python tests/golden/record_benchmark_scores.py

The keys are:

    "mteb/<case>/<direction>/<metric>"            values of the queries (q,), not rounded
    "mteb/choice/recall_1"                        values of the items of multiple choice (q,)
    "clip_benchmark/<case>/<metric>"              means of both directions
    "clip_benchmark/classes/<metric>"             acc1 and mean_per_class_recall; also of
                                                  "equal classes"

The order of equal scores in CLIP_benchmark is that of `torch.topk`, which is not specified. The
recalls of its case "duplicates" and the acc1 of "equal classes" therefore hold only for the
recorded version of PyTorch. (mean_per_class_recall takes the argmax.)
"""

import importlib.metadata
import os
import types

import benchmark_scores_case as case
import numpy as np
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

METRICS = {"ndcg_cut_10": "ndcg10", **{f"success_{k}": f"hit{k}" for k in case.K_VALUES}}


def record_mteb():
    """Returns the values of mteb's evaluator of retrieval, by case."""
    arrays = {}
    for name, (scores, ids, pairs) in case.score_cases().items():
        texts = case.text_ids(ids, pairs)
        directions = {
            "t2i": (scores, texts, ids, pairs),
            "i2t": (scores.T, ids, texts, [(image, text) for text, image in pairs]),
        }
        for direction, arguments in directions.items():
            values = rank(*arguments, METRICS)
            arrays |= {f"mteb/{name}/{direction}/{METRICS[k]}": v for k, v in values.items()}
    scores, labels = case.choice_case()
    queries = [f"q{number}" for number in range(len(scores))]
    values = rank(scores, queries, list("dcba"), list(enumerate(labels)), ["recall_1"])
    return arrays | {"mteb/choice/recall_1": values["recall_1"]}


def rank(scores, queries, items, pairs, metrics):
    """Returns {metric: values of the queries, in their order}."""
    qrels = {query: {} for query in queries}
    for query, item in pairs:
        qrels[queries[query]][items[item]] = 1
    results = {
        query: dict(zip(items, row.tolist(), strict=True))
        for query, row in zip(queries, scores, strict=True)
    }
    by_query = calculate_retrieval_scores(results, qrels, list(case.K_VALUES)).all_scores
    return {name: np.array([by_query[query][name] for query in queries]) for name in metrics}


class Rows(torch.nn.Module):
    """A model whose inputs are embeddings, or positions in a table of embeddings."""

    def __init__(self, texts):
        super().__init__()
        self.texts = texts

    def encode_image(self, images):
        """Returns the images, which are embeddings."""
        return images

    def encode_text(self, positions):
        """Returns rows of the table."""
        return self.texts[positions]


class Batches(list):
    """A list of batches, with the classes of the data set as CLIP_benchmark reads them."""

    def __init__(self, batches, num_classes):
        super().__init__(batches)
        self.dataset = types.SimpleNamespace(classes=list(range(num_classes)))


def record_clip_benchmark():
    """Returns the values of CLIP_benchmark."""
    arrays = {}
    for name, (images, texts, owners) in case.embedding_cases().items():
        by_image = [[str(text) for text in np.flatnonzero(owners == i)] for i in range(len(images))]
        values = zeroshot_retrieval.evaluate(
            Rows(torch.tensor(texts)),
            [(torch.tensor(images), by_image)],
            tokenize,
            "cpu",
            amp=False,
            recall_k_list=list(case.K_VALUES),
        )
        arrays |= {f"clip_benchmark/{name}/{key}": np.float64(v) for key, v in values.items()}
    for name, equal_names in (("classes", False), ("equal classes", True)):
        values = classify(*case.class_case(equal_names))
        arrays |= {f"clip_benchmark/{name}/{key}": value for key, value in values.items()}
    return arrays


def classify(images, labels, prompts):
    """Returns acc1 and mean_per_class_recall."""
    templates = [f"{template}{{c}}" for template in range(len(prompts))]
    values = zeroshot_classification.evaluate(
        Rows(torch.tensor(prompts.reshape(-1, prompts.shape[-1]))),
        Batches([(torch.tensor(images), torch.tensor(labels))], prompts.shape[1]),
        lambda texts: tokenize([str(int(t[0]) * prompts.shape[1] + int(t[1:])) for t in texts]),
        [str(label) for label in range(prompts.shape[1])],
        templates,
        "cpu",
        amp=False,
    )
    return {key: np.float64(values[key]) for key in ("acc1", "mean_per_class_recall")}


def tokenize(texts):
    """Returns the positions that the texts name."""
    return torch.tensor([int(text) for text in texts])


def main():
    """Writes benchmark_scores.npz."""
    arrays = record_mteb() | record_clip_benchmark()
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "benchmark_scores.npz")
    np.savez_compressed(path, **arrays)
    packages = ("mteb", "clip_benchmark", "pytrec-eval-terrier", "torch")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"wrote {path}: {len(arrays)} arrays, {os.path.getsize(path)} bytes ({versions})")


if __name__ == "__main__":
    main()
