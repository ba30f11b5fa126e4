"""Builds the objects of a run from its config."""

import dataclasses
import functools

import keras

from tf_mural.backends import backend_module
from tf_mural.data import input_pipeline
from tf_mural.data.block_sampling import BlockSampler
from tf_mural.data.language_report import LanguageReport
from tf_mural.data.negative_sampler import NegativeSampler
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.distributed import DistributedEmbedder
from tf_mural.errors import UserError
from tf_mural.experiment import data, evaluation, public_encoders
from tf_mural.experiment.config_validation import check_config, find_vocabulary
from tf_mural.experiment.fields import field_modalities
from tf_mural.experiment.model_io import batch_embedder, describe
from tf_mural.experiment.stored_embedder import StoredEmbedder
from tf_mural.experiment.stored_vectors import field_vectors, stored_features
from tf_mural.experiment.trainer import make_trainer


@dataclasses.dataclass
class Run:
    """The objects of a run, which `build` makes from the config.

    Attributes:
        trainer: compiled `Trainer` of the backend.
        dataset: callable that takes the number of the first step, and returns the batches of this
            process.
        evaluate: callable without arguments that returns a dict from the name of a task or
            benchmark to its `Result`.
        description: dict, the content of model.json.
        vocabulary_path: vocabulary file, or folder or file of the tokenizer.
        data: {folder of a record set: digest} of the training data.
        negatives: {folder of mined negatives: digest}.
        layouts: {folder: digest of the blocks} of record sets that are read in windows.
        evaluation_folders: folders of the record sets of the evaluations.
        skipped_records: `input_pipeline.SkippedRecords`.
        language_report: `LanguageReport` of the sources.
        tokenizer: an object with the interface of `data.tokenizers.Tokenizer`.
        code_switchers: {field: `CodeSwitcher`} of the code-switched fields of all sources.
        contact_sheet: callable without arguments that returns augmented training images, uint8
            (n, h, w, 3), and their captions [[(language, text)]].
    """

    trainer: object
    dataset: object
    evaluate: object
    description: dict
    vocabulary_path: str
    data: dict
    negatives: dict
    layouts: dict
    evaluation_folders: tuple
    skipped_records: input_pipeline.SkippedRecords
    language_report: LanguageReport
    tokenizer: object
    code_switchers: dict
    contact_sheet: object

    @property
    def lexicons(self):
        """{name of a lexicon: its digest} of the code-switched fields."""
        lexicons = [switcher.lexicon for switcher in self.code_switchers.values()]
        return {lexicon.name: lexicon.digest for lexicon in lexicons}

    def metrics(self, step):
        """Returns the numbers to log at a step, {name: number}.

        They are the passes over languages, and the shares of replaced words, from 0 to 1, in the
        texts that this process has read.
        """
        return self.language_report.metrics(step) | {
            f"switched/{field}": switcher.switched_share()
            for field, switcher in self.code_switchers.items()
        }


