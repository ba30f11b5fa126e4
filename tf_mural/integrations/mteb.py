"""Runs a model of this package inside mteb.

    import mteb
    from tf_mural.integrations.mteb import MTEBEncoder

    model = MTEBEncoder("runs/tiny/etcl-s0")
    mteb.evaluate(model, mteb.get_tasks(["XM3600T2IRetrieval"]), cache=None)

mteb decides ties and rounds as its tasks do; `tools/evaluate.py --protocol=mteb` gives the same
numbers on the same records. Instructions of tasks are not put before the texts.
"""

import os
from typing import Any

import numpy as np

from tf_mural.errors import UserError
from tf_mural.experiment.embedder import Embedder

_LENGTH = 12  # digits of the revision
_MIN_NORM = 1e-12


class MTEBEncoder:
    """A model with the interface `EncoderProtocol` of mteb.

    Args:
        model_name: path or name of a model, see `Embedder.load`, or an `Embedder`.
        revision: name of the revision in mteb's results. Default: the start of the fingerprint of
            the weights, so that mteb's cache never returns the results of other weights.
        device: accepted for compatibility with mteb; the devices are those of the `Embedder`.
        name: name of the model in mteb's results, "<organization>/<model>".
        **kwargs: arguments of `Embedder.load`.

    Raises:
        UserError: the model does not exist, or the name does not have one slash.
    """

    def __init__(
        self,
        model_name: str | os.PathLike | Embedder,
        revision: str | None = None,
        *,
        device: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ):
        is_embedder = isinstance(model_name, Embedder)
        self.embedder = model_name if is_embedder else Embedder.load(model_name, **kwargs)
        base = "model" if is_embedder else os.path.basename(os.fspath(model_name).rstrip("/"))
        self.name = name or f"tf_mural/{base.rpartition(':')[2]}"
        if self.name.count("/") != 1:
            raise UserError(f"name={self.name!r}: expected <organization>/<model>")
        self.revision = revision or self.embedder.fingerprint[:_LENGTH]

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embeds the items of a loader.

        Args:
            inputs: iterable of batches, dicts of lists with the key "text", "image", or both. The
                vectors of an item with both are added and scaled to length 1.
            task_metadata, hf_split, hf_subset, prompt_type, **kwargs: the arguments of mteb, which
                do not change the embeddings.

        Returns:
            float32 (n, width), unit rows in the order of the items.

        Raises:
            UserError: a batch has neither texts nor images.
        """
        rows = [self._encode_batch(batch) for batch in inputs]
        return np.concatenate(rows) if rows else np.zeros((0, self.embedder.width), np.float32)

    def _encode_batch(self, batch):
        parts = []
        if "text" in batch:
            parts.append(self.embedder.embed_texts(list(batch["text"]), progress=False, warn=False))
        if "image" in batch:
            parts.append(self.embedder.embed_images(list(batch["image"]), progress=False))
        if not parts:
            raise UserError(
                f"a batch has the keys {', '.join(batch) or '(none)'}: expected text or image"
            )
        total = sum(parts)
        length = np.maximum(np.linalg.norm(total, axis=1, keepdims=True), _MIN_NORM)
        return total / length if len(parts) > 1 else total

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns the cosine similarities of all pairs, a `torch.Tensor` (n, m), as mteb does."""
        return _import_mteb("similarity_functions").cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns the cosine similarities of corresponding rows, a `torch.Tensor` (n,)."""
        return _import_mteb("similarity_functions").pairwise_cos_sim(embeddings1, embeddings2)

    @property
    def mteb_model_meta(self) -> Any:
        """The `ModelMeta` of mteb."""
        meta = _import_mteb("models.model_meta")
        modalities = set(self.embedder.model.modalities.values()) & {"text", "image"}
        return meta.ModelMeta(
            loader=None,
            name=self.name,
            revision=self.revision,
            release_date=None,
            languages=None,
            n_parameters=int(self.embedder.model.count_params()),
            memory_usage_mb=None,
            max_tokens=None,
            embed_dim=self.embedder.width,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["TensorFlow"],
            similarity_fn_name=meta.ScoringFunction.COSINE,
            use_instructions=False,
            training_datasets=None,
            modalities=sorted(modalities, reverse=True),
        )


def _import_mteb(name):
    """Returns the module `mteb.<name>`."""
    import importlib

    try:
        return importlib.import_module(f"mteb.{name}")
    except ImportError as error:
        raise UserError(f'this needs mteb: pip install "mteb[image]" ({error})') from error
