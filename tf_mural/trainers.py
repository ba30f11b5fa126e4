"""Trainers as Keras models: `Trainer` for any loss terms, and one trainer per paper."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tf_mural.backends import backend_module
from tf_mural.errors import UserError
from tf_mural.objective import Term

# Options of the contrastive loss in the papers.
_PAPER_OPTIONS = {"contrastive": {"margin": 0.3, "label_smoothing": 0.1}}


@dataclasses.dataclass(frozen=True)
class Stage:
    """The fields and the loss terms of a stage.

    Attributes:
        sources: {name of a source: {field: modality}}.
        terms: {name of a term: (field, field, weight)}.
        source_options: {name of a source: {name: value}}, the default values of options of
            `data.training_dataset` in this stage.
    """

    sources: Mapping
    terms: Mapping
    source_options: Mapping


# The names of the fields are in alphabetical order, as in a config. A tower encodes the rows of its
# fields in this order, and rounding errors and dropout masks depend on the order of the rows.
_IMAGE_CAPTION = {"caption": "text", "image": "image"}
_TRANSLATIONS = {"source": "text", "target": "text"}
STAGES = {
    "align": Stage(
        sources={"captions": _IMAGE_CAPTION},
        terms={"image_caption": ("image", "caption", 1.0)},
        source_options={"captions": {"languages": ("en",)}},
    ),
    "mural": Stage(
        sources={"bitext": _TRANSLATIONS, "captions": _IMAGE_CAPTION},
        terms={
            "image_caption": ("image", "caption", 1 / 2),
            "source_target": ("source", "target", 1 / 2),
        },
        source_options={"captions": {"languages": ("en",)}},
    ),
    "etcl": Stage(
        sources={"triples": {"image": "image", "text_a": "text", "text_b": "text"}},
        terms={
            "image_text_a": ("image", "text_a", 1 / 3),
            "text_a_text_b": ("text_a", "text_b", 1 / 3),
            "text_b_image": ("text_b", "image", 1 / 3),
        },
        source_options={"triples": {"epoch_unit": "combinations"}},
    ),
}


@keras.saving.register_keras_serializable(package="tf_mural")
class Trainer(backend_module().Trainer):
    """Trains a dual encoder with any loss terms: a `keras.Model` with `fit` and `evaluate`.

        term = tf_mural.Term("image_caption", "image", "caption", weight=1.0)
        fields = {"image": "image", "caption": "text"}
        trainer = tf_mural.Trainer(model, terms=[term], fields=fields)
        trainer.compile(optimizer=tf_mural.optimizers.LAMB(1e-3))
        trainer.fit(tf_mural.data.training_dataset("data/scenes/train", trainer, 128), ...)

    `ALIGN`, `MURAL` and `ETCL` are trainers with the terms of a paper. This class extends the
    trainer of the active backend of Keras; see `backends.base_trainer.BaseTrainer` for the
    arguments and methods. `keras.saving.load_model` loads a saved trainer on any backend.
    """

    # {name of a source: {name: value}}, default values of options of `data.training_dataset`.
    source_options: Mapping[str, Mapping[str, Any]] = {}


class StageTrainer(Trainer):
    """Base class of the trainers of the papers; the attribute `stage` defines terms and sources.

    Args:
        model: `DualEncoder` with an image tower and a text tower.
        weights: {name of a term: weight}, weights that replace the weights of the paper.
        loss: name of the loss of all terms, a key of `losses.LOSSES`.
        options: {name: value}, options of the loss. By default, the contrastive loss has margin 0.3
            and label smoothing 0.1, as in the paper, and any other loss has its own defaults.
        scalars: {kind: name}, the learned scalars of the model that the loss takes, for example
            {"temperature": "shared"}. Defaults to "shared" for each kind.
        mask_duplicates: see `objective.Term`.
        towers: {field: name of a tower}. Defaults to the first tower of the field's modality.
        **kwargs: see `backends.base_trainer.BaseTrainer`.

    Raises:
        UserError: a name is unknown, or an option has a wrong value.
    """

    stage: Stage

    def __init__(
        self,
        model: keras.Model,
        *,
        weights: Mapping[str, float] | None = None,
        loss: str = "contrastive",
        options: Mapping[str, Any] | None = None,
        scalars: Mapping[str, str] | None = None,
        mask_duplicates: bool = False,
        towers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ):
        arguments = {"weights": dict(weights or {}), "loss": loss, "scalars": dict(scalars or {})}
        if options is None:
            options = _PAPER_OPTIONS.get(loss, {})
        arguments |= {"options": dict(options), "mask_duplicates": mask_duplicates}
        super().__init__(
            model,
            stage_terms(self.stage, **arguments),
            _stage_fields(self.stage, model, towers or {}),
            sources={name: tuple(fields) for name, fields in self.stage.sources.items()},
            **{"name": type(self).__name__.lower(), **kwargs},
        )
        # The arguments are stored in a function, because Keras would replace an attribute that is a
        # dict by its own type of dict.
        self._get_stage_arguments = lambda: {**arguments, "towers": dict(towers or {})}

    @property
    def source_options(self) -> Mapping[str, Mapping[str, Any]]:
        """{name of a source: {name: value}}, default options of `data.training_dataset`."""
        return self.stage.source_options

    def get_config(self) -> dict:
        """Returns the arguments of the constructor, without devices and their options."""
        config = super().get_config()
        for name in ("terms", "fields", "sources"):
            del config[name]
        return {**config, **self._get_stage_arguments()}


@keras.saving.register_keras_serializable(package="tf_mural")
class ALIGN(StageTrainer):
    """Trains with the loss of ALIGN (Jia et al. 2021): L_image-caption.

    The source "captions" contains images with captions. See `StageTrainer` for the arguments.
    """

    stage = STAGES["align"]


@keras.saving.register_keras_serializable(package="tf_mural")
class MURAL(StageTrainer):
    """Trains with the loss of MURAL (Jain et al. 2021): 1/2 (L_image-caption + L_source-target).

    The source "captions" contains images with captions, and the source "bitext" contains pairs of
    translated texts. See `StageTrainer` for the arguments.
    """

    stage = STAGES["mural"]


@keras.saving.register_keras_serializable(package="tf_mural")
class ETCL(StageTrainer):
    """Trains with the loss of ETCL: 1/3 (L_image-textA + L_textA-textB + L_textB-image).

    The source "triples" contains images with captions in several languages. Each example consists
    of an image and two captions in different languages. See `StageTrainer` for the arguments.
    """

    stage = STAGES["etcl"]


def stage_terms(
    stage: Stage,
    weights: Mapping[str, float],
    loss: str,
    options: Mapping[str, Any],
    scalars: Mapping[str, str],
    mask_duplicates: bool,
) -> Sequence[Term]:
    """Returns the terms of a stage; see `StageTrainer` for the arguments."""
    unknown = sorted(set(weights) - set(stage.terms))
    if unknown:
        raise UserError(
            f"weights: there is no term {unknown[0]!r}; the terms are {', '.join(stage.terms)}"
        )
    fields_of = [list(fields) for fields in stage.sources.values()]
    terms = []
    for name, (x, y, weight) in stage.terms.items():
        common = next(fields for fields in fields_of if x in fields and y in fields)
        terms.append(
            Term(
                name,
                x,
                y,
                weights.get(name, weight),
                loss,
                options,
                scalars,
                mask_duplicates,
                sibling_fields=tuple(field for field in common if field not in (x, y)),
            )
        )
    return terms


def _stage_fields(stage, model, towers):
    modalities = {f: m for fields in stage.sources.values() for f, m in fields.items()}
    unknown = sorted(set(towers) - set(modalities))
    if unknown:
        raise UserError(
            f"towers: there is no field {unknown[0]!r}; the fields are {', '.join(modalities)}"
        )
    return {f: towers.get(f) or model.default_tower(m) for f, m in modalities.items()}
