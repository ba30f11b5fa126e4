"""Where the weights of a run come from, and what of its config they decide.

A run starts from another one, or from public weights ("hf:kakaobrain/align-base"). Public weights
decide what nobody can choose with them: the shape of the towers that they fill, the vocabulary, and
what happens to texts and images before. The stages that follow such a run inherit that.
"""

import os

from tf_mural import file_io, huggingface, models
from tf_mural.data import tokenizers
from tf_mural.errors import UserError
from tf_mural.training import checkpoints

PUBLIC = "hf:"

_DECIDED = (
    "pretrained",
    "lower_case",
    "images.resize",
    "images.crop",
    "model.embedding_dim",
    "model.image.name",
    "model.image.image_size",
    "model.image.padding",
    "model.text.name",
    "model.text.sizes",
    "model.text.max_tokens",
    "model.text.activation",
)
# What weights of equal shapes were trained with; older models do not say it.
_UNSEEN = {"model.text.activation": "gelu_approximate", "model.image.padding": "symmetric"}


def adopt(config, init, workdir):
    """Sets what the weights at `init` decide; those of a run that began from nothing do not.

    Args:
        config: a stage's ConfigDict, changed in place.
        init: "hf:" and a folder or a name of huggingface.co, or the workdir of a run.
        workdir: of the run to start; the vocabulary is written there.

    Returns:
        A note on what changed, or "".

    Raises:
        UserError: there is no such checkpoint, or the towers cannot be its model.
    """
    if init.startswith(PUBLIC):
        checkpoint = huggingface.open_checkpoint(init.removeprefix(PUBLIC))
        values, pieces = _decided_by(checkpoint, config), checkpoint.vocabulary
        values["pretrained"] = init
    else:
        description = checkpoints.read_model(init)
        if not description.get("pretrained"):
            return ""
        values = {name: _get(description, name) for name in _DECIDED}
        pieces = tokenizers.load_vocabulary(os.path.join(init, checkpoints.VOCABULARY))
    file_io.make_folder(workdir)
    values["vocabulary"] = os.path.join(workdir, checkpoints.VOCABULARY)
    tokenizers.save_vocabulary(values["vocabulary"], pieces)
    changed = _set(config, values)
    return f"decided by these weights: {', '.join(changed)}" if changed else ""


def adopt_again(config, init, workdir):
    """Sets what was decided when the run in `workdir` was started, if there is one.

    Args:
        config: a stage's ConfigDict, changed in place.
        init: what the run is asked to start from now, or None.
        workdir: of the run.

    Raises:
        UserError: it started from other weights than the public ones of `init`.
    """
    path = os.path.join(workdir, checkpoints.CONFIG)
    if not file_io.exists(path):
        return
    theirs = file_io.read_json(path)
    source = theirs.get("pretrained", "")
    if init and init.startswith(PUBLIC) and source != init:
        raise UserError(
            f"{workdir} holds a run that did not start from {init} but from "
            f"{source or 'weights of its own'}: choose another --workdir, or remove that folder"
        )
    if source:
        _set(config, {name: _get(theirs, name) for name in (*_DECIDED, "vocabulary")})


def hand_over(init, run):
    """Gives a run the weights to start from; optimizer slots stay fresh.

    Args:
        init: "hf:" and a folder or a name of huggingface.co, or the workdir of a run.
        run: `build.Run`.

    Returns:
        A note on what was loaded and left out, or "".

    Raises:
        UserError: the vocabularies or the shapes of the two models differ.
    """
    if init.startswith(PUBLIC):
        return _load_public(init, run)
    theirs = checkpoints.read_model(init)
    ours = run.description["vocabulary_hash"]
    if theirs["vocabulary_hash"] != ours:
        raise UserError(
            f"{init} was trained with vocabulary {theirs['vocabulary_hash']}, this run has "
            f"{ours} ({run.vocabulary_path}): set --config.vocabulary="
            f"{os.path.join(init, checkpoints.VOCABULARY)}"
        )
    for name, default in _UNSEEN.items():
        there, here = _get(theirs, name, default), _get(run.description, name, default)
        if there != here:
            raise UserError(
                f"{init} was trained with {name}={there}, this run has {here}: set "
                f"--config.{name}={there}"
            )
    checkpoints.load_weights(init, run.trainer.encoder)
    return ""


def _load_public(init, run):
    variables = {v.path: v for v in run.trainer.encoder.variables if "seed_generator" not in v.path}
    shapes = {path: tuple(v.shape) for path, v in variables.items()}
    checkpoint = huggingface.open_checkpoint(init.removeprefix(PUBLIC))
    arrays, rest = huggingface.weights(checkpoint, shapes)
    for path, array in arrays.items():
        variables[path].assign(array)
    note = f"{init}: {len(arrays)} of {len(variables)} variables loaded"
    if rest:
        more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
        note += f"; of its tensors, {', '.join(rest[:3])}{more} have no place here"
    return note


def _decided_by(checkpoint, config):
    """{name in the config: value} of public weights."""
    known = [name for name in models.BERTS if models.bert_sizes(name) == checkpoint.text["sizes"]]
    values = {
        "lower_case": checkpoint.lower_case,
        "model.text.name": known[0] if known else config.model.text.name,
        "model.text.sizes": () if known else checkpoint.text["sizes"],
        "model.text.activation": checkpoint.text["activation"],
        "model.text.max_tokens": min(config.model.text.max_tokens, checkpoint.positions),
    }
    if checkpoint.image:
        values |= {f"model.image.{name}": value for name, value in checkpoint.image.items()}
        values |= {f"images.{name}": value for name, value in checkpoint.images.items()}
        values["model.image.image_size"] = checkpoint.images["crop"]
        values["model.embedding_dim"] = checkpoint.embedding_dim
    for kind in ("text", "image") if checkpoint.image else ("text",):
        if config.model[kind].preset:
            raise UserError(
                f"model.{kind}.preset is {config.model[kind].preset!r}, but {checkpoint.name} has "
                f"weights for that tower too: set --config.model.{kind}.preset="
            )
    return values


def _get(data, name, default=None):
    *parents, last = name.split(".")
    for key in parents:
        data = data[key]
    return data.get(last, default)


def _set(config, values):
    """Sets values by their names in the config; returns "name=value" of those that changed."""
    changed = []
    for name, value in values.items():
        *parents, last = name.split(".")
        node = config
        for key in parents:
            node = node[key]
        value = tuple(value) if isinstance(value, list) else value
        if node[last] != value:
            node[last] = value
            changed.append(f"{name}={value}")
    return changed
