"""Example for your own images: trains on record sets that tools/convert.py wrote to data/own.

    python tools/convert.py --dataset=table --raw_dir=my_images --out_dir=data/own \\
        --vocab_size=8000
    python tools/train.py --config=configs/examples/own.py --stage=etcl

The stage `distil` needs vectors of the English texts; it prints the command that makes them. The
stage `codeswitch` needs a lexicon in data/own/lexicon, which tools/lexicon.py makes.

To change settings, write a file such as the following, and give that file to --config:

    from tf_mural.configs.examples import own

    def get_config(stage):
        config = own.get_config(stage, "flowers", first=("de",), triples=("de", "fr", "it"))
        config.batch_size, config.steps = 128, 1000
        return config
"""

from .. import (
    align,
    base,
    codeswitch,
    control,
    distil,
    etcl,
    finetune,
    mural,
    one_language,
    sixlang,
)

STAGES = {
    "align": align,
    "mural": mural,
    "control": control,
    "etcl": etcl,
    "sixlang": sixlang,
    "one_language": one_language,
    "finetune": finetune,
    "distil": distil,
    "codeswitch": codeswitch,
}


def get_config(stage, folder="own", first=("en",), triples=None, bitext=None, recipes=None):
    """Returns the config of a stage at size tiny, on one folder of record sets.

    Args:
        stage: one of `STAGES`.
        folder: output folder of the conversion, relative to --data_dir. It contains the record sets
            `train` for training and `val` for evaluation, and the vocabulary `vocab.txt`. Runs are
            written to runs/<folder>/.
        first: languages of the captions that MURAL trains on, and of the texts whose vectors are
            the teacher of the stage `distil`.
        triples: languages of the captions that ETCL trains on; None: all languages.
        bitext: record set of translations, relative to --data_dir; None: texts of the same image
            are used as translations.
        recipes: {stage: (steps, warm-up steps, peak learning rate)}, which contains all allowed
            stages; None: the stages and the recipes of size tiny.

    Raises:
        ValueError: the stage is unknown.
    """
    if stage not in (recipes or STAGES):
        raise ValueError(f"unknown stage {stage!r}; known: {', '.join(recipes or STAGES)}")
    config = STAGES[stage].get_config("tiny")
    config.size, config.auto_convert, config.vocabulary = folder, (), f"{folder}/vocab.txt"
    for source in config.sources.values():
        source.records = (f"{folder}/train",)
        # With a few thousand images, "combinations" would often put an image into a batch twice.
        source.epoch_unit = "records"
        if "code_switch" in source:
            source.code_switch.lexicon = f"{folder}/lexicon"
        if "extraction" in source:
            source.records = (f"{folder}/taught/train",)
            source.extraction = base.extraction((bitext or f"{folder}/train",), first)
        elif "image" in source.fields:
            source.languages = triples if stage in ("etcl", "sixlang") else first
        elif bitext:
            source.records = (bitext,)
    # Several images may have the same text. This text must not be a negative of these images. The
    # value also applies to terms that are added to this config.
    config.mask_duplicates = True
    config.evaluation.retrieval.update(records=f"{folder}/val", trained=triples or ())
    if recipes:
        config.steps, config.optimizer.warmup_steps, config.optimizer.learning_rate = recipes[stage]
    return config
