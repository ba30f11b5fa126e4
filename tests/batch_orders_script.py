"""Embeds items in batches of several sizes: KERAS_BACKEND=jax python batch_orders_script.py OUT.npz
FOLDER...

Each FOLDER is a run or a preset. The module test_batch_independence runs this script on each
backend and compares the embeddings.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np  # noqa: E402

SIZES = (1, 7, 64)


def make_items():
    """Returns 70 texts of 0 to 40 words in several scripts, and 70 image files of any shape."""
    from helpers.images import encode

    rng = np.random.default_rng(0)
    words = "a red circle ein roter Kreis 赤い 丸 🐕 e\u0301 un cercle rouge".split()
    texts = [" ".join(rng.choice(words, length)) for length in rng.integers(0, 41, 70)]
    shapes = [(*rng.integers(8, 120, 2), 3) for _ in range(70)]
    images = [
        encode(rng.integers(0, 256, shape, np.uint8), rng.choice(["PNG", "JPEG"]))
        for shape in shapes
    ]
    return {"texts": texts, "images": images}


def in_all_orders(name, embed):
    """Embeds the items in batches of each size and in another order for each size.

    Args:
        name: prefix of the result.
        embed: function (part, items, size) -> (n, d), where the part is "texts" or "images".

    Returns:
        {"name/part/size": (n, d), in the order of `make_items`}.
    """
    results = {}
    for part, items in make_items().items():
        for size in SIZES:
            order = np.random.default_rng(size).permutation(len(items))
            rows = embed(part, [items[i] for i in order], size)
            results[f"{name}/{part}/{size}"] = rows[np.argsort(order)]
    return results


def main(out, *folders):
    """Embeds with the models in `folders`, and writes the results to the file `out`."""
    import tf_mural

    results = {}
    for folder in folders:
        embedders = {size: tf_mural.Embedder.load(folder, batch_size=size) for size in SIZES}

        def embed(part, items, size, embedders=embedders):
            return getattr(embedders[size], f"embed_{part}")(items)

        results |= in_all_orders(os.path.basename(folder), embed)
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
