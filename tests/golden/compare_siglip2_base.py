"""Compares a random checkpoint of the size of SigLIP 2 base with Hugging Face's class.

    python tests/golden/compare_siglip2_base.py venv-public_towers/bin/python

The argument is the interpreter of the environment of record_public_towers.py. The script writes a
checkpoint with 375 million parameters (1.5 GB) to a temporary folder, records the embeddings of
Hugging Face in float64, and prints the largest difference from the embeddings of the encoders of
`tf_mural` in float32. It needs 8 GB of memory, and is not part of the tests.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), os.path.dirname(os.path.dirname(HERE))]
import public_towers_case as case  # noqa: E402
from helpers import public_checkpoints  # noqa: E402

from tf_mural.public_models import open_model  # noqa: E402

_LAYERS = {"num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_VISION = {"hidden_size": 768, "image_size": 224, "patch_size": 16, **_LAYERS}
_TEXT = {"hidden_size": 768, "vocab_size": 256000, "max_position_embeddings": 64, **_LAYERS}


def main(interpreter):
    """Prints the largest differences."""
    with tempfile.TemporaryDirectory() as folder:
        text = {**_TEXT, "projection_size": 768}
        public_checkpoints.siglip_2(folder, vision_config=_VISION, text_config=text)
        path = os.path.join(folder, "preprocessor_config.json")
        with open(path, encoding="utf-8") as file:
            processor = json.load(file)
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**processor, "size": {"height": 224, "width": 224}}, file)
        output = os.path.join(folder, "recorded.npz")
        record = os.path.join(HERE, "record_public_towers.py")
        subprocess.run([interpreter, record, folder, output], check=True)
        with np.load(output) as file:
            expected = dict(file)
        model, start = open_model(f"hf:{folder}"), time.monotonic()
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            tokens = public_checkpoints.tokens(json.load(file))
        for modality, name, inputs in (
            ("image", "image_224", case.images(224)),
            ("text", "text", tokens),
        ):
            encoder = model.encoder(modality)
            rows = [np.asarray(encoder(inputs)), expected[name]]
            count = encoder.count_params()
            raw = np.abs(rows[0] - rows[1]).max()
            unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows]
            print(
                f"{modality}: {count:,} parameters, largest difference {raw:.1e} of values up to "
                f"{np.abs(rows[1]).max():.1f}; {np.abs(unit[0] - unit[1]).max():.1e} of unit rows"
            )
        print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
