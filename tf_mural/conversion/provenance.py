"""The recipe of a record set as plain data: equal recipes give equal record sets."""

import hashlib
import inspect
import json
import os

from tf_mural import __version__
from tf_mural.data import records
from tf_mural.errors import UserError, suggest


def plan_conversion(dataset, name, raw_dir, split, options, augmentations, filters):
    """Returns the recipe of a conversion, which determines its output, and its units of work.

    Args:
        dataset: module of the data set.
        name: name of the data set in the manifest.
        raw_dir, split, options: arguments of the data set's `plan`.
        augmentations: the augmentations of the data set to allow, or None for its defaults.
        filters: `FilterConfig`.

    Returns:
        (recipe as a dict, list of units).

    Raises:
        UserError: an option or augmentation is unknown, or the raw data cannot be used.
    """
    defaults = option_defaults(dataset)
    for option in options:
        if option not in defaults:
            listed = ", ".join(defaults) or "(none)"
            hint = suggest(option, defaults)
            raise UserError(f"{name} has no option {option!r}; it has: {listed}{hint}")
    chosen = {**defaults, **options}
    recipe = {"dataset": name, "split": split}
    recipe["options"] = {key: _to_plain(chosen[key]) for key in sorted(chosen)}
    allowed, filter_options = _allowed(dataset, name, augmentations), filters.to_recipe()
    try:
        units = list(dataset.plan(raw_dir, split, **options))
        if hasattr(dataset, "fingerprint"):
            recipe["input"] = dataset.fingerprint(raw_dir, split, **options)
    except OSError as error:
        raise UserError(f"{name}/{split}: the raw data cannot be read: {error}") from error
    if hasattr(dataset, "VERSION"):
        recipe["dataset_version"] = dataset.VERSION
    recipe["augmentations"] = list(allowed)
    if filter_options:
        recipe["steps"] = filter_options  # Existing manifests use the key "steps".
    return recipe, units


def option_defaults(dataset):
    """Returns the options of a data set: a dict from name to default, in order."""
    parameters = list(inspect.signature(dataset.plan).parameters.values())[2:]
    return {parameter.name: parameter.default for parameter in parameters}


def recipe_digest(recipe, units):
    """Returns a short hash of a recipe; a stopped conversion continues only with an equal hash."""
    content = json.dumps([recipe, __version__, len(units)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def existing_manifest(folder, recipe, overwrite):
    """Returns the manifest of a complete record set with this recipe, or None if there is none.

    Raises:
        UserError: the folder contains other files, or a record set of another recipe that must not
            be overwritten.
    """
    if not os.path.isdir(folder) or not os.listdir(folder):
        return None
    if not os.path.exists(os.path.join(folder, records.MANIFEST)):
        raise UserError(f"{folder} holds files that are no record set; move them away")
    if overwrite:
        return None
    manifest = records.RecordSet.open(folder).manifest
    made_by = {key: value for key, value in manifest["made_by"].items() if key != "version"}
    if made_by == recipe:
        return manifest
    before, now = _flatten(made_by), _flatten(recipe)
    differences = [
        f"{key} was {before.get(key)!r}, is now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    raise UserError(
        f"{folder} holds a record set of another recipe ({'; '.join(differences)}); "
        "pass another out_dir, or overwrite to replace it"
    )


def _to_plain(value):
    return list(value) if isinstance(value, tuple | list) else value


def _allowed(dataset, name, augmentations):
    if augmentations is None:
        return tuple(getattr(dataset, "USUAL_AUGMENTATIONS", dataset.AUGMENTATIONS))
    for augmentation in augmentations:
        if augmentation not in dataset.AUGMENTATIONS:
            allowed = ", ".join(dataset.AUGMENTATIONS) or "(none)"
            raise UserError(
                f"{name} does not allow the augmentation {augmentation!r}; it allows: {allowed}"
            )
    return tuple(a for a in dataset.AUGMENTATIONS if a in augmentations)


def _flatten(recipe):
    nested = ("options", "steps")
    flat = {key: value for key, value in recipe.items() if key not in nested}
    for key in nested:
        flat.update(recipe.get(key, {}))
    return flat
