"""Takes ETCL steps with pairs of public towers: python tower_matrix_script.py MODELS OUT PAIR...

A pair is "image family/text family", such as "vit/bert"; see `helpers.tower_families`, which has
written the models to the folder MODELS. For each pair, the script writes the trained run
"OUT/<image family>-<text family>", and the arrays of `run_pair` to a file of this name. The module
test_tower_matrix runs this script on JAX, and calls `run_pair` on TensorFlow.
"""

import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from backend_script import assign_by_name  # noqa: E402
from helpers import tower_families, trainers  # noqa: E402

from tf_mural import experiment, models  # noqa: E402
from tf_mural.backends import backend_module  # noqa: E402
from tf_mural.experiment import config_loading, model_io, public_encoders, trainer  # noqa: E402
from tf_mural.training import checkpoints  # noqa: E402

LEARNING_RATE, DECAY, LANGUAGES = 1e-2, 0.5, ("de", "en")
TEXTS = {
    "text_a": ["a red dog", "a blue cat", "red", "a dog"],
    "text_b": ["blue", "a cat a dog", "cat", "a dog red"],
}
# {name of a trainer: changes of the config}.
TRAINERS = {
    "plain": {},
    "remat": {"remat": True, "optimizer.layer_decay": DECAY},
    "frozen image": {"model.image.adapt": "frozen", "model.text.adapt": "last:1"},
    "frozen text": {"model.image.adapt": "last:1", "model.text.adapt": "frozen"},
}


def run_file(out, pair):
    """Returns the path of the run of a pair."""
    return os.path.join(out, pair.replace("/", "-"))


def make_config(names, folder, changes):
    """Returns the config of ETCL with public towers, {modality: name}, and Adam."""
    config = config_loading.load_config("etcl", "tiny")
    values = {f"model.{modality}.backbone": name for modality, name in names.items()}
    values |= {"model.embedding_dim": 10, "batch_size": 4, "optimizer.name": "adam"}
    values |= {"optimizer.learning_rate": LEARNING_RATE, "optimizer.weight_decay": 0.0, **changes}
    overrides = [f"--config.{name}={value}" for name, value in values.items()]
    config_loading.apply_overrides(config, overrides)
    config.model.image.virtual_batch_size = None
    public_encoders.apply_backbone_settings(config, folder)
    return config


def make_trainer(config, tokenizer, strategy):
    """Returns the trainer of a config, and the description of its model."""
    description = model_io.describe(config, tokenizer, LANGUAGES)
    description["encoders"] = public_encoders.encoder_specs(config)
    keras.utils.set_random_seed(0)
    result = trainer.make_trainer(config, description, LANGUAGES, strategy)
    for variable in result.encoder.variables:
        # Initializers draw other numbers on JAX than on TensorFlow. The name of a path may have a
        # number.
        if "projection" in variable.path and "kernel" in variable.path:
            assign_by_name(variable)
    return result, description


def make_batch(config, tokenizer):
    """Returns a batch of random images and of `TEXTS`."""
    rows, side = config.batch_size, config.images.crop
    pixels = np.random.default_rng(0).integers(0, 256, (rows, side, side, 3)).astype(np.uint8)
    batch = {"image": {"id": np.arange(rows), "pixels": pixels}}
    for field, texts in TEXTS.items():
        tokens = np.asarray(tokenizer(texts))
        batch[field] = {"id": np.arange(rows) + len(batch) * rows, "tokens": tokens}
        batch[field]["language"] = np.zeros(rows, np.int32)
    return batch


