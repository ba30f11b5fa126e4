"""Config to objects: the only room of the package that sees a config."""

import dataclasses
import functools

import keras

from tf_mural.data import input_pipeline
from tf_mural.data.tokenizers import Tokenizer
from tf_mural.distributed import SharedEmbedder
from tf_mural.errors import UserError
from tf_mural.experiment import data, evaluation
from tf_mural.experiment.abstract_trace import VOCABULARY_SIZE, trace
from tf_mural.experiment.backend import rooms
from tf_mural.experiment.config_validation import check, field_kinds, find_vocabulary
from tf_mural.experiment.data import make_records, open_records
from tf_mural.experiment.initialization import adopt, adopt_again, hand_over
from tf_mural.experiment.model_io import (
    Model,
    describe,
    embedder,
    fingerprint,
    load,
    model_arguments,
)
from tf_mural.experiment.profiling import profiled
from tf_mural.experiment.qualitative import show
from tf_mural.experiment.smoke_test import trial_step
from tf_mural.experiment.trainer import make_terms, make_trainer
from tf_mural.experiment.weight_averaging import check_interpolation, end_weights

__all__ = [
    "VOCABULARY_SIZE",
    "Model",
    "Run",
    "adopt",
    "adopt_again",
    "build",
    "check",
    "check_interpolation",
    "describe",
    "embedder",
    "end_weights",
    "field_kinds",
    "find_vocabulary",
    "fingerprint",
    "hand_over",
    "load",
    "make_records",
    "make_terms",
    "make_trainer",
    "model_arguments",
    "open_records",
    "profiled",
    "rooms",
    "show",
    "trace",
    "trial_step",
]


@dataclasses.dataclass
class Run:
    """The objects of one run, ready for `loop.train`.

    Attributes:
        trainer: compiled, of the backend's room: `training.Trainer` or `training_jax.Trainer`.
        dataset: function of the first step to the batches of this worker.
        evaluate: function without arguments to {task: base.Result}.
        description: what model.json holds.
        vocabulary_path: file of the vocabulary.
        data: {record folder: digest} of all that the run reads.
        health: `pipeline.Health` of the reading.
        contact_sheet: function to augmented training images uint8 (n, h, w, 3) and their captions
            [[(language, text)]].
    """

    trainer: object
    dataset: object
    evaluate: object
    description: dict
    vocabulary_path: str
    data: dict
    health: input_pipeline.Health
    contact_sheet: object


def build(config, data_dir, strategy, resumes=False):
    """Makes everything that a run needs.

    Args:
        config: a stage's ConfigDict, see configs/base.py.
        data_dir: folder that the config's record folders are under.
        strategy: what `make_strategy` of the backend's room made.
        resumes: whether a run goes on, which damage to its records does not stop.

    Raises:
        UserError: a name, language, file or number in the config that cannot be.
    """
    distribute, _ = rooms()
    replicas, processes = strategy.num_replicas_in_sync, distribute.Processes(strategy)
    check(config, replicas)
    vocabulary_path = find_vocabulary(config.vocabulary, data_dir)
    tokenizer = Tokenizer(vocabulary_path, config.model.text.max_tokens, config.lower_case)
    if tokenizer.pad_id != 0:
        raise UserError(f"{vocabulary_path}: expected [PAD] in its first line, which is id 0")
    streams = {
        name: data.make_stream(name, source, data_dir, config.seed, whole=not resumes)
        for name, source in config.sources.items()
    }
    languages = tuple(sorted({code for s in streams.values() for code in s.languages}))
    description = describe(config, tokenizer)

    keras.utils.set_random_seed(config.seed)
    trainer = make_trainer(config, description, languages, strategy)

    sources = [data.make_source(streams[name], source) for name, source in config.sources.items()]
    sizes = input_pipeline.Sizes(config.images.resize, config.images.crop)
    folders = {s.folder: s.digest for stream in streams.values() for s in stream.sets}
    health = input_pipeline.Health(config.max_bad_records, tuple(folders), vocabulary_path)
    dataset = functools.partial(
        input_pipeline.training_dataset,
        sources,
        tokenizer,
        sizes,
        languages,
        config.batch_size,
        distribute.Runner.batches_of(replicas // processes.count),
        (processes.number, processes.count),
        health=health,
    )
    embed = embedder(trainer.encoder, tokenizer, config.images)
    if processes.count > 1:
        embed = SharedEmbedder(embed, processes)
    return Run(
        trainer=trainer,
        dataset=dataset,
        evaluate=evaluation.make_evaluation(config, data_dir, embed),
        description=description,
        vocabulary_path=vocabulary_path,
        data=folders,
        health=health,
        contact_sheet=functools.partial(data.training_sheet, sources, sizes),
    )
