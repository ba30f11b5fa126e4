"""What makes a record set what it is, as plain data: equal recipes give equal sets."""

import hashlib
import inspect
import json
import os

from tf_mural import __version__
from tf_mural.data import records
from tf_mural.errors import UserError, suggest


def plan(dataset, name, raw_dir, split, options, augmentations, steps):
    """The recipe of a conversion, and its units.

    Args:
        dataset: module of the data set.
        name: what the manifest calls it.
        raw_dir, split, options: for its `plan`.
        augmentations: what the user allows of its augmentations, or None.
        steps: `Steps`.

    Returns:
        (dict, list of units).

    Raises:
        UserError: an unknown option or augmentation, or raw data that cannot be used.
    """
    known = option_defaults(dataset)
    for option in options:
        if option not in known:
            listed = ", ".join(known) or "(none)"
            hint = suggest(option, known)
            raise UserError(f"{name} has no option {option!r}; it has: {listed}{hint}")
    chosen = {**known, **options}
    recipe = {"dataset": name, "split": split}
    recipe["options"] = {key: _plain(chosen[key]) for key in sorted(chosen)}
    allowed, taken = _allowed(dataset, name, augmentations), steps.recipe()
    try:
        units = list(dataset.plan(raw_dir, split, **options))
        if hasattr(dataset, "fingerprint"):
            recipe["input"] = dataset.fingerprint(raw_dir, split, **options)
    except OSError as error:
        raise UserError(f"{name}/{split}: the raw data cannot be read: {error}") from error
    if hasattr(dataset, "VERSION"):
        recipe["dataset_version"] = dataset.VERSION
    recipe["augmentations"] = list(allowed)
    if taken:
        recipe["steps"] = taken
    return recipe, units


def option_defaults(dataset):
    """The options of a data set: dict from each one's name to its default, in order."""
    parameters = list(inspect.signature(dataset.plan).parameters.values())[2:]
    return {parameter.name: parameter.default for parameter in parameters}


def digest(recipe, units):
    """A short hash of all that a stopped conversion must have in common to go on."""
    whole = json.dumps([recipe, __version__, len(units)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def already_there(folder, recipe, overwrite):
    """The manifest of a whole set of this recipe, or None where a set is to be written.

    Raises:
        UserError: something else is in the way.
    """
    if not os.path.isdir(folder) or not os.listdir(folder):
        return None
    if not os.path.exists(os.path.join(folder, "manifest.json")):
        raise UserError(f"{folder} holds files that are no record set; move them away")
    if overwrite:
        return None
    manifest = records.RecordSet.open(folder).manifest
    made_by = {key: value for key, value in manifest["made_by"].items() if key != "version"}
    if made_by == recipe:
        return manifest
    before, now = _flat(made_by), _flat(recipe)
    differs = [
        f"{key} was {before.get(key)!r}, is now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    raise UserError(
        f"{folder} holds a record set of another recipe ({'; '.join(differs)}); "
        "pass another out_dir, or overwrite to replace it"
    )


def _plain(value):
    return list(value) if isinstance(value, tuple | list) else value


def _allowed(dataset, name, augmentations):
    if augmentations is None:
        return tuple(getattr(dataset, "USUAL_AUGMENTATIONS", dataset.AUGMENTATIONS))
    for one in augmentations:
        if one not in dataset.AUGMENTATIONS:
            known = ", ".join(dataset.AUGMENTATIONS) or "(none)"
            raise UserError(f"{name} does not allow the augmentation {one!r}; it allows: {known}")
    return tuple(a for a in dataset.AUGMENTATIONS if a in augmentations)


def _flat(recipe):
    inner = ("options", "steps")
    out = {key: value for key, value in recipe.items() if key not in inner}
    for key in inner:
        out.update(recipe.get(key, {}))
    return out