def build(config, data_dir, strategy, resumes=False, encoders=None):
    """Builds all objects of a run.

    Args:
        config: ConfigDict of a stage, see configs/base.py.
        data_dir: folder of the record sets.
        strategy: result of `make_strategy` of the backend.
        resumes: whether the run resumes from a checkpoint. A resumed run accepts damaged record
            sets.
        encoders: content of "encoders" of the description of the model, see `public_encoders`.
            None: public models of the config are read, with their weights.

    Returns:
        `Run`.

    Raises:
        UserError: a name, language, file or number of the config is invalid.
    """
    backend = backend_module()
    replicas, processes = strategy.num_replicas_in_sync, backend.ProcessGroup(strategy)
    check_config(config, replicas)
    vocabulary_path = find_vocabulary(config.vocabulary, data_dir)
    tokenizer = _open_tokenizer(config, vocabulary_path)
    modalities = field_modalities(config)
    fields = {
        name: {field: modalities[field] for field in source.fields}
        for name, source in config.sources.items()
    }
    samplers = _make_samplers(config, fields, data_dir, strict=not resumes)
    languages = tuple(sorted({code for s in samplers.values() for code in s.languages}))
    description = describe(config, tokenizer, languages)
    encoders = public_encoders.encoder_specs(config) if encoders is None else encoders
    if encoders:
        description["encoders"] = encoders

    keras.utils.set_random_seed(config.seed)
    trainer = make_trainer(config, description, languages, strategy)
    sources = [
        data.make_source(samplers[name], source, fields[name], data_dir, config)
        for name, source in config.sources.items()
    ]
    preprocessing = Preprocessing.from_config(config.images, config.model.image)
    drawn, negatives = _split_negatives(samplers)
    digests = {s.folder: s.digest for sampler in samplers.values() for s in sampler.sets}
    skipped_records = input_pipeline.SkippedRecords(
        config.max_bad_records, tuple(digests), vocabulary_path
    )
    dataset = functools.partial(
        input_pipeline.training_dataset,
        sources,
        tokenizer,
        preprocessing,
        languages,
        config.batch_size,
        backend.Runner.batches_per_step(replicas // processes.world_size),
        (processes.rank, processes.world_size),
        skipped_records=skipped_records,
    )
    embed = batch_embedder(trainer.encoder, tokenizer, preprocessing)
    if processes.world_size > 1:
        embed = DistributedEmbedder(embed, processes)
    evaluate, folders = _make_evaluate(config, data_dir, trainer.encoder, embed)
    return Run(
        trainer=trainer,
        dataset=dataset,
        evaluate=evaluate,
        description=description,
        vocabulary_path=vocabulary_path,
        data=digests,
        negatives=negatives,
        layouts=_block_layouts(drawn),
        evaluation_folders=folders,
        skipped_records=skipped_records,
        language_report=LanguageReport(drawn, config.batch_size),
        tokenizer=tokenizer,
        code_switchers={k: v for source in sources for k, v in source.code_switch.items()},
        contact_sheet=functools.partial(data.training_sheet, sources, preprocessing),
    )


def _split_negatives(samplers):
    """Returns the samplers that are no `NegativeSampler`, and {folder: digest} of the others."""
    drawn = {k: s for k, s in samplers.items() if not isinstance(s, NegativeSampler)}
    mined = [s.mined for s in samplers.values() if isinstance(s, NegativeSampler)]
    return drawn, {folder: digest for m in mined for folder, digest in m.items()}


def _block_layouts(samplers):
    """Returns the `layouts` of all samplers of the type `BlockSampler`."""
    samplers = (s for s in samplers.values() if isinstance(s, BlockSampler))
    return {folder: digest for s in samplers for folder, digest in s.layouts.items()}


def _make_evaluate(config, data_dir, encoder, embed):
    """Returns (function that evaluates, folders of its record sets); see `make_evaluate`."""
    folders = []

    def with_records(embed, sets):
        folders.extend(record_set.folder for record_set in sets)
        stored = stored_features(config)
        return StoredEmbedder(embed, encoder, stored, sets) if stored else embed

    return evaluation.make_evaluate(config, data_dir, embed, with_records), tuple(folders)


def _make_samplers(config, fields, data_dir, strict):
    """Returns {source: `IndexSampler`}; see `data.make_sampler` for the arguments."""
    vectors = field_vectors(config)
    samplers = {
        name: data.make_sampler(
            name,
            source,
            fields[name],
            data_dir,
            config.seed,
            strict=strict,
            batch_size=config.batch_size,
            vectors=vectors,
        )
        for name, source in config.sources.items()
        if "negatives_of" not in source
    }
    for name, source in config.sources.items():
        if "negatives_of" in source:
            parts = source, samplers[source.negatives_of], fields[name]
            samplers[name] = data.make_negative_sampler(
                name, *parts, data_dir, config.seed, vectors
            )
    return samplers


def _open_tokenizer(config, path):
    options = config.model.text.max_tokens, config.lower_case
    tokenizer = public_encoders.open_tokenizer(path, *options)
    is_public = "text" in public_encoders.public_towers(config)
    if tokenizer.pad_id != 0 and not is_public:
        raise UserError(
            f"{path}: expected [PAD] in the first line, because [PAD] must have id 0"
            if public_encoders.is_word_piece(tokenizer)
            else f"{path}: the token of padding has id {tokenizer.pad_id}, but a BERT "
            "of `model.text.backbone` pads with 0: choose a public model with this tokenizer"
        )
    return tokenizer
