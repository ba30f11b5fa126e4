"""What all stages share: models and recipes by size, and the shape of a config.

A stage is data: sources (records and the fields drawn from them), terms (losses between fields),
and a schedule. Every value can be overridden: `--config.optimizer.learning_rate=1e-4`.
"""

from ml_collections import ConfigDict

# The languages whose captions ETCL's triples have, as in the paper.
TRIPLE_LANGUAGES = ("en", "de", "fr", "cs", "zh", "ja")
SIZES = ("tiny", "b3_mini", "paper")

_MODELS = {
    # Small towers for pictures of 64 px, trained in minutes on two CPU cores.
    "tiny": dict(
        image=dict(name="tiny", image_size=64, stochastic_depth=0.0, batch_norm_momentum=0.9),
        text=dict(name="nano", max_tokens=32, dropout=0.0),
        embedding_dim=128,
        temperature=0.07,
    ),
    # coyo-align's smallest model with published values: EfficientNet-B3 and BERT-mini on CC3M.
    "b3_mini": dict(
        image=dict(name="b3", image_size=289, stochastic_depth=0.2, batch_norm_momentum=0.99),
        text=dict(name="mini", max_tokens=64, dropout=0.1),
        embedding_dim=640,
        temperature=1.0,
    ),
    # The paper: EfficientNet-B7 (640 wide without its top) and BERT-base.
    "paper": dict(
        image=dict(name="b7", image_size=289, stochastic_depth=0.2, batch_norm_momentum=0.99),
        text=dict(name="base", max_tokens=64, dropout=0.1),
        embedding_dim=640,
        temperature=1.0,
    ),
}
_BATCH_NORM_GROUPS = {"tiny": 0, "b3_mini": 16, "paper": 16}  # images; see below
_IMAGES = {
    "tiny": dict(resize=72, crop=64),
    "b3_mini": dict(resize=346, crop=289),
    "paper": dict(resize=346, crop=289),
}
# Where the records of a size are, under --data_dir; docs of each dataset: tools/convert.py --list.
_RECORDS = {
    "tiny": dict(captions=("scenes/train",), bitext=("scenes/bitext",), triples=("scenes/train",)),
    "b3_mini": dict(captions=("cc3m/train",), bitext=("ccmatrix/train",), triples=("uc2/train",)),
    "paper": dict(
        captions=("crawl/train", "cc3m/train", "cc12m/train"),
        bitext=("ccmatrix/train",),
        triples=("uc2/train",),
    ),
}


def _model(size):
    model = _MODELS[size]
    return ConfigDict(
        dict(
            embedding_dim=model["embedding_dim"],
            image=dict(
                **model["image"],
                # Images that share statistics; 0: a replica's whole share; -1: the whole batch, of
                # all replicas (with micro-batches, on one replica: a micro-batch).
                batch_norm_group=_BATCH_NORM_GROUPS[size],
                padding="symmetric",
                preset="",
            ),
            # sizes: layers, width, heads and feed-forward width of a BERT that no name stands for.
            text=dict(**model["text"], sizes=(), activation="gelu_approximate", preset=""),
            # One temperature for all terms; further names, and `temperature` of a term, part them.
            temperatures=dict(shared=model["temperature"]),
            freeze=(),
        )
    )


def _lamb():
    return ConfigDict(
        dict(
            name="lamb",  # or "adam", which is AdamW: LAMB without its trust ratio
            learning_rate=0.0,
            warmup_steps=0,
            decay=1e-5,
            beta_1=0.9,
            beta_2=0.999,
            epsilon=1e-6,
            clip_norm=0.0,  # 0: off
            # Factor of the rate from a layer of the towers to the one below; 1: the same for all.
            layer_decay=1.0,
            # Momentum of a moving average of the weights, which the run ends with; 0: off.
            average=0.0,
            # Regular expressions over variable paths.
            exclude_from_decay=("_bn/", "/bias$", "layer_norm/", "temperature"),
            exclude_from_adaptation=("_bn/",),
        )
    )


def _add_step(config):
    """Adds what makes a step: its batch, how it is computed, what becomes of bad ones."""
    config.batch_size, config.steps = 0, 0
    # Rows of a replica's share that are encoded at a time, each twice; 0: the whole share, once.
    # Gradients stay those of the whole batch, memory becomes that of a micro-batch. Batch norm
    # takes its statistics over a micro-batch, or over the groups of batch_norm_group in it.
    config.microbatch = 0
    # Rows of a replica's share whose logits (rows x batch_size) are held at a time; 0: all.
    config.loss_chunk = 0
    # Whether a training pass keeps the inputs of stages and transformer layers alone, and computes
    # the rest again on the way back: less memory, more time, the same gradients.
    config.rematerialise = False
    # Whether each device holds a part of the optimizer's slots (ZeRO-1), or of the table of tokens
    # too, instead of all of it; on JAX.
    config.shard_optimizer = False
    config.shard_embeddings = False
    # What the towers compute in: "float32", "mixed_bfloat16" or "mixed_float16" (whose loss is
    # scaled). Weights, embeddings, loss, temperature, slots and statistics are float32 in any case.
    config.precision = "float32"
    # Whether rows that hold an image or a text of a row again are no negatives of it, in all terms
    # (a term's own mask_duplicates switches it on for that term). False: the paper.
    config.mask_duplicates = False
    # Share of the examples drawn, or of 1,000 if fewer were drawn, whose records may be damaged, or
    # have an image that does not decode or a text of unknown tokens alone. Above it, the run stops.
    config.max_bad_records = 0.01
    # A step whose loss or gradient norm is not finite, or whose norm is above this limit (0: none):
    # "stop" ends the run before anything of it is saved, "skip" leaves the step out.
    config.on_bad_step = "stop"
    config.max_gradient_norm = 0.0
    config.max_skipped_in_a_row = 20  # steps; so many end the run all the same
    config.optimizer = _lamb()


