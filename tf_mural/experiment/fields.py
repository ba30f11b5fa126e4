"""The fields of a config: their towers and modalities, and the fields of each term."""

from tf_mural.errors import UserError, lookup
from tf_mural.experiment.stored_vectors import stored_features
from tf_mural.losses import LOSSES
from tf_mural.modalities import MODALITIES

# Entries of a term, for any loss, that are passed to `objective.Term` if they are set.
TERM_OPTIONS = ("negatives", "dims", "dim_weights")


def term_fields(term):
    """Returns the fields of a term: `x`, `y` and the fields of its negatives."""
    negatives = term.get("negatives", ())
    return (term.x, term.y, *((negatives,) if isinstance(negatives, str) else negatives))


def split_term(term):
    """Returns the options of the loss of a term, and the names of its learned scalars.

    Args:
        term: ConfigDict of a term. Its entries are `x`, `y`, `weight`, `loss`, `mask_duplicates`,
            those in `TERM_OPTIONS`, the options of the loss, and the names of the learned scalars.

    Returns:
        (options, scalars): {option: value}, and {kind of scalar: name of the scalar}.
    """
    kinds = LOSSES[term.loss].scalars
    common = ("x", "y", "weight", "loss", "mask_duplicates", *kinds, *TERM_OPTIONS)
    options = {key: value for key, value in term.items() if key not in common}
    return options, {kind: term.get(kind, "shared") for kind in kinds}


def tower_modalities(config):
    """Returns {tower: modality} of the model."""
    towers = {name: tower.modality for name, tower in config.model.towers.items()}
    return {"image": "image", "text": "text", **towers}


def trained_dims(config):
    """Returns the sizes of embeddings in the terms of a config, see `Term.dims`, largest first."""
    dims = {dim for term in config.terms.values() for dim in term.get("dims", ())}
    return tuple(sorted(dims, reverse=True))


def field_towers(config):
    """Returns {field: tower} of all sources.

    Raises:
        UserError: two sources have the same field, or a field names an unknown tower.
    """
    known, towers = tower_modalities(config), {}
    for name, source in config.sources.items():
        for field, tower in source.fields.items():
            if field in towers:
                raise UserError(f"two sources have a field {field!r}; rename that of {name!r}")
            lookup(known, tower, f"tower (of the field {field!r})")
            towers[field] = tower
    return towers


def field_modalities(config):
    """Returns {field: modality} for the fields of all sources.

    The fields of a tower whose features are stored in the records have the modality "vectors".

    Raises:
        UserError: see `field_towers`; or a source has too many fields of a modality.
    """
    known = tower_modalities(config) | dict.fromkeys(stored_features(config), "vectors")
    modalities = {field: known[tower] for field, tower in field_towers(config).items()}
    for name, source in config.sources.items():
        values = [modalities[field] for field in source.fields]
        if any(values.count(key) > modality.max_fields for key, modality in MODALITIES.items()):
            limits = [f"{modality.max_fields} of {key}" for key, modality in MODALITIES.items()]
            raise UserError(
                f"the source {name!r} has the fields {', '.join(source.fields)}: expected at most "
                f"{' and '.join(limits)}; move the others to another source"
            )
    return modalities
