"""Distillation: texts in all languages are moved to where a teacher places their English version.

    python tools/train.py --stage=mural
    python tools/extract.py --model=runs/tiny/mural-s0 --name=teacher --of=texts --languages=en \\
        --records=data/scenes/train,data/scenes/bitext --out_dir=data/taught
    python tools/train.py --stage=distil

The second command stores the embeddings of the English texts, the teacher, in new record sets. The
stage reads no images: the image encoder stays that of the teacher's model, and finds the texts of
the student because the student's embeddings are close to those of the teacher.
"""

from . import base

# {size: (batch size, steps, learning rate)}. The learning rate falls linearly to 0.
RECIPES = {
    "tiny": (256, 300, 4e-3),
    "b3_mini": (16_384, 3_000, 5e-4),
    "paper": (16_384, 3_000, 1e-4),
}


def add_distillation(config, size, weight=1.0, form="mse"):
    """Adds the tower, the source and the term of the distillation to a config.

    Args:
        config: `ConfigDict` of a stage, changed in place.
        size: one of `base.SIZES`.
        weight: factor of the loss.
        form: "cosine", "contrastive" or "mse", see `tf_mural.losses.distil`.
    """
    config.model.towers.teacher = dict(modality="vectors", vectors="teacher", layers=())
    config.model.towers.teacher.width = config.model.get_ref("embedding_dim")
    # The row of an English text is the target of a text of the same record in any language.
    # The temperature gives languages with few texts a larger share.
    fields = dict(text="text", teacher="teacher")
    config.sources.translations = base.source(size, "taught", fields)
    config.sources.translations.language_temperature = 3.0
    config.sources.translations.extraction = base.extraction(base.TAUGHT[size], ("en",))
    config.terms.text_teacher = base.term("text", "teacher", weight, "distil", form=form)


def get_config(size="tiny"):
    """Returns a config with the distance of texts in all languages from the teacher's vectors.

    `--config.terms.text_teacher.form=cosine` selects another distance.
    """
    config = base.base_config("distil", size)
    config.init_stage = "mural"
    config.model.image.adapt = "frozen"
    config.batch_size, config.steps, config.optimizer.learning_rate = RECIPES[size]
    add_distillation(config, size)
    if size == "tiny":
        config.report.compare_with, config.report.control = ("mural",), "mural"
    return config
