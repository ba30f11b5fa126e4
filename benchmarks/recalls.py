"""Computes the recalls of a test set such as COCO 5K with several implementations."""

import importlib
import resource

import numpy as np

_MODULES = {
    "tf_mural": "tf_mural.evaluation.metrics",
    "numpy": "numpy",
    "clip_benchmark": "clip_benchmark.metrics.zeroshot_retrieval",
}


class Recalls:
    """Random embeddings of images and texts, and the recalls by each implementation.

    Args:
        images: number of images.
        texts_per_image: number of texts per image.
        width: width of the embeddings.
    """

    def __init__(self, images, texts_per_image, width):
        random = np.random.default_rng(0)
        self._text_images = np.repeat(np.arange(images), texts_per_image)
        self._images = self._normalize(random.standard_normal((images, width), np.float32))
        noise = random.standard_normal((len(self._text_images), width), np.float32)
        # With this amount of noise, the recalls are far from 0 % and from 100 %.
        noise *= 0.25
        self._texts = self._normalize(self._images[self._text_images] + noise)

    @staticmethod
    def _normalize(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def load(self, implementation):
        """Imports the module of an implementation, so that the import is not timed."""
        importlib.import_module(_MODULES[implementation])

    def tf_mural(self):
        """Returns the recalls by `tf_mural.evaluation.metrics`."""
        from tf_mural.evaluation import metrics

        return metrics.retrieval_recalls(self._images, self._texts, self._text_images)

    def numpy(self):
        """Returns the recalls by a straightforward implementation that sorts all scores."""
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
        """Returns the recalls by CLIP_benchmark, called as in its own evaluation."""
        import torch
        from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

        scores = torch.from_numpy(self._texts) @ torch.from_numpy(self._images).T
        positives = torch.zeros_like(scores, dtype=bool)
        positives[torch.arange(len(scores)), torch.from_numpy(self._text_images)] = True
        values = {}
        directions = (("i2t", scores.T, positives.T), ("t2i", scores, positives))
        for direction, direction_scores, pairs in directions:
            for k in (1, 5, 10):
                recall = batchify(recall_at_k, direction_scores, pairs, 64, "cpu", k=k)
                values[f"{direction}_r{k}"] = 100.0 * (recall > 0).float().mean().item()
        return values | {"average_recall": float(np.mean(list(values.values())))}

    def peak_mib(self):
        """Returns the peak memory of this process in MiB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
