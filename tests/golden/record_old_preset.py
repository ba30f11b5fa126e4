"""Records a preset of an earlier version of this package, and embeddings, in old_preset.zip.

Run this script with the earlier version and this folder on the path:

    git worktree add ../old 4a1f53c
    PYTHONPATH=../old:tests/golden python tests/golden/record_old_preset.py

In config.json, the earlier version wrote `batch_norm_group` for `virtual_batch_size`. In
model.weights.h5, the earlier version named the batch norm layers `grouped_batch_normalization`. The
archive also contains embeddings.npz, which has the arrays "image" and "text", (n, d).
"""

import os
import tempfile
import zipfile

import keras
import numpy as np
import old_preset_case as case
from tf_mural.text import Tokenizer

from tf_mural import models, presets


def main():
    """Writes old_preset.zip."""
    keras.utils.set_random_seed(7)
    models.EFFICIENTNETS[case.NAME] = case.EFFICIENTNET
    arguments = {
        "image": {
            "name": case.NAME,
            "image_size": case.CROP,
            "stochastic_depth": 0.0,
            "batch_norm_group": 2,
        },
        "text": {
            "vocabulary_size": len(case.VOCABULARY),
            "max_tokens": 6,
            "sizes": (1, 8, 2, 16),
            "dropout": 0.0,
        },
        "embedding_dim": 4,
        "temperatures": {"shared": 0.5},
    }
    encoder = models.dual_encoder(**arguments)
    # A training pass changes the batch norm statistics from their initial values.
    encoder.encode("image", case.images(8).astype("float32"), training=True)
    tokenizer = Tokenizer(case.VOCABULARY, 6, True)
    embeddings = {
        "image": np.asarray(encoder.encode("image", case.images().astype("float32"))),
        "text": np.asarray(encoder.encode("text", np.asarray(tokenizer(case.TEXTS)))),
    }
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"resize": case.RESIZE, "crop": case.CROP}
        preset = os.path.join(folder, "preset")
        presets.save_preset(preset, arguments, encoder, tokenizer, sizes)
        np.savez(os.path.join(folder, "embeddings.npz"), **embeddings)
        with zipfile.ZipFile(case.ARCHIVE, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for root, _, names in os.walk(folder):
                for name in sorted(names):
                    path = os.path.join(root, name)
                    archive.write(path, os.path.relpath(path, folder))
    print(f"wrote {case.ARCHIVE}: {os.path.getsize(case.ARCHIVE)} bytes")


if __name__ == "__main__":
    main()
