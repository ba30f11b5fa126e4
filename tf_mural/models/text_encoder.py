"""The text tower: KerasHub's BERT with a linear projection of [CLS]."""

import keras
from keras import ops

from tf_mural.errors import UserError
from tf_mural.models.keras_patches import patch_bert
from tf_mural.models.model_configs import bert_sizes, load_backbone


def text_tower(
    vocabulary_size,
    name="base",
    max_tokens=64,
    embedding_dim=640,
    dropout=0.1,
    sizes=None,
    activation="gelu_approximate",
    preset=None,
):
    """Builds a BERT whose last hidden state of [CLS] (before the pooler) is projected linearly.

    Args:
        vocabulary_size: number of token embeddings.
        name: a key of `BERTS`.
        max_tokens: number of position embeddings.
        embedding_dim: width of the embeddings.
        dropout: dropout rate of embeddings, attention and feed-forward outputs.
        sizes: (layers, width, heads, feed-forward width) of a BERT that is not in `BERTS`. None:
            the sizes of the BERT `name`.
        activation: feed-forward activation: "gelu_approximate" (tanh approximation, KerasHub's
            default) or "gelu" (exact, as in most published checkpoints).
        preset: KerasHub preset of a BERT, which replaces `name`, `max_tokens` and `sizes`, and
            provides weights. The tokenizer must have the vocabulary of the preset. None: the
            weights are random.

    Returns:
        `keras.Model` that maps int32 tokens, (n, t), padded with 0, to embeddings,
        (n, embedding_dim), which are not normalized.
    """
    backbone = _bert_backbone(vocabulary_size, name, max_tokens, dropout, sizes, preset)
    patch_bert(backbone, activation)
    # The pooler is omitted because its variables would never get a gradient.
    sequence = keras.Model(backbone.input, backbone.output["sequence_output"])
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.cast(ops.not_equal(tokens, 0), "int32")
    hidden = sequence(
        {"token_ids": tokens, "padding_mask": mask, "segment_ids": ops.zeros_like(tokens)}
    )  # (n, t, width)
    x = keras.layers.Dense(embedding_dim, name="text_projection")(hidden[:, 0])
    return keras.Model(tokens, x, name="text_tower")


def _bert_backbone(vocabulary_size, name, max_tokens, dropout, sizes, preset):
    import keras_hub

    if preset:
        backbone = load_backbone(keras_hub.models.BertBackbone, preset, dropout=dropout)
        if backbone.vocabulary_size != vocabulary_size:
            raise UserError(
                f"the preset {preset} has {backbone.vocabulary_size} tokens, but the vocabulary "
                f"file has {vocabulary_size}; use the vocabulary that belongs to the preset"
            )
        return backbone
    sizes = sizes or bert_sizes(name)
    if len(sizes) != 4 or sizes[1] % sizes[2]:
        raise UserError(
            f"the sizes of a BERT are {sizes}, expected layers, width, heads and feed-forward "
            "width, with a width that is a multiple of the number of heads"
        )
    num_layers, width, num_heads, feedforward_width = sizes
    return keras_hub.models.BertBackbone(
        vocabulary_size=vocabulary_size,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=width,
        intermediate_dim=feedforward_width,
        dropout=dropout,
        max_sequence_length=max_tokens,
    )
