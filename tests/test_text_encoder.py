"""The text tower: its structure, and its outputs compared with Hugging Face's `BertModel`.

The reference outputs are recorded by golden/record_bert.py. The default activation is that of
KerasHub, the tanh approximation of GELU ("gelu_new" of Hugging Face). The exact GELU ("gelu", the
default of Hugging Face) changes the outputs of this small BERT by 2e-4 to 3e-4 of their root mean
square.
"""

import os
import re

import keras
import numpy as np
import pytest
from golden import bert_case
from helpers.small_models import NANO_TEXT, cls_states
from helpers.small_models import TOKENS as SMALL_TOKENS

from tf_mural import models

LAYERS = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "segment_embedding": "embeddings.token_type_embeddings",
    "embeddings_layer_norm": "embeddings.LayerNorm",
    "self_attention_layer/query": "attention.self.query",
    "self_attention_layer/key": "attention.self.key",
    "self_attention_layer/value": "attention.self.value",
    "self_attention_layer/attention_output": "attention.output.dense",
    "self_attention_layer_norm": "attention.output.LayerNorm",
    "feedforward_intermediate_dense": "intermediate.dense",
    "feedforward_output_dense": "output.dense",
    "feedforward_layer_norm": "output.LayerNorm",
    "text_projection": "text_projection",
}
TOKENS = bert_case.tokens()


# --- structure ------------------------------------------------------------------------------------


def test_the_embedding_is_a_linear_projection_of_cls():
    tower = models.text_tower(**NANO_TEXT, embedding_dim=16)
    sequence = next(x for x in tower.layers if isinstance(x, keras.Model))
    mask = (SMALL_TOKENS > 0).astype("int32")
    segments = 0 * SMALL_TOKENS
    hidden = sequence({"token_ids": SMALL_TOKENS, "padding_mask": mask, "segment_ids": segments})
    kernel, bias = tower.get_layer("text_projection").get_weights()
    assert kernel.shape == (96, 16)
    expected = np.asarray(hidden)[:, 0] @ kernel + bias
    np.testing.assert_allclose(tower(SMALL_TOKENS), expected, atol=1e-5)
    # The tower has no pooler, because the variables of the pooler would not get a gradient.
    assert not [v.path for v in tower.variables if "pool" in v.path]


def test_padding_does_not_matter_but_tokens_and_their_order_do():
    tower = models.text_tower(**NANO_TEXT, embedding_dim=16)
    embeddings = np.asarray(tower(SMALL_TOKENS))
    padded = np.pad(SMALL_TOKENS, ((0, 0), (0, 2)))
    np.testing.assert_allclose(tower(padded), embeddings, atol=1e-5)
    np.testing.assert_allclose(tower(SMALL_TOKENS[:, :4]), embeddings, atol=1e-5)
    swapped = np.asarray(tower(SMALL_TOKENS[:, [0, 2, 1, 3, 4, 5]]))
    assert np.abs(swapped - embeddings).max() > 1e-3
    assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-3


def test_texts_longer_than_max_tokens_fail():
    tower = models.text_tower(**NANO_TEXT, embedding_dim=16)
    (positions,) = [v for v in tower.variables if "position" in v.path]
    assert tuple(positions.shape) == (8, 96)
    tower(np.ones((1, 8), "int32"))
    with pytest.raises(Exception, match="(?i)size|shape|slice|length"):
        tower(np.ones((1, 9), "int32"))


def test_dropout_applies_only_in_training():
    tower = models.text_tower(**{**NANO_TEXT, "dropout": 0.5}, embedding_dim=16)
    inference = [np.asarray(tower(SMALL_TOKENS, training=False)) for _ in range(2)]
    training = [np.asarray(tower(SMALL_TOKENS, training=True)) for _ in range(2)]
    np.testing.assert_array_equal(*inference)
    assert np.abs(training[0] - training[1]).max() > 1e-2


# --- the recorded BERT ----------------------------------------------------------------------------


def reference_name(path):
    """Returns the name in `BertModel` of a variable of the tower."""
    path, _, variable = path.rpartition("/")
    block = re.match(r"transformer_layer_(\d+)/", path)
    prefix = f"encoder.layer.{block[1]}." if block else ""
    suffix = "bias" if variable in ("bias", "beta") else "weight"
    return f"{prefix}{LAYERS[path[block.end() if block else 0 :]]}.{suffix}"


def load_reference_weights(tower):
    """Assigns the weights of the recorded model; returns the names of the assigned weights."""
    weights = bert_case.weights()
    names = []
    for variable in tower.trainable_variables:
        names.append(reference_name(variable.path))
        value = weights[names[-1]]
        # The reference stores kernels as (out, in), Keras as (in, out). Kernels of attention have
        # an additional axis for the heads in Keras.
        value = value.T if variable.path.endswith("kernel") else value
        variable.assign(value.reshape(variable.shape))
    return names


