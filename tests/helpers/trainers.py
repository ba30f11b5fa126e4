"""Creates small trainers and batches for the current backend of Keras."""

import keras
import numpy as np
import tensorflow as tf

from tf_mural import models, optimizers
from tf_mural.backends import backend_module
from tf_mural.objective import Term

# The towers named "test" trace and compile quickly. The batch norms of the image tower average many
# values. Therefore rounding errors are small when tests compare two ways to compute a step.
models.EFFICIENTNETS["test"] = {
    "stackwise_kernel_sizes": [3, 3],
    "stackwise_num_repeats": [2, 1],
    "stackwise_input_filters": [8, 8],
    "stackwise_output_filters": [8, 16],
    "stackwise_expansion_ratios": [1, 2],
    "stackwise_strides": [1, 2],
    "stackwise_squeeze_and_excite_ratios": [0.25, 0.25],
    "stackwise_block_types": ["v1", "v1"],
    "stackwise_width_coefficients": [1.0, 1.0],
    "stackwise_depth_coefficients": [1.0, 1.0],
}
models.BERTS["test"] = (1, 16, 2)

BATCH_SIZE, EMBEDDING_DIM, IMAGE_SIZE, MAX_TOKENS, VOCABULARY_SIZE = 8, 16, 32, 6, 50
LANGUAGES = ("de", "en")
MODALITIES = {
    "mural": {"image": "image", "caption": "text", "source": "text", "target": "text"},
    "etcl": {"image": "image", "text_a": "text", "text_b": "text"},
}
# {loss: options of this loss in all terms}.
OPTIONS = {"contrastive": {"margin": 0.3, "label_smoothing": 0.1}, "sigmoid": {}}
# {loss: {kind: {name: initial value}}}, the learned scalars that the loss takes.
SCALARS = {
    "contrastive": {"temperature": {"shared": 0.2}},
    "sigmoid": {"temperature": {"shared": 0.2}, "bias": {"shared": -3.0}},
}
_TERMS = {
    "mural": [("image", "caption", 1 / 2), ("source", "target", 1 / 2)],
    "etcl": [("image", "text_a", 1 / 3), ("text_a", "text_b", 1 / 3), ("text_b", "image", 1 / 3)],
}

# Terms of the fields of "etcl" with every option of a term: a distillation of each form, prefixes
# of the embeddings, and hard negatives.
MIXTURE = [
    Term("mse", "text_a", "text_b", 0.5, "distil", {"form": "mse"}, dims=(16, 4)),
    Term("cosine", "text_b", "image", 0.3, "distil", dims=(8,)),
    Term("ranking", "text_a", "image", 0.2, "distil", {"form": "contrastive"}),
    Term(
        "negatives",
        "image",
        "text_a",
        0.7,
        options=OPTIONS["contrastive"],
        mask_duplicates=True,
        negatives="text_b",
        dims=(16, 8),
        dim_weights=(1.0, 3.0),
    ),
]


def make_trainer(
    stage,
    dropout=0.0,
    virtual_batch_size=2,
    all_reduce_mean=None,
    precision=None,
    scalars=None,
    loss="contrastive",
    vocabulary_size=VOCABULARY_SIZE,
    optimizer=None,
    terms=None,
    adapt=None,
    **options,
):
    """Creates a compiled trainer of small towers with reproducible weights.

    Args:
        stage: "mural" or "etcl".
        dropout: rate of dropout in the text tower, and of stochastic depth in the image tower.
        virtual_batch_size: number of images per virtual batch of batch norm.
        all_reduce_mean: see `models.dual_encoder`; None: `all_reduce_mean` of the backend.
        precision: see `models.dual_encoder`.
        scalars: see `models.dual_encoder`; None: `SCALARS[loss]`.
        loss: key of `losses.LOSSES`, the loss of all terms.
        vocabulary_size: vocabulary size of the text tower.
        optimizer: a Keras optimizer; None: `optimizers.LAMB` with a learning rate of 1e-2.
        terms: list of `Term`; None: the terms of the stage.
        adapt: {tower: which weights are trained}, see `models.DualEncoder`.
        **options: further arguments of the backend's `Trainer`.
    """
    backend = backend_module()
    keras.utils.set_random_seed(0)
    encoder = models.dual_encoder(
        {
            "backbone": "test",
            "image_size": IMAGE_SIZE,
            "stochastic_depth": dropout,
            "virtual_batch_size": virtual_batch_size,
            "adapt": (adapt or {}).get("image", "full"),
        },
        {
            "backbone": "test",
            "vocabulary_size": vocabulary_size,
            "max_tokens": MAX_TOKENS,
            "dropout": dropout,
            "adapt": (adapt or {}).get("text", "full"),
        },
        embedding_dim=EMBEDDING_DIM,
        scalars=scalars or SCALARS[loss],
        all_reduce_mean=all_reduce_mean or backend.all_reduce_mean,
        precision=precision,
    )
    terms = terms or [
        Term(f"{x}_{y}", x, y, weight, loss, OPTIONS[loss], mask_duplicates=True)
        for x, y, weight in _TERMS[stage]
    ]
    trainer = backend.Trainer(encoder, terms, MODALITIES[stage], LANGUAGES, seed=5, **options)
    optimizer = optimizer or optimizers.LAMB(1e-2, weight_decay=1e-2)
    optimizer.build(encoder.trainable_variables)
    trainer.compile(optimizer=optimizer)
    return trainer


def make_batch(stage, size=BATCH_SIZE, seed=0, vocabulary_size=VOCABULARY_SIZE, ids=None):
    """Creates a random global batch of numpy arrays.

    Args:
        stage: "mural" or "etcl".
        size: number of examples.
        seed: seed of the random numbers.
        vocabulary_size: all token ids are less than this number.
        ids: callable (`numpy.random.Generator`) -> ids (size,); None: random ids from 0 to 5.
    """
    rng, batch = np.random.default_rng(seed), {}
    for field, modality in MODALITIES[stage].items():
        batch[field] = {"id": ids(rng) if ids else rng.integers(0, 6, size)}
        if modality == "image":
            shape = (size, IMAGE_SIZE, IMAGE_SIZE, 3)
            batch[field]["pixels"] = rng.integers(0, 256, shape).astype(np.uint8)
        else:
            tokens = rng.integers(5, vocabulary_size, (size, MAX_TOKENS))
            tokens[:, 4:] = 0
            batch[field]["tokens"] = tokens.astype(np.int32)
            batch[field]["language"] = rng.integers(0, 2, size).astype(np.int32)
    return batch


def to_tensors(batch):
    """Converts the arrays of a batch to TensorFlow tensors."""
    return tf.nest.map_structure(tf.constant, batch)


def gradients_by_path(trainer, gradients):
    """Converts a list of gradients of the trainable variables to {variable path: array}."""
    paths = [v.path for v in trainer.encoder.trainable_variables]
    return {path: np.asarray(g) for path, g in zip(paths, gradients, strict=True)}


def moving_averages(trainer):
    """Returns {variable path: array} of the moving averages of batch norm."""
    return {v.path: np.array(v.numpy()) for v in trainer.core.moving_averages}


def weights_of(trainer):
    """Returns {variable path: array} of all encoder variables that a checkpoint contains."""
    variables = [v for v in trainer.encoder.variables if "seed_generator" not in v.path]
    return {v.path: np.array(v.numpy()) for v in variables}


def set_precision(dtype):
    """Makes Keras create variables of a dtype ("float32" or "float64")."""
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
