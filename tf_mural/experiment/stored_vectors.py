"""Towers of a config that read vectors of records in training, and fingerprints of the vectors."""

import hashlib

import numpy as np
from keras import ops

from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.records import read_manifest
from tf_mural.errors import UserError
from tf_mural.training.checkpoints import variables_by_path

# Values of `adapt` with which a tower can read its features from records.
_ADAPT = ("frozen", "last:0")


def stored_features(config):
    """Returns {tower: name of its features} of the towers of images and texts with `vectors`.

    Args:
        config: ConfigDict of a stage.
    """
    towers = {name: config.model[name] for name in ("image", "text")}
    towers |= {
        name: tower for name, tower in config.model.towers.items() if tower.modality != "vectors"
    }
    return {name: tower.vectors for name, tower in towers.items() if tower.get("vectors")}


def field_vectors(config):
    """Returns {field: (name of its vectors, width, modality of its tower)}.

    Only the fields that read vectors of records are in the result.

    The width is None for the features of a tower, because the tower determines it.

    Args:
        config: ConfigDict of a stage.
    """
    towers, vectors = config.model.towers, {}
    for name, stored in stored_features(config).items():
        vectors[name] = stored, None, name if name in ("image", "text") else towers[name].modality
    for name, tower in towers.items():
        if tower.modality == "vectors":
            vectors[name] = tower.get("vectors") or name, tower.get("width"), "vectors"
    return {
        field: vectors[tower]
        for source in config.sources.values()
        for field, tower in source.fields.items()
        if tower in vectors
    }


def check_vector_towers(config):
    """Checks the towers that read vectors.

    Args:
        config: ConfigDict of a stage.

    Raises:
        UserError: a tower with the modality "vectors" has no width, its embeddings have another
            width than those of the other towers, or a tower with stored features is trained.
    """
    dim = config.model.embedding_dim
    for name, tower in config.model.towers.items():
        if tower.modality != "vectors":
            continue
        if not isinstance(tower.get("width"), int):
            raise UserError(
                f"model.towers.{name} has no width: give the width of the vectors, which "
                "tools/inspect_data.py shows, such as `width=512`"
            )
        layers = tuple(tower.get("layers", ()))
        width = layers[-1] if layers else tower.width
        if width != dim:
            raise UserError(
                f"the embeddings of model.towers.{name} have the width {width}, but "
                f"model.embedding_dim is {dim}: set "
                f"`config.model.embedding_dim`, or `layers` whose last width is {dim}"
            )
    for name in stored_features(config):
        model = config.model[name] if name in ("image", "text") else config.model.towers[name]
        adapt = model.get("adapt", "full")
        if adapt not in _ADAPT:
            raise UserError(
                f"the tower {name!r} reads its features from records (vectors={model.vectors!r}), "
                f"but adapt is {adapt!r}: set adapt to 'last:0', which trains the projection, or "
                "to 'frozen'"
            )


def tower_fingerprint(modality, model, tokenizer, preprocessing, pooling=None):
    """Returns a hash of the weights of a tower, its pooling, and what turns its inputs into arrays.

    Args:
        modality: modality of the tower, "image" or "text".
        model: the tower, or its part that computes features; the names of its variables do not
            matter.
        tokenizer: `tokenizers.Tokenizer`, which a text tower needs.
        preprocessing: `preprocessing.Preprocessing`, which an image tower needs.
        pooling: attribute `pooling` of the tower. None: the tower has no such attribute.

    Returns:
        32 hexadecimal digits.
    """
    if modality == "text":
        inputs = (tokenizer.hash, tokenizer.max_tokens, getattr(tokenizer, "prefix", ""))
    else:
        inputs = (preprocessing.resize, preprocessing.crop, sorted(preprocessing.changes().items()))
    inputs += (pooling,) if pooling else ()
    return weights_fingerprint(model, repr(inputs))


def weights_fingerprint(model, prefix=""):
    """Returns a hash of the weights and the pooling of a model, 32 hexadecimal digits.

    Args:
        model: `keras.Model`; the names of its variables do not matter. A tower of the paper has a
            fixed pooling and no attribute `pooling`.
        prefix: string that is hashed before the weights.
    """
    digest = hashlib.sha256(f"{prefix}{getattr(model, 'pooling', None) or ''}".encode())
    for variable in variables_by_path(model).values():
        digest.update(repr(tuple(variable.shape)).encode())
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(variable.value)))
    return digest.hexdigest()[:32]


def check_stored_features(config, run):
    """Checks that the stored features of a run come from the backbones of its towers.

    Args:
        config: ConfigDict of a stage.
        run: `run.Run`, whose initial weights are loaded.

    Returns:
        Notes about the stored features, list of str.

    Raises:
        UserError: the features of a record set come from another backbone.
    """
    notes, preprocessing = [], Preprocessing.from_config(config.images, config.model.image)
    encoder = run.trainer.encoder
    for tower, name in stored_features(config).items():
        modality = encoder.modalities[tower]
        features, _ = encoder.towers[tower].split()
        pooling = getattr(encoder.towers[tower], "pooling", None)
        expected = tower_fingerprint(modality, features, run.tokenizer, preprocessing, pooling)
        for folder in (*run.data, *run.evaluation_folders):
            description = read_manifest(folder).get("vectors", {}).get(name)
            model = description["model"] if description else {}
            if description and model.get("fingerprint") != expected:
                raise UserError(
                    f"{folder}: the features {name!r} come from another backbone, pooling or "
                    f"preprocessing (model {model.get('name')}, fingerprint "
                    f"{model.get('fingerprint')}) than the tower {tower!r} ({expected}): "
                    "start from the weights of that model, or run "
                    "tools/extract.py --features again with the initial weights of this run"
                )
        what = "its images are not augmented" if modality == "image" else "its texts are not read"
        notes.append(
            f"the tower {tower!r} reads its features {name!r} from the records: only its "
            f"projection runs in a step, and {what}; an evaluation uses the features of its "
            "records, if they have any"
        )
    return notes
