"""Your own pictures: trains on what tools/convert.py wrote to data/own.

    python tools/convert.py --dataset=table --raw_dir=my_pictures --out_dir=data/own \\
        --vocab_size=8000
    python tools/train.py --config=configs/examples/own.py --stage=etcl

A file of your own says what differs, and is given to --config instead of this one:

    from configs.examples import own

    def get_config(stage):
        config = own.get_config(stage, "flowers", first=("de",), triples=("de", "fr", "it"))
        config.batch_size, config.steps = 128, 1000
        return config
"""

from configs import align, control, etcl, finetune, mural, one_language, sixlang

STAGES = {
    "align": align,
    "mural": mural,
    "control": control,
    "etcl": etcl,
    "sixlang": sixlang,
    "one_language": one_language,
    "finetune": finetune,
}


def get_config(stage, folder="own", first=("en",), triples=(), bitext=""):
    """A stage at size tiny, on one folder of records.

    Args:
        stage: a name of `STAGES`.
        folder: the --out_dir of the conversion, under --data_dir: `train` is learnt from, `val`
            is scored, `vocab.txt` is the vocabulary. Runs go to runs/<folder>/.
        first: languages of the texts that MURAL sees with a picture.
        triples: languages of the texts that ETCL sees with a picture; () is all there are.
        bitext: record set of translations, under --data_dir; by default the texts of a picture
            translate each other.

    Raises:
        ValueError: an unknown stage.
    """
    if stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r}; known: {', '.join(STAGES)}")
    config = STAGES[stage].get_config("tiny")
    config.size, config.makes, config.vocabulary = folder, (), f"{folder}/vocab.txt"
    for source in config.sources.values():
        source.records = (f"{folder}/train",)
        # A few thousand pictures: walking every combination would put many twice into a batch.
        source.walk = "records"
        if "image" in source.fields:
            source.languages = tuple(triples if stage in ("etcl", "sixlang") else first)
        elif bitext:
            source.records = (bitext,)
    for term in config.terms.values():
        # Texts that several pictures share are no negatives of each other.
        term.mask_duplicates = True
    config.evaluation.retrieval.update(records=f"{folder}/val", trained=tuple(triples))
    return config
