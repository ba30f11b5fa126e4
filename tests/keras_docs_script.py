"""Runs the training examples of docs/keras.md on the backend that KERAS_BACKEND names.

The working directory contains a folder "data" with a few scenes. The examples run with a model of
small towers, small batches and few steps. The script then trains with each class of the examples.
"""

import os
import re
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests")]

import keras  # noqa: E402
import numpy as np  # noqa: E402
from helpers import trainers  # noqa: E402, F401  registers the encoders "test"
from keras import ops  # noqa: E402

import tf_mural  # noqa: E402
from tf_mural.experiment.config_validation import SCENES_VOCABULARY  # noqa: E402

ON_JAX = keras.backend.backend() == "jax"
HEADING = "## Train with `fit`"
REPLACEMENTS = {
    "batch_size=128": "batch_size=8",
    "steps_per_epoch=180": "steps_per_epoch=2",
    "steps_per_epoch=90": "steps_per_epoch=1",
    "configs/etcl.py": os.path.join(ROOT, "tests", "small_config.py"),
}


def make_model():
    """Returns a dual encoder for scenes: a small convolutional tower and a small text tower."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(pixels)
    image_encoder = tf_mural.ImageEncoder(keras.Model(pixels, x), dim=16)
    tokens = keras.Input((None,), dtype="int32")
    tokenizer = tf_mural.data.Tokenizer(SCENES_VOCABULARY, 16)
    x = keras.layers.Embedding(tokenizer.size, 16)(tokens)
    x = keras.layers.LayerNormalization()(x)
    text_encoder = tf_mural.TextEncoder(keras.Model(tokens, x), tokenizer=tokenizer, dim=16)
    return tf_mural.DualEncoder(image_encoder=image_encoder, text_encoder=text_encoder)


def examples():
    """Yields (language of the code block, code) of the examples, with small sizes."""
    with open(os.path.join(ROOT, "docs", "keras.md"), encoding="utf-8") as file:
        text = file.read().split(HEADING)[1]
    for kind, code in re.findall(r"```(python(?: jax)?)\n(.*?)```", text, re.S):
        for long, short in REPLACEMENTS.items():
            code = code.replace(long, short)
        yield kind, code


def run_overview():
    """Runs the first example of the page, which builds, trains and uses a model."""
    import keras_hub
    from PIL import Image

    with open(os.path.join(ROOT, "docs", "keras.md"), encoding="utf-8") as file:
        code = re.search(r"```python\n(import keras_hub.*?)```", file.read(), re.S)[1]
    for old, new in REPLACEMENTS.items():
        code = code.replace(old, new)
    vocabulary = tf_mural.data.Tokenizer(SCENES_VOCABULARY, 16).vocabulary
    small = {
        'keras_hub.models.Backbone.from_preset("vit_base_patch16_224_imagenet")': "image_backbone",
        'keras_hub.models.BertBackbone.from_preset("bert_base_multi")': "text_backbone",
        'keras_hub.models.BertTokenizer.from_preset("bert_base_multi")': "tokenizer",
    }
    for large, name in small.items():
        assert large in code
        code = code.replace(large, name)
    namespace = {
        "image_backbone": keras_hub.models.ViTBackbone(
            (32, 32, 3), 16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16
        ),
        "text_backbone": keras_hub.models.BertBackbone(len(vocabulary), 1, 2, 16, 32),
        "tokenizer": keras_hub.models.BertTokenizer(vocabulary=list(vocabulary)),
    }
    Image.new("RGB", (40, 30), "red").save("dog.jpg")
    if ON_JAX:  # Only the process on TensorFlow runs this line.
        code = "\n".join(line for line in code.splitlines() if "tf_mural.train(" not in line)
    exec(code, namespace)
    model = namespace["model"]
    texts, images = model.embed_texts(["ein Hund"]), model.embed_images(["dog.jpg"])
    assert texts.shape == images.shape == (1, 640)
    np.testing.assert_allclose(np.linalg.norm([texts, images], axis=-1), 1.0, rtol=1e-5)
    assert namespace["trainer"].next_step() == 2
    assert ON_JAX or os.path.exists("runs/etcl/results.json")


def history_of(trainer, learning_rate=1e-3):
    trainer.compile(optimizer=tf_mural.optimizers.AdamW(learning_rate))
    dataset = tf_mural.data.training_dataset(
        "data/scenes/train", trainer, batch_size=8, languages=["en", "de"], start_step=0
    )
    return {k: v[0] for k, v in trainer.fit(dataset, steps_per_epoch=1, verbose=0).history.items()}


def check_objective(cls):
    """Checks the logs of the class that changes the objective, with and without loss chunks."""
    logs = history_of(cls(make_model()))
    plain = history_of(tf_mural.ETCL(make_model()))
    assert logs["distance"] > 0.01
    np.testing.assert_allclose(logs["loss"], plain["loss"] + 0.1 * logs["distance"], rtol=1e-5)
    assert logs["gradient_norm"] != plain["gradient_norm"]
    chunks = history_of(cls(make_model(), loss_chunk=2))
    for name in ("loss", "distance", "gradient_norm"):
        np.testing.assert_allclose(chunks[name], logs[name], rtol=1e-4)


def check_step(cls):
    """Checks that the class that overrides the step only adds a log."""
    logs, plain = history_of(cls(make_model())), history_of(tf_mural.ETCL(make_model()))
    np.testing.assert_allclose(logs["norm_ratio"], logs["gradient_norm"] / logs["loss"], rtol=1e-5)
    del logs["norm_ratio"]
    assert logs == plain


def check_loss(trainer):
    """Checks that the registered loss starts at its value for the embeddings, and decreases."""
    dataset = tf_mural.data.training_dataset(
        "data/scenes/train", trainer, batch_size=8, languages=["en", "de"], start_step=0
    )
    pairs = trainer.predict(dataset, steps=1, verbose=0)
    expected = np.mean((1 - np.sum(pairs["image"] * pairs["caption"], axis=1)) ** 2)
    # Training mode equals inference mode, because the towers have no dropout and no batch norm.
    losses = [history_of(trainer, learning_rate=1e-2)["loss"] for _ in range(4)]
    np.testing.assert_allclose(losses[0], expected, rtol=1e-4)
    assert losses[-1] < losses[0]


def main():
    namespace = {"keras": keras, "ops": ops, "tf_mural": tf_mural, "model": make_model()}
    os.makedirs("runs", exist_ok=True)
    for kind, code in examples():
        is_step = "def train_step" in code
        if is_step and (kind == "python jax") != ON_JAX or ON_JAX and "tf_mural.train(" in code:
            continue
        exec(code, namespace)
    assert int(namespace["trainer"].step.numpy()) == 4
    check_objective(namespace["AlignedETCL"])
    check_step(namespace["ETCLWithRatio"])
    check_loss(namespace["distilled"])
    if not ON_JAX:
        results, result = namespace["results"], namespace["result"]
        assert results["stage"] == "etcl" and results["steps"] == 6
        assert set(result.values) >= {"en", "de"}
    run_overview()
    print("all examples ran")


if __name__ == "__main__":
    main()
