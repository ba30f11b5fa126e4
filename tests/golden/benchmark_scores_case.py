"""Similarity matrices and embeddings of the recorded scores of mteb and CLIP_benchmark.

A case of `score_cases` has similarities of texts and images, (m, n) float64, the ids of the images,
and the pairs (text, image) that belong together. The cases contain images with several texts, texts
with several images, equal images, equal texts, and equal scores. `embedding_cases` have embeddings
instead, because CLIP_benchmark computes the similarities itself.
"""

import numpy as np

K_VALUES = (1, 5, 10)


def _pairs(captions):
    return [(text, image) for text, image in enumerate(np.repeat(range(len(captions)), captions))]


def _likeness(seed, pairs, num_images):
    """Returns random similarities; those of pairs are higher."""
    num_texts = 1 + max(text for text, _ in pairs)
    scores = np.random.default_rng(seed).normal(0, 0.1, (num_texts, num_images))
    for text, image in pairs:
        scores[text, image] += 0.15
    return scores


def image_ids(count):
    """Returns ids whose order as strings is not that of their numbers: 9 comes after 10."""
    return [f"{'é' if number % 5 == 3 else 'a'}{number}" for number in range(count)]


def score_cases():
    """Returns {case: (similarities, ids of the images, pairs)}."""
    one, many = _pairs([1] * 24), _pairs([1 + i % 5 for i in range(18)])
    cases = {"one caption": (_likeness(0, one, 24), image_ids(24), one)}
    cases["several captions"] = (_likeness(1, many, 18), image_ids(18), many)
    equal = _likeness(2, many, 18)
    equal[:, 7] = equal[:, 2]  # two equal images
    equal[10] = equal[3]  # two equal texts of different images
    cases["duplicates"] = (equal, image_ids(18), many)
    cases["coarse scores"] = (np.round(_likeness(3, many, 18), 1), image_ids(18), many)
    cases["constant"] = (np.full((len(many), 18), 0.25), image_ids(18), many)
    near = np.full((3, 3), 0.1)
    near[0, 0] += 1e-9  # equal in float32
    near[1, 1] += 1e-7  # different in float32
    cases["near ties"] = (near, ["c", "b", "a"], _pairs([1, 1, 1]))
    shared = many + [(0, 5), (0, 9), (4, 11), (20, 0)]
    cases["shared texts"] = (_likeness(4, shared, 18), image_ids(18), shared)
    return cases


def text_ids(ids, pairs):
    """Returns the ids of the texts, "<id of the first image>-<number>"."""
    counts, names = {}, {}
    for text, image in pairs:
        if text not in names:
            number = counts[image] = counts.get(image, -1) + 1
            names[text] = f"{ids[image]}-{number}"
    return [names[text] for text in sorted(names)]


def choice_case():
    """Returns (similarities (q, 4), labels) with ties; the ids of the options are d, c, b, a."""
    random = np.random.default_rng(5)
    return np.round(random.normal(0, 0.2, (40, 4)), 1), random.integers(4, size=40)


def embedding_cases():
    """Returns {case: (images (n, d), texts (m, d), image of each text)}, unit rows of float32."""
    cases = {}
    for seed, (name, captions) in enumerate(
        {"one caption": [1] * 30, "several captions": [1 + i % 5 for i in range(30)]}.items()
    ):
        random, owners = np.random.default_rng(seed), np.repeat(np.arange(30), captions)
        images = random.normal(size=(30, 16))
        texts = images[owners] + random.normal(0, 1.2, (len(owners), 16))
        cases[name] = _unit(images), _unit(texts), owners
    images, texts, owners = (array.copy() for array in cases["several captions"])
    images[4], texts[9] = images[1], texts[2]
    cases["duplicates"] = images, texts, owners
    return cases


def class_case(equal_names):
    """Returns (images (n, d), labels, prompts (templates, classes, d)).

    Args:
        equal_names: whether two classes have equal prompts.
    """
    random = np.random.default_rng(9)
    classes = random.normal(size=(8, 16))
    prompts = classes + random.normal(0, 0.3, (3, 8, 16))
    if equal_names:
        prompts[:, 6] = prompts[:, 2]
    labels = np.repeat(np.arange(8), [9, 4, 6, 5, 7, 3, 6, 8])
    images = classes[labels] + random.normal(0, 2.0, (len(labels), 16))
    return _unit(images), labels, _unit(prompts)


def _unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
