"""Makes extractors, which compute vectors of images or texts, from loaded models."""

import functools

from tf_mural.backends import backend_module
from tf_mural.conversion import Extractor
from tf_mural.data import image_ops
from tf_mural.data.records import describe_vectors
from tf_mural.errors import UserError, lookup
from tf_mural.evaluation.batch_embedder import TEXT_LENGTHS, BatchEmbedder
from tf_mural.experiment.stored_embedder import StoredEmbedder
from tf_mural.experiment.stored_vectors import tower_fingerprint, weights_fingerprint

_MODALITIES = {"images": "image", "texts": "text"}  # {of: modality of the tower}


def make_extractor(
    embedder,
    model,
    name,
    of,
    features=False,
    languages=None,
    dtype="float16",
    tower=None,
    batch_size=64,
    strategy=None,
    sets=(),
):
    """Returns an `Extractor` that computes vectors with a tower of a model.

    The rows are the embeddings of the tower before they are scaled to length 1, because a loss
    between rows before the normalization needs their lengths; a loss between unit rows normalizes
    them itself. With `features`, the rows are the pooled features before the projection.

    Args:
        embedder: `Embedder` of the model.
        model: name of the model for the manifest.
        name: name of the vectors.
        of: "images" or "texts".
        features: whether to compute the features before the projection (see `split` of a tower).
        languages: codes of the languages of the texts; None: the texts of all languages.
        dtype: "float16" or "float32".
        tower: name of the tower; None: the first tower of its modality.
        batch_size: number of images or texts per batch.
        strategy: result of `make_strategy` of the backend, whose replicas share a batch.
        sets: list of `RecordSet`. If they have the features of this tower, the embeddings are
            computed from these features instead of the images or texts.

    Raises:
        UserError: the model has no such tower, or the tower cannot be split.
    """
    modality = lookup(_MODALITIES, of, "value of `of`")
    encoder = embedder.model
    if modality not in encoder.modalities.values():
        raise UserError(f"{model} has no {modality} tower, so it computes no vectors of {of}")
    tower = tower or encoder.default_tower(modality)
    lookup(encoder.towers, tower, "tower")
    if encoder.modalities[tower] != modality:
        raise UserError(
            f"the tower {tower!r} encodes {encoder.modalities[tower]}, not {modality}: choose of="
            "'images' or 'texts' accordingly"
        )
    if features and not hasattr(encoder.towers[tower], "split"):
        raise UserError(f"the features of the tower {tower!r} of {model} are unknown")
    part = encoder.towers[tower].split()[0] if features else encoder.towers[tower]
    tokenizer, preprocessing = encoder.tokenizer, embedder.preprocessing
    pooling = getattr(encoder.towers[tower], "pooling", None)
    fingerprint = tower_fingerprint(modality, part, tokenizer, preprocessing, pooling)
    source = {"name": model, "fingerprint": fingerprint}
    if modality == "text" and not features and "image" in encoder.modalities.values():
        # Training compares this with the image tower of a student, see `distillation`.
        image_tower = encoder.towers[encoder.default_tower("image")]
        source["image_fingerprint"] = weights_fingerprint(image_tower)
    batches = _batch_embedder(
        encoder, tower, part, modality, tokenizer, preprocessing, batch_size, strategy
    )
    options = {"tower": tower, "features": features}
    stored = None if features else _stored_features(sets, embedder, tower)
    if stored:
        encoder.use_stored_features({tower: stored})
        batches = StoredEmbedder(batches, encoder, {tower: stored}, sets, normalize=False)
        options["stored_features"] = stored
    return Extractor(
        name,
        describe_vectors(of, part.output.shape[-1], dtype, source, languages),
        {"image": batches.embed_images, "text": batches.embed_texts}[modality],
        options,
    )


def _stored_features(sets, embedder, tower):
    """Returns the name of the features of a tower in record sets, or None.

    Only the first tower of a modality has an embedder of stored features.
    """
    encoder = embedder.model
    modality, model = encoder.modalities[tower], encoder.towers[tower]
    if tower != encoder.default_tower(modality) or not hasattr(model, "split"):
        return None
    of = next(of for of, name in _MODALITIES.items() if name == modality)
    candidates = {
        name: (description.get("model") or {}).get("fingerprint")
        for record_set in sets
        for name, description in record_set.vectors.items()
        if description["of"] == of and "languages" not in description
    }
    if not candidates:
        return None
    parts = (encoder.tokenizer, embedder.preprocessing, getattr(model, "pooling", None))
    fingerprint = tower_fingerprint(modality, model.split()[0], *parts)
    return next((name for name, value in candidates.items() if value == fingerprint), None)


class _RowEncoder:
    """Stands for a `DualEncoder` whose only tower returns rows that are not normalized."""

    def __init__(self, encoder, part):
        self.variables, self._part = encoder.variables, part

    def encode(self, tower, inputs, training=False):
        """Returns the output of the tower or of its features, (n, width)."""
        return self._part(inputs, training=training)


def _batch_embedder(encoder, tower, part, modality, tokenizer, preprocessing, batch_size, strategy):
    functions = backend_module().encoder_functions(_RowEncoder(encoder, part), (tower,), strategy)
    replicas = strategy.num_replicas_in_sync if strategy else 1
    preprocess = functools.partial(image_ops.preprocess_for_evaluation, preprocessing=preprocessing)
    ignores_padding = getattr(encoder.towers[tower], "ignores_padding", True)
    return BatchEmbedder(
        functions[tower] if modality == "image" else None,
        functions[tower] if modality == "text" else None,
        tokenizer,
        preprocess,
        width=part.output.shape[-1],
        batch_size=-(-batch_size // replicas) * replicas,
        text_lengths=TEXT_LENGTHS if ignores_padding else (),
        normalize=False,
    )