def _add_run(config, size):
    """Adds how steps are run, logged and saved, and when they are evaluated."""
    config.jit_compile = False
    config.steps_per_loop = 1  # that run without coming back to Python; TPUs want many
    config.log_every = 20 if size == "tiny" else 100
    # The steps that TensorBoard's profiler looks at, from the first to the one after the last.
    config.profile_steps = ()
    # Whether the weights that a run starts from are scored before its first step, so that it can
    # tell in the end which languages lost (before.json).
    config.evaluate_first = False
    # Evaluations in a row without a better value of `keep_best` after which the run ends; 0: off.
    config.stop_early = 0
    # How far the run goes from the weights of --init to its own: below 1 it ends with a mixture of
    # both (WiSE-FT).
    config.interpolate = 1.0
    # A checkpoint every so many steps, or minutes, or both (0: off); before each evaluation too.
    config.checkpoint_every = 200 if size == "tiny" else 1000
    config.checkpoint_minutes = 0.0
    config.keep_checkpoints = 2  # the last ones; a disk needs room for one more
    # Whether training goes on while one is written, which takes memory for a second state at most.
    config.checkpoint_in_background = True
    config.evaluate_every = 0  # 0: at the end only
    # The number by which the best step is kept, as TensorBoard names it, or a pattern for the mean
    # of all that fit ("retrieval/*/average_recall"); after a minus the lower the better. "": off.
    config.keep_best = ""


def base_config(stage, size):
    """The part of a config that does not depend on the stage's losses.

    Args:
        stage: name that the run goes by.
        size: one of `SIZES`.

    Returns:
        `ConfigDict` of plain data, with empty `sources` and `terms`.
    """
    config = ConfigDict()
    config.stage, config.size, config.seed = stage, size, 0
    # The stage whose weights this one starts from ("": from scratch), and the stages that its
    # report sets beside it.
    config.starts_from = ""
    # Whether a run trains that stage first where it is not finished, or asks for --init.
    config.chain = size == "tiny"
    # `show`: images of the retrieval's records that are shown in the end, with what each language
    # finds among them (retrieval_<language>.png), and as points in TensorBoard; 0: none.
    config.report = ConfigDict(dict(beside=(), control="", show=128))
    # Datasets that training may make itself where their records are missing.
    config.makes = ("scenes",) if size == "tiny" else ()
    # A file, or "scenes" for the one in the package.
    config.vocabulary = "scenes" if size == "tiny" else "labse/vocab.txt"
    # Whether texts lose case and accents first, as the vocabulary of an uncased BERT wants it.
    config.lower_case = False
    # The public weights whose model this is. --init=hf:NAME_OR_FOLDER sets it and what they decide.
    config.pretrained = ""

    config.model = _model(size)
    config.images = ConfigDict(_IMAGES[size])
    config.sources = ConfigDict()
    config.terms = ConfigDict()

    _add_step(config)
    _add_run(config, size)
    config.evaluation = ConfigDict()
    if size == "tiny":
        config.evaluation.retrieval = ConfigDict(
            dict(
                records="scenes/test",
                languages=(),  # (): all that the records have
                trained=TRIPLE_LANGUAGES,
            )
        )
    return config


def source(size, corpus, fields, languages=(), **options):
    """A source: fields drawn from the records of a corpus.

    Args:
        size: one of `SIZES`.
        corpus: "captions", "bitext" or "triples".
        fields: {field: "image" or "text"}.
        languages: codes that its texts may have; () is all.
        **options: `walk` ("records" or "combinations"), `min_languages`, `weights` (one a record
            set; () is in proportion to size), `temperature` (of that proportion), `flip`.
    """
    defaults = dict(walk="records", min_languages=0, weights=(), temperature=1.0, flip=True)
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise ValueError(f"Unknown options of a source: {unknown}. Known: {sorted(defaults)}.")
    return dict(
        records=_RECORDS[size][corpus],
        fields=fields,
        languages=tuple(languages),
        **{**defaults, **options},
    )


def term(x, y, weight):
    """A contrastive loss between two fields, with the paper's margin and smoothing."""
    return dict(
        x=x,
        y=y,
        weight=weight,
        loss="contrastive",
        margin=0.3,
        label_smoothing=0.1,
        temperature="shared",
        mask_duplicates=False,
    )
