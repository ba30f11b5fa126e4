"""Default values of all stages: models, recipes and the structure of a config.

A stage is data: sources (record sets and the fields read from them), terms (losses between fields),
and a schedule. Every value can be overridden: `--config.optimizer.learning_rate=1e-4`. Values that
may be None are made by `_optional`, so that they keep their type: `--config.microbatch=32` sets
one, `--config.microbatch=none` removes it.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

# The caption languages of ETCL's triples, as in the paper.
TRIPLE_LANGUAGES = ("en", "de", "fr", "cs", "zh", "ja")
SIZES = ("tiny", "b3_mini", "paper")

_MODELS = {
    # Small encoders for images of 64 px, which train in minutes on two CPU cores.
    "tiny": dict(
        image=dict(name="tiny", image_size=64, stochastic_depth=0.0, batch_norm_momentum=0.9),
        text=dict(name="nano", max_tokens=32, dropout=0.0),
        embedding_dim=128,
        temperature=0.07,
    ),
    # The smallest model of coyo-align with published results: EfficientNet-B3, BERT-mini on CC3M.
    "b3_mini": dict(
        image=dict(name="b3", image_size=289, stochastic_depth=0.2, batch_norm_momentum=0.99),
        text=dict(name="mini", max_tokens=64, dropout=0.1),
        embedding_dim=640,
        temperature=1.0,
    ),
    # The paper: EfficientNet-B7 (width 640 without its top) and BERT-base.
    "paper": dict(
        image=dict(name="b7", image_size=289, stochastic_depth=0.2, batch_norm_momentum=0.99),
        text=dict(name="base", max_tokens=64, dropout=0.1),
        embedding_dim=640,
        temperature=1.0,
    ),
}
_VIRTUAL_BATCH_SIZES = {"tiny": None, "b3_mini": 16, "paper": 16}
_IMAGES = {
    "tiny": dict(resize=72, crop=64),
    "b3_mini": dict(resize=346, crop=289),
    "paper": dict(resize=346, crop=289),
}
# Folders of the record sets in --data_dir; tools/convert.py --list describes the data sets.
_RECORDS = {
    "tiny": dict(captions=("scenes/train",), bitext=("scenes/bitext",), triples=("scenes/train",)),
    "b3_mini": dict(captions=("cc3m/train",), bitext=("ccmatrix/train",), triples=("uc2/train",)),
    "paper": dict(
        captions=("crawl/train", "cc3m/train", "cc12m/train"),
        bitext=("ccmatrix/train",),
        triples=("uc2/train",),
    ),
}


def _optional(value_type, value=None):
    """Returns a placeholder for a value of a type, or None."""
    return FieldReference(value, field_type=value_type)


def _model(size):
    model = _MODELS[size]
    return ConfigDict(
        dict(
            embedding_dim=model["embedding_dim"],
            image=dict(
                **model["image"],
                # Number of images per batch norm statistic (ghost batch norm). None: all images of
                # a replica, or of a micro-batch; -1: all images of all replicas.
                virtual_batch_size=_optional(int, _VIRTUAL_BATCH_SIZES[size]),
                padding="symmetric",
                preset=_optional(str),  # of KerasHub; it replaces the encoder of that name
            ),
            text=dict(
                **model["text"],
                # Number of layers, width, heads and feed-forward width; they replace `name`.
                sizes=_optional(tuple),
                activation="gelu_approximate",
                preset=_optional(str),
            ),
            # Learned scalars of the losses: initial values by kind and name. A term names a scalar
            # of each kind that its loss takes; terms that name the same scalar share it.
            scalars=dict(temperature=dict(shared=model["temperature"])),
            freeze=(),  # names of the encoders that are not trained
            # Further encoders, which a field of a source may name: {name: dict(modality="image" or
            # "text", and the values of `image` or `text`)}.
            towers=dict(),
        )
    )


def _optimizer():
    """LAMB. Each stage sets `learning_rate` and, if it has a warm-up, `warmup_steps`."""
    return ConfigDict(
        dict(
            name="lamb",  # or "adam": AdamW, which is LAMB without trust ratio
            learning_rate=0.0,
            warmup_steps=0,
            weight_decay=1e-5,
            beta_1=0.9,
            beta_2=0.999,
            epsilon=1e-6,
            global_clipnorm=_optional(float),
            # Factor between the learning rates of a layer and the layer below it.
            layer_decay=1.0,
            # Momentum of a moving average of the weights, with which the run ends.
            ema_momentum=_optional(float),
            # Regular expressions that are searched in variable paths. "layer_norm/" also stands for
            # all other normalization layers, and "_bn/" of the second value for all batch norms.
            exclude_from_weight_decay=("_bn/", "/bias$", "layer_norm/", "temperature"),
            exclude_from_layer_adaptation=("_bn/",),
        )
    )


def _add_step(config):
    """Adds the values of a training step. Each stage sets `batch_size` and `steps`."""
    config.batch_size, config.steps = 0, 0
    # Number of rows of a replica that are encoded at a time, twice (GradCache). None: all rows,
    # once. The gradients are those of the whole batch; the memory is that of a micro-batch. Batch
    # norm uses the images of a micro-batch, or groups of `virtual_batch_size` in it.
    config.microbatch = _optional(int)
    # Number of rows of a replica whose logits (rows x batch_size) are computed at a time.
    config.loss_chunk = _optional(int)
    # Gradient checkpointing: stores only the inputs of EfficientNet stages and transformer layers,
    # and recomputes the rest in the backward pass.
    config.remat = False
    # JAX only: distributes the optimizer slots (ZeRO-1), or also the token embeddings, over the
    # devices.
    config.shard_optimizer = False
    config.shard_embeddings = False
    # Precision of the encoders: "float32", "mixed_bfloat16" or "mixed_float16" (with loss scaling).
    # Weights, embeddings, loss, temperature, slots and statistics are always float32.
    config.precision = "float32"
    # Whether rows that repeat an image or a text of a row are excluded from its negatives, in all
    # terms; `mask_duplicates` of a term applies to that term. The paper does not exclude them.
    config.mask_duplicates = False
    # Largest accepted share of records that cannot be used: damaged, an image that does not decode,
    # a text without known tokens. It refers to the examples read, or to 1,000 if fewer were read.
    config.max_bad_records = 0.01
    # A step is bad if its loss or gradient norm is not finite, or if its gradient norm exceeds
    # max_gradient_norm: "stop" ends the run without saving it, "skip" skips it.
    config.on_bad_step = "stop"
    config.max_gradient_norm = _optional(float)
    config.max_consecutive_skips = 20  # after which the run stops anyway
    config.optimizer = _optimizer()


def _add_run(config, size):
    """Adds how steps are run, logged, saved and evaluated."""
    config.jit_compile = False
    config.steps_per_loop = 1  # steps between two returns to Python; set it on TPUs
    config.log_every = 20 if size == "tiny" else 100
    # The first step that TensorBoard's profiler records, and the step after the last one.
    config.profile_steps = _optional(tuple)
    # Whether the initial weights are evaluated too (before.json), to report which languages lost.
    config.evaluate_before_training = False
    # Number of evaluations without improvement of `keep_best` after which the run ends.
    config.stop_early = _optional(int)
    # The run ends with alpha * (trained weights) + (1 - alpha) * (initial weights) (WiSE-FT).
    config.wise_ft_alpha = 1.0
    # Intervals of checkpoints, in steps and in minutes. Each evaluation saves one before, too.
    config.checkpoint_every = _optional(int, 200 if size == "tiny" else 1000)
    config.checkpoint_minutes = _optional(float)
    config.keep_checkpoints = 2  # number of checkpoints; the disk needs space for one more
    # Whether training goes on while a checkpoint is written, which takes memory for a second state.
    config.checkpoint_in_background = True
    config.evaluate_every = _optional(int)  # steps; None: only after the last step
    # Metric of the best step, named as in TensorBoard, or a pattern whose matches are averaged
    # ("retrieval/*/average_recall"). A leading minus means that lower is better.
    config.keep_best = _optional(str)


def base_config(stage, size):
    """Returns the part of a config that does not depend on the losses of the stage.

    Args:
        stage: name of the stage.
        size: one of `SIZES`.

    Returns:
        `ConfigDict` of plain data, with empty `sources` and `terms`.
    """
    config = ConfigDict()
    config.stage, config.size, config.seed = stage, size, 0
    # The stage whose final weights are the initial weights of this one. None: random weights.
    config.init_stage = _optional(str)
    # Whether that stage and those of `report.compare_with` are trained first if they are not
    # finished. Otherwise the initial weights must be given by --init.
    config.train_dependencies = size == "tiny"
    # compare_with: stages in the tables of the report; control: the one that gains refer to; show:
    # number of images in retrieval_<language>.png and in TensorBoard's projector.
    config.report = ConfigDict(dict(compare_with=(), control=_optional(str), show=128))
    # Data sets that training converts if their records are missing.
    config.auto_convert = ("scenes",) if size == "tiny" else ()
    # A file, or "scenes" for the vocabulary of the package.
    config.vocabulary = "scenes" if size == "tiny" else "labse/vocab.txt"
    # Whether texts lose case and accents, as the vocabulary of an uncased BERT requires.
    config.lower_case = False
    # Public weights that the model started from. --init=hf:NAME_OR_FOLDER sets it.
    config.pretrained = _optional(str)

    config.model = _model(size)
    config.images = ConfigDict(_IMAGES[size])  # pixels
    config.sources = ConfigDict()
    config.terms = ConfigDict()

    _add_step(config)
    _add_run(config, size)
    config.evaluation = ConfigDict()
    if size == "tiny":
        config.evaluation.retrieval = retrieval("scenes/test", trained=TRIPLE_LANGUAGES)
    return config


def retrieval(records, trained=()):
    """Returns the evaluation by retrieval on a record set.

    Args:
        records: folder of the record set.
        trained: languages that the report lists first.
    """
    return ConfigDict(dict(records=records, languages=_optional(tuple), trained=tuple(trained)))


def source(size, corpus, fields, languages=None, **options):
    """Returns a source: the fields that are read from the records of a corpus.

    Args:
        size: one of `SIZES`.
        corpus: "captions", "bitext" or "triples".
        fields: {field: name of the encoder that encodes it}: "image", "text", or a name in
            `config.model.towers`.
        languages: codes of the languages of its texts; None: all.
        **options: `epoch_unit` ("records" or "combinations" of images and languages),
            `min_languages` (of a record), `weights` (one per record set; None: in proportion to
            size ** (1 / temperature)), `temperature`, `flip` (whether images may be mirrored).
    """
    values = dict(
        epoch_unit="records",
        min_languages=0,
        weights=_optional(tuple),
        temperature=1.0,
        flip=True,
    )
    unknown = sorted(set(options) - set(values))
    if unknown:
        raise ValueError(f"Unknown options of a source: {unknown}. Known: {sorted(values)}.")
    return dict(
        records=_RECORDS[size][corpus],
        fields=fields,
        languages=_optional(tuple, languages and tuple(languages)),
        **{**values, **options},
    )


def term(x, y, weight, loss=None, **options):
    """Returns a loss between two fields.

    Args:
        x, y: names of the fields.
        weight: factor of the loss in the total.
        loss: name in `tf_mural.losses.LOSSES`; None: the contrastive loss with the margin and the
            label smoothing of the paper.
        **options: options of the loss, and for each kind of learned scalar that the loss takes, the
            name of the scalar in `config.model.scalars`, such as temperature="shared".
    """
    if loss is None:
        paper = dict(margin=0.3, label_smoothing=0.1, temperature="shared")
        loss, options = "contrastive", {**paper, **options}
    return dict(x=x, y=y, weight=weight, loss=loss, mask_duplicates=False, **options)