def take_step(name, trained, batch, strategy):
    """Takes a step; returns weights before and after it, gradients, and loss, as named arrays."""
    variables = checkpoints.variables_by_path(trained.encoder)
    before = trained.snapshot(variables)
    if keras.backend.backend() == "tensorflow":  # Tracing takes longer than a step.
        loss = trained.train_step(trainers.to_tensors(batch))["loss"]
    else:
        dataset = tf.data.Dataset.from_tensors(batch).repeat()
        runner = backend_module().Runner(trained, strategy, lambda start_step: dataset)
        runner.start(0)
        (loss,) = runner.run(1)["loss"]
    after = trained.snapshot(variables)
    arrays = {f"{name}/before/{path}": np.asarray(value) for path, value in before.items()}
    arrays |= {f"{name}/after/{path}": np.asarray(value) for path, value in after.items()}
    # After the first step of Adam, the first moment is (1 - beta_1) times the gradient.
    moments = zip(trained.encoder.trainable_variables, trained.optimizer._momentums, strict=True)
    gradients = {v.path: np.asarray(m) / (1 - trained.optimizer.beta_1) for v, m in moments}
    arrays |= {f"{name}/gradient/{path}": value for path, value in gradients.items()}
    return arrays | {f"{name}/loss": np.asarray(loss)}


def paths_of_parts(encoder):
    """Returns {tower: {part: paths}}. Parts are "block 0", "block 1", "projection" and "other"."""
    paths, parts = {id(v): v.path for v in encoder.variables}, {}
    for name, tower in encoder.towers.items():
        blocks = sorted(models.remat_blocks(tower), key=lambda block: block.name)
        layers = {f"block {i}": block for i, block in enumerate(blocks)}
        layers["projection"] = tower.get_layer(f"{name}_projection")
        parts[name] = {
            # The first stage of an EfficientNet also contains the stem.
            part: [paths[id(v)] for v in layer.variables if not v.path.startswith("stem_")]
            for part, layer in layers.items()
        }
        listed = {path for part in parts[name].values() for path in part}
        parts[name]["other"] = [v.path for v in tower.variables if v.path not in listed]
    return parts


def embed(name, encoder, batch):
    """Returns the embeddings of the images and of the texts "text_a" of a batch."""
    functions = backend_module().encoder_functions(encoder)
    inputs = {"image": batch["image"]["pixels"], "text": batch["text_a"]["tokens"]}
    return {f"{name}/{tower}": np.asarray(functions[tower](x)) for tower, x in inputs.items()}


def run_pair(public, out, pair, names=tuple(TRAINERS)):
    """Takes a step with each trainer, and saves and loads the run of the first one.

    Args:
        public: folder of the models of all families.
        out: output folder.
        pair: "image family/text family".
        names: keys of `TRAINERS`.

    Returns:
        {name: array}: the arrays of `take_step` of each trainer, the embeddings of the trained and
        of the loaded model, and "parts", the result of `paths_of_parts` as JSON.
    """
    image, text = (tower_families.name(public, family) for family in pair.split("/"))
    folder, arrays = run_file(out, pair), {}
    strategy = backend_module().make_strategy("one")
    for name in names:
        config = make_config({"image": image, "text": text}, folder, TRAINERS[name])
        options = config.model.text.max_tokens, config.lower_case
        tokenizer = public_encoders.open_tokenizer(config.vocabulary, *options)
        trained, description = make_trainer(config, tokenizer, strategy)
        batch = make_batch(config, tokenizer)
        arrays |= take_step(name, trained, batch, strategy)
        if name == names[0]:
            arrays |= embed("trained", trained.encoder, batch)
            arrays["parts"] = np.array(json.dumps(paths_of_parts(trained.encoder)))
            weights = trained.snapshot(checkpoints.variables_by_path(trained.encoder))
            checkpoints.save_model(folder, weights, description, config.vocabulary)
    return arrays | embed("loaded", experiment.load(folder).encoder, batch)


def main(public, out, *pairs):
    """Writes the arrays of all pairs."""
    for pair in pairs:
        # The gradients are compared with those of TensorFlow without gradient checkpointing.
        arrays = run_pair(public, out, pair, names=("remat",))
        np.savez(run_file(out, pair) + ".npz", **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