def make_tower(**options):
    """Returns a tower with the sizes and weights of the recorded model."""
    tower = models.text_tower(
        bert_case.VOCABULARY,
        max_tokens=bert_case.POSITIONS,
        embedding_dim=bert_case.EMBEDDING,
        sizes=(bert_case.LAYERS, bert_case.WIDTH, bert_case.HEADS, 4 * bert_case.WIDTH),
        **options,
    )
    load_reference_weights(tower)
    return tower


@pytest.fixture
def tower():
    return make_tower()


@pytest.fixture(scope="module")
def recorded():
    path = os.path.join(os.path.dirname(bert_case.__file__), "bert.npz")
    with np.load(path) as arrays:
        return dict(arrays)


def errors(actual, expected):
    """Returns the largest difference per text, divided by the root mean square of `expected`."""
    scale = np.sqrt(np.mean(np.square(expected)))
    return np.abs(np.asarray(actual) - expected).max(axis=-1) / scale


def perturb(tower, name, rows):
    """Changes rows of an embedding table by a large amount."""
    (variable,) = [v for v in tower.trainable_variables if reference_name(v.path) == name]
    value = variable.numpy()
    value[rows] = 10.0 - 3.0 * value[rows]
    variable.assign(value)


def test_all_weights_except_the_pooler_are_used(tower):
    names = load_reference_weights(tower)
    pooler = {name for name in bert_case.weights() if name.startswith("pooler.")}
    assert len(names) == len(set(names))
    assert {*names} == {*bert_case.weights()} - pooler


def test_cls_and_its_projection_equal_bert(tower, recorded):
    assert errors(cls_states(tower, TOKENS), recorded["gelu_new/cls"]).max() < 1e-5
    assert errors(tower(TOKENS), recorded["gelu_new/embedding"]).max() < 1e-5


def test_the_output_of_the_pooler_is_different_from_cls(recorded):
    assert errors(recorded["gelu_new/pooled"], recorded["gelu_new/cls"]).min() > 0.1


def test_exact_gelu_is_the_only_difference_to_berts_default(tower, recorded):
    difference = errors(tower(TOKENS), recorded["gelu/embedding"])
    assert 1e-4 < difference.min() and difference.max() < 1e-3
    exact = make_tower(activation="gelu")
    assert errors(cls_states(exact, TOKENS), recorded["gelu/cls"]).max() < 1e-5
    assert errors(exact(TOKENS), recorded["gelu/embedding"]).max() < 1e-5


# --- attention of [CLS] ---------------------------------------------------------------------------


@pytest.mark.parametrize("row, length", list(enumerate(bert_case.LENGTHS)))
def test_the_amount_of_padding_does_not_matter(tower, recorded, row, length):
    """Encodes each text with at most 3 padding tokens.

    In the recorded batch all texts were padded to 64 tokens.
    """
    expected = recorded["gelu_new/embedding"][row]
    for width in {length, min(length + 3, bert_case.POSITIONS)}:
        actual = tower(TOKENS[row : row + 1, :width])
        assert errors(actual, expected).max() < 1e-5, width


def test_the_embedding_of_the_padding_token_does_not_matter(tower, recorded):
    perturb(tower, "embeddings.word_embeddings.weight", 0)
    assert errors(tower(TOKENS), recorded["gelu_new/embedding"]).max() < 1e-5


def test_only_positions_before_the_end_of_a_text_matter(tower, recorded):
    short, expected = TOKENS[:3], recorded["gelu_new/embedding"][:3]
    perturb(tower, "embeddings.position_embeddings.weight", slice(5, None))
    assert errors(tower(short), expected).max() < 1e-5
    assert errors(tower(TOKENS[3:]), recorded["gelu_new/embedding"][3:]).min() > 1e-2
    perturb(tower, "embeddings.position_embeddings.weight", 4)
    difference = errors(tower(short), expected)
    assert difference[:2].max() < 1e-5 and difference[2] > 1e-2


def test_all_tokens_have_the_first_segment(tower, recorded):
    perturb(tower, "embeddings.token_type_embeddings.weight", 1)
    assert errors(tower(TOKENS), recorded["gelu_new/embedding"]).max() < 1e-5
    perturb(tower, "embeddings.token_type_embeddings.weight", 0)
    assert errors(tower(TOKENS), recorded["gelu_new/embedding"]).min() > 1e-2


def test_the_order_of_tokens_matters(tower, recorded):
    swapped = TOKENS[2:6].copy()
    swapped[:, [1, 2]] = swapped[:, [2, 1]]
    assert (swapped != TOKENS[2:6]).any(axis=1).all()
    assert errors(tower(swapped), recorded["gelu_new/embedding"][2:6]).min() > 1e-3


def test_every_token_matters_including_the_last_one(tower, recorded):
    for row, length in enumerate(bert_case.LENGTHS[1:], start=1):
        changed = TOKENS[row : row + 1].copy()
        changed[0, length - 1] = bert_case.VOCABULARY - 1
        difference = errors(tower(changed), recorded["gelu_new/embedding"][row])
        assert difference.min() > 1e-3, length
