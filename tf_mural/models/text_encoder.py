"""The text tower: KerasHub's BERT with a linear projection of [CLS]."""

import keras
from keras import ops

import tf_mural
from tf_mural.errors import UserError
from tf_mural.models.keras_patches import dtype_policy_scope, patch_bert
from tf_mural.models.model_configs import bert_sizes, load_backbone, preset_of, upgrade_tower
from tf_mural.models.vectors_encoder import features_of, split_tower


class TextTower(keras.Model):
    """Base class of text towers. A saved model contains the files of the tokenizer.

    Attributes:
        tokenizer: an object with the interface of `data.tokenizers.Tokenizer`, or None.
    """

    modality = "text"
    tokenizer = None

    def save_assets(self, dir_path: str) -> None:
        """Writes the tokenizer to a folder. Keras calls this method when it saves a model."""
        if self.tokenizer is not None:
            tf_mural.data.save_tokenizer(self.tokenizer, dir_path)

    def load_assets(self, dir_path: str | None) -> None:
        """Reads the tokenizer from a folder. Keras calls this method when it loads a model."""
        if dir_path is not None:  # None: the saved tower has no tokenizer.
            self.tokenizer = tf_mural.data.load_tokenizer(dir_path)


@keras.saving.register_keras_serializable(package="tf_mural")
class BertEncoder(TextTower):
    """The text tower of the paper, which `text_tower` builds.

    In this model, layers of KerasHub's backbone are changed. A saved model therefore contains the
    arguments of `text_tower`, from which it is built again when it is loaded.

    Args:
        tokens: input of the model.
        embeddings: output of the model.
        arguments: {name: value} of the arguments of `text_tower`.
        name: name of the model.

    Attributes:
        max_tokens: number of position embeddings.
        pad_id: token that pads texts.
    """

    pad_id = 0
    _projection_name = "text_projection"

    def __init__(self, tokens, embeddings, arguments, name="text_tower"):
        super().__init__(tokens, embeddings, name=name)
        features = features_of(self, self._projection_name)
        self._get_features = lambda: features
        self._get_arguments = lambda: arguments
        self._precision = keras.config.dtype_policy().name
        self.max_tokens = arguments["max_tokens"]

    def split(self) -> tuple[keras.Model, keras.Model]:
        """Returns the tower as two models that share its layers: features, and projection.

        The features map the input of the tower to pooled vectors (n, c). The projection maps these
        vectors to embeddings (n, dim); it is the identity if the tower has no projection.
        """
        return split_tower(self, self._get_features(), self._projection_name)

    def get_config(self):
        """Returns the arguments of `text_tower`."""
        return {
            "arguments": self._get_arguments(),
            "precision": self._precision,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds a tower with new weights from the result of `get_config`."""
        with dtype_policy_scope(config["precision"]):
            tower = text_tower(**upgrade_tower("text", config["arguments"]))
        tower.name = config["name"]
        return tower


def text_tower(
    vocabulary_size,
    backbone="base",
    max_tokens=64,
    embedding_dim=640,
    dropout=0.1,
    sizes=None,
    activation="gelu_approximate",
):
    """Builds a BERT whose last hidden state of [CLS] (before the pooler) is projected linearly.

    Args:
        vocabulary_size: number of token embeddings.
        backbone: a key of `BERTS`, with random weights; or "keras_hub:" followed by a KerasHub
            preset of a BERT (name, handle or folder), which replaces `max_tokens` and `sizes`, and
            provides weights. The tokenizer must have the vocabulary of the preset.
        max_tokens: number of position embeddings.
        embedding_dim: width of the embeddings.
        dropout: dropout rate of embeddings, attention and feed-forward outputs.
        sizes: (layers, width, heads, feed-forward width) of a BERT that is not in `BERTS`. None:
            the sizes of `backbone`.
        activation: feed-forward activation: "gelu_approximate" (tanh approximation, KerasHub's
            default) or "gelu" (exact, as in most published checkpoints).

    Returns:
        `BertEncoder` that maps int32 tokens, (n, t), padded with 0, to embeddings,
        (n, embedding_dim), which are not normalized.
    """
    bert = _bert_backbone(vocabulary_size, backbone, max_tokens, dropout, sizes)
    patch_bert(bert, activation)
    # The pooler is omitted because its variables would never get a gradient.
    sequence = keras.Model(bert.input, bert.output["sequence_output"])
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.cast(ops.not_equal(tokens, 0), "int32")
    hidden = sequence(
        {"token_ids": tokens, "padding_mask": mask, "segment_ids": ops.zeros_like(tokens)}
    )  # (n, t, width)
    x = keras.layers.Dense(embedding_dim, name="text_projection")(hidden[:, 0])
    arguments = {
        "vocabulary_size": vocabulary_size,
        "max_tokens": bert.max_sequence_length,
        "embedding_dim": embedding_dim,
        "dropout": dropout,
        # A saved tower contains its sizes instead of the name or the preset.
        "sizes": [
            bert.num_layers,
            bert.hidden_dim,
            bert.num_heads,
            bert.intermediate_dim,
        ],
        "activation": activation,
    }
    return BertEncoder(tokens, x, arguments)


def _bert_backbone(vocabulary_size, name, max_tokens, dropout, sizes):
    import keras_hub

    if preset := preset_of(name):
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
