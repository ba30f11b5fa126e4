"""Default values of all stages: models, recipes and the structure of a config.

A config defines a stage by plain data: sources (record sets, and fields that are read from them),
terms (losses between fields), and a schedule. A flag such as
`--config.optimizer.learning_rate=1e-4` overrides a value. Values that may be None are made by
`_optional`, which stores their type: `--config.microbatch=32` sets a number, and
`--config.microbatch=none` sets None.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

# The languages of the captions in ETCL's triples, as in the paper.
TRIPLE_LANGUAGES = ("en", "de", "fr", "cs", "zh", "ja")
SIZES = ("tiny", "b3_mini", "paper")

_MODELS = {
    # Small encoders for images of 64 px, which train in minutes on two CPU cores.
    "tiny": dict(
        image=dict(backbone="tiny", image_size=64, stochastic_depth=0.0, batch_norm_momentum=0.9),
        text=dict(backbone="nano", max_tokens=32, dropout=0.0),
        embedding_dim=128,
        temperature=0.07,
    ),
    # EfficientNet-B3 and BERT-mini: the smallest model of coyo-align with published results.
    "b3_mini": dict(
        image=dict(backbone="b3", image_size=289, stochastic_depth=0.2, batch_norm_momentum=0.99),
        text=dict(backbone="mini", max_tokens=64, dropout=0.1),
        embedding_dim=640,
        temperature=1.0,
    ),
    # The model of the paper: BERT-base, and EfficientNet-B7 up to its last block (640 channels).
    "paper": dict(
        image=dict(backbone="b7", image_size=289, stochastic_depth=0.2, batch_norm_momentum=0.99),
        text=dict(backbone="base", max_tokens=64, dropout=0.1),
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
# Record sets whose texts tools/extract.py embeds for a distillation. The new record sets have the
# same names in the folder "taught".
TAUGHT = {
    "tiny": ("scenes/train", "scenes/bitext"),
    "b3_mini": ("ccmatrix/train",),
    "paper": ("ccmatrix/train",),
}
for _size, _sets in TAUGHT.items():
    _RECORDS[_size]["taught"] = tuple(f"taught/{name.rpartition('/')[2]}" for name in _sets)


def _optional(value_type, value=None):
    """Returns a placeholder for a value that has a type or is None."""
    return FieldReference(value, field_type=value_type)


def _model(size):
    model = _MODELS[size]
    return ConfigDict(
        dict(
            embedding_dim=model["embedding_dim"],
            # `backbone` of an image or text encoder is "b7", "base" or another key of the tables
            # EFFICIENTNETS and BERTS; or a public model, "hf:<name or folder>" or
            # "keras_hub:<preset or folder>", whose weights, tokenizer and preprocessing are used.
            image=dict(
                **model["image"],
                # Pooling of the features of a public model, see `tf_mural.ImageEncoder` and
                # `tf_mural.TextEncoder`. "auto": the pooling that belongs to the model.
                pooling="auto",
                # Number of images that share the statistics of batch norm (ghost batch norm).
                # None: all images of a replica or micro-batch. -1: all images of all replicas.
                virtual_batch_size=_optional(int, _VIRTUAL_BATCH_SIZES[size]),
                # "auto": on CPUs, TensorFlow's kernels compute batch norm, which is faster. The
                # results differ from those of "per_image" only by rounding. Size tiny keeps
                # "per_image", with which its published numbers were computed.
                batch_norm="per_image" if size == "tiny" else "auto",
                # Padding before stride-2 convolutions, "symmetric" or "end" (TensorFlow's own
                # EfficientNets and ALIGN). None: "symmetric", with a warning for a preset.
                padding=_optional(str),
                # The input of the encoder is (scale * x - mean) / std for each pixel x in
                # [0, 255]. `mean` and `std` have one value, or one value per channel.
                scale=1 / 127.5,
                mean=(1.0,),
                std=(1.0,),
                # Weights that are trained: "full", "frozen" (none), "last:k" (the last k stages or
                # transformer layers) or "lora:r" (adapters of rank r), see docs/running.md.
                adapt="full",
                # Name of the features of this encoder in the records (tools/extract.py --features).
                # A training step then runs only the projection.
                vectors=_optional(str),
            ),
            text=dict(
                **model["text"],
                pooling="auto",
                # (number of layers, width, number of heads, feed-forward width) of the text
                # encoder. None: the sizes of `backbone`.
                sizes=_optional(tuple),
                activation="gelu_approximate",
                adapt="full",
                vectors=_optional(str),
            ),
            # {kind: {name: initial value}} of the learned scalars of the losses. A term names one
            # scalar of each kind that its loss takes. Several terms can name the same scalar.
            scalars=dict(temperature=dict(shared=model["temperature"])),
            # Further encoders, which a field of a source may name: {name: dict(modality="image" or
            # "text", and the values of `image` or `text`)}. Stored vectors of the records are the
            # input of dict(modality="vectors", vectors="name in the records", width=..., layers=(),
            # activation="gelu", dropout=0.0), see `models.VectorsEncoder`.
            towers=dict(),
        )
    )


def _optimizer():
    """Returns the settings of LAMB. Each stage replaces `learning_rate` and `warmup_steps`."""
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
            # Learning rate of a layer divided by the learning rate of the layer above it.
            layer_decay=1.0,
            # Factor of the learning rate of the learned scalars (temperature, bias). 0: the scalars
            # keep their initial values.
            scalar_lr_multiplier=1.0,
            # Momentum of the moving average of the weights, which replaces the final weights. None:
            # no moving average.
            ema_momentum=_optional(float),
            # Regular expressions; a variable is excluded if one of them matches a part of its path.
            # "layer_norm/" in `exclude_from_weight_decay` also excludes normalization layers with
            # other names. "_bn/" in `exclude_from_layer_adaptation` also excludes batch norms with
            # other names.
            exclude_from_weight_decay=("_bn/", "/bias$", "layer_norm/", "temperature"),
            exclude_from_layer_adaptation=("_bn/",),
        )
    )


def _add_step(config):
    """Adds the values of a training step to a config. Each stage sets `batch_size` and `steps`."""
    config.batch_size, config.steps = 0, 0
    # Number of rows that a replica encodes at a time (GradCache). Each row is then encoded twice.
    # The gradients are those of the whole batch, but activations take only the memory of a
    # micro-batch. Batch norm computes statistics over a micro-batch, or over `virtual_batch_size`
    # images of a micro-batch. None: a replica encodes all of its rows at once.
    config.microbatch = _optional(int)
    # Number of rows of a replica whose logits (rows x batch_size) are computed at a time.
    config.loss_chunk = _optional(int)
    # Gradient checkpointing: only the inputs of EfficientNet stages and transformer layers are
    # stored, and all other activations are computed again in the backward pass.
    config.remat = False
    # Only on JAX: whether the optimizer slots are distributed over the devices (ZeRO-1).
    config.shard_optimizer = False
    # Only on JAX: whether the token embeddings are distributed over the devices.
    config.shard_embeddings = False
    # Precision of the encoders: "float32", "mixed_bfloat16" or "mixed_float16" (with loss scaling).
    # Weights, embeddings, loss, temperatures, slots and statistics are always float32.
    config.precision = "float32"
    # Whether the negatives of a row exclude rows with the same image or the same text. This value
    # applies to all terms; `mask_duplicates` of a term applies only to that term. The paper does
    # not exclude such rows.
    config.mask_duplicates = False
    # Maximum share of records that cannot be used, because they are damaged, their image does not
    # decode, or their text has no known token. The share is the number of such records divided by
    # the number of records read, or by 1,000 if fewer were read.
    config.max_bad_records = 0.01
    # A step is bad if its loss or gradient norm is not finite, or if its gradient norm exceeds
    # `max_gradient_norm`. At a bad step, "stop" ends the run without saving this step, and "skip"
    # continues without changing the weights.
    config.on_bad_step = "stop"
    config.max_gradient_norm = _optional(float)
    config.max_consecutive_skips = 20  # with "skip": bad steps in a row after which the run ends
    config.optimizer = _optimizer()


def _add_run(config, size):
    """Adds the values for running, logging, saving and evaluating steps to a config."""
    config.jit_compile = False
    config.steps_per_loop = 1  # steps per call from Python; increase it on TPUs
    config.log_every = 20 if size == "tiny" else 100
    # (first profiled step, step after the last profiled step), for TensorBoard's profiler.
    config.profile_steps = _optional(tuple)
    # Whether the initial weights are also evaluated. In this case, the report lists the languages
    # whose results became worse during training.
    config.evaluate_before_training = False
    # The run ends after this number of evaluations without an improvement of `keep_best`.
    config.stop_early = _optional(int)
    # The final weights are alpha * (trained weights) + (1 - alpha) * (initial weights) (WiSE-FT).
    config.wise_ft_alpha = 1.0
    # Intervals of checkpoints in steps and in minutes. A checkpoint also precedes each evaluation.
    config.checkpoint_every = _optional(int, 200 if size == "tiny" else 1000)
    config.checkpoint_minutes = _optional(float)
    config.keep_checkpoints = 2  # number of checkpoints on disk; one more must fit on the disk
    # Whether training continues while a checkpoint is written. This needs memory for a second copy
    # of weights and slots.
    config.checkpoint_in_background = True
    # Number of steps between two evaluations. None: only the last step is evaluated.
    config.evaluate_every = _optional(int)
    # Metric that determines the best step: a name in TensorBoard, or a pattern whose matches are
    # averaged ("retrieval/*/average_recall"). A leading minus means that lower values are better.
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
    # The stage whose final weights are the initial weights of this stage. None: random weights.
    config.init_stage = _optional(str)
    # Whether `init_stage` is trained first if it is not finished. If False, --init must name the
    # initial weights.
    config.train_dependencies = size == "tiny"
    # compare_with: other stages in the tables of the report, which are trained if they are not
    # finished. control: the stage whose results are subtracted to compute gains. show: number of
    # records whose images are searched for retrieval_<language>.png, and shown in TensorBoard's
    # projector.
    config.report = ConfigDict(dict(compare_with=(), control=_optional(str), show=128))
    # Data sets that training converts if their records are missing.
    config.auto_convert = ("scenes",) if size == "tiny" else ()
    # Path of a vocabulary file, of a SentencePiece model, or of a folder with a tokenizer; "scenes"
    # is the vocabulary of the package. A public text encoder has a tokenizer of its own.
    config.vocabulary = "scenes" if size == "tiny" else "labse/vocab.txt"
    # Whether texts are lowercased and lose accents, as the vocabulary of an uncased BERT requires.
    config.lower_case = False
    # Public weights from which the model started; --init=hf:NAME_OR_FOLDER sets this value.
    config.pretrained = _optional(str)

    config.model = _model(size)
    # Side lengths in pixels (`resize` and `crop`), the method of resizing (a method of
    # `tf.image.resize`, with or without antialiasing), whether `resize` is the length of the
    # shorter side, and the color of transparent pixels.
    config.images = ConfigDict(
        dict(
            **_IMAGES[size],
            method="bilinear",
            antialias=False,
            keep_aspect_ratio=False,
            background="white",
        )
    )
    config.sources = ConfigDict()
    config.terms = ConfigDict()

    _add_step(config)
    _add_run(config, size)
    config.evaluation = ConfigDict()
    if size == "tiny":
        config.evaluation.retrieval = retrieval("scenes/test", trained=TRIPLE_LANGUAGES)
    return config


def retrieval(records, trained=()):
    """Returns the config of an evaluation by retrieval on a record set.

    Args:
        records: folder of the record set.
        trained: languages that the report lists first.
    """
    return ConfigDict(dict(records=records, languages=_optional(tuple), trained=tuple(trained)))


def source(size, corpus, fields, languages=None, **options):
    """Returns the config of a source, which reads fields from the records of a corpus.

    Args:
        size: one of `SIZES`.
        corpus: "captions", "bitext", "triples" or "taught" (texts with the vectors of a teacher).
        fields: {field: name of its encoder}. The name is "image", "text", or a key of
            `config.model.towers`.
        languages: codes of the languages of the texts that are read; None: all languages.
        **options: `epoch_unit` ("records", or "combinations" of images and languages),
            `min_languages` (minimum number of languages of a record), `weights` (sampling weight of
            each record set; None: in proportion to size ** (1 / temperature)), `temperature`,
            `flip` (whether images may be mirrored), and the shares of languages:
            `language_temperature` (None: the records determine the languages),
            `min_language_share`, `languages_of` ("draw"; "same", "cross" or "hybrid" for batches of
            one language or of one pair of languages) and `alpha` (share of "same" in "hybrid"). See
            docs/running.md. Record sets with more than `shuffle_limit` records are read in windows
            of `window_blocks` blocks, see docs/scale.md.
    """
    values = dict(
        epoch_unit="records",
        min_languages=0,
        weights=_optional(tuple),
        temperature=1.0,
        language_temperature=_optional(float),
        min_language_share=0.0,
        languages_of="draw",
        alpha=0.5,
        shuffle_limit=5_000_000,
        window_blocks=32,
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


def extraction(records, languages=None):
    """Returns the value `extraction` of a source whose vectors tools/extract.py must make.

    If the records of the source have no such vectors, training stops, and prints the command that
    makes them.

    Args:
        records: folders of the record sets without these vectors.
        languages: codes of the languages whose texts have vectors. None: all texts have vectors,
            and an example has the vector of the very text that is drawn.
    """
    return ConfigDict(
        dict(records=tuple(records), languages=_optional(tuple, languages and tuple(languages)))
    )


def add_negatives(config, term, folders):
    """Adds mined negatives to a term, which are further candidates of its field `x`.

    The negatives are read by a new source and a new field, `<term>_negatives`, whose encoder is
    that of the field `y`.

    Args:
        config: config of a stage, changed in place.
        term: name of a term whose loss takes negatives.
        folders: folder that tools/mine_negatives.py wrote, or a tuple of them, one for each record
            set of the source of the term; relative to --data_dir.
    """
    x, y, name = config.terms[term].x, config.terms[term].y, f"{term}_negatives"
    source = next(s for s, v in config.sources.items() if x in v.fields and y in v.fields)
    values = config.sources[source].to_dict()
    values.pop("code_switch", None)  # it names other fields
    config.sources[name] = {
        **values,
        "records": (folders,) if isinstance(folders, str) else tuple(folders),
        "fields": {name: config.sources[source].fields[y]},
        "negatives_of": source,
    }
    config.terms[term].negatives = name


def term(x, y, weight, loss=None, **options):
    """Returns the config of a term, which is a loss between two fields.

    Args:
        x, y: names of the fields.
        weight: factor of this loss in the total loss.
        loss: name of the loss in `tf_mural.losses.LOSSES`. None: the contrastive loss with the
            margin and the label smoothing of the paper.
        **options: options of the loss, and the names of its learned scalars, for example
            temperature="shared". `config.model.scalars` defines the names.
    """
    if loss is None:
        paper = dict(margin=0.3, label_smoothing=0.1, temperature="shared")
        loss, options = "contrastive", {**paper, **options}
    return dict(x=x, y=y, weight=weight, loss=loss, mask_duplicates=False, **options)
