"""Recalls of a collection such as COCO 5K by several ways, each in a process of its own."""

import importlib
import resource

import numpy as np

_MODULES = {
    "ours": "tf_mural.evaluation.metrics",
    "numpy": "numpy",
    "clip_benchmark": "clip_benchmark.metrics.zeroshot_retrieval",
}


class Recalls:
    """Random embeddings of images and texts, to score by one of several ways.

    Args:
        images: how many.
        texts_per_image: how many texts each has.
        width: of the embeddings.
    """

    def __init__(self, images, texts_per_image, width):
        random = np.random.default_rng(0)
        self._text_images = np.repeat(np.arange(images), texts_per_image)
        self._images = self._unit(random.standard_normal((images, width), np.float32))
        noise = random.standard_normal((len(self._text_images), width), np.float32)
        # Noise of a size that puts the recalls well inside of 0 and 100.
        noise *= 0.25
        self._texts = self._unit(self._images[self._text_images] + noise)

    @staticmethod
    def _unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def load(self, way):
        """Imports what a way needs, which is not to be timed."""
        importlib.import_module(_MODULES[way])

    def ours(self):
        """Recalls by `tf_mural.evaluation.metrics`."""
        from tf_mural.evaluation import metrics

        return metrics.retrieval_recalls(self._images, self._texts, self._text_images)

    def numpy(self):
        """Recalls as one would write them down: all scores, all sorted, both ways."""
        scores = self._images @ self._texts.T
        values = {}
        order = np.argsort(-scores, axis=1)
        first = np.argmax(self._text_images[order] == np.arange(len(scores))[:, None], axis=1)
        for k in (1, 5, 10):
            values[f"i2t_r{k}"] = 100.0 * float(np.mean(first < k))
        order = np.argsort(-scores.T, axis=1)
        first = np.argmax(order == self._text_images[:, None], axis=1)
        for k in (1, 5, 10):
            values[f"t2i_r{k}"] = 100.0 * float(np.mean(first < k))
        return values | {"average_recall": float(np.mean(list(values.values())))}

    def clip_benchmark(self):
        """Recalls by CLIP_benchmark's functions, called as its own evaluation calls them."""
        import torch
        from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

        scores = torch.from_numpy(self._texts) @ torch.from_numpy(self._images).T
        right = torch.zeros_like(scores, dtype=bool)
        right[torch.arange(len(scores)), torch.from_numpy(self._text_images)] = True
        values = {}
        for way, found, pairs in (("i2t", scores.T, right.T), ("t2i", scores, right)):
            for k in (1, 5, 10):
                share = batchify(recall_at_k, found, pairs, 64, "cpu", k=k)
                values[f"{way}_r{k}"] = 100.0 * (share > 0).float().mean().item()
        return values | {"average_recall": float(np.mean(list(values.values())))}

    def peak(self):
        """The most memory that this process has held, in MiB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
