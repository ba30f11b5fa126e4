"""Builds the encoders of ALIGN from a checkpoint of Hugging Face."""

from tf_mural import huggingface, models
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.tokenizers import Tokenizer
from tf_mural.errors import UserError
from tf_mural.huggingface import checkpoint_files

# Number of tokens per text with which ALIGN was trained.
_MAX_TOKENS = 64


class AlignModel:
    """A checkpoint of `AlignModel`, whose towers are those of the paper of MURAL.

    Args:
        name: folder, or name on huggingface.co.
        folder: folder that contains the description of the checkpoint; unused.
        config: content of config.json; unused.

    Attributes:
        checkpoint: `huggingface.Checkpoint`.
    """

    def __init__(self, name, folder, config):
        self.checkpoint = huggingface.open_checkpoint(name)
        # The image processor resizes with Pillow, that is, with antialiasing.
        scaling = {"antialias": True, "padding": self.checkpoint.image["padding"]}
        self.preprocessing = Preprocessing(**self.checkpoint.image_sizes, **scaling)

    def describe(self):
        """Returns the attributes of a `public_models.PublicModel`, except its name."""
        return {
            "modalities": ("image", "text"),
            "embedding_dim": self.checkpoint.embedding_dim,
            "loss": "contrastive",
            "preprocessing": self.preprocessing,
            "tokenizer": self.open_tokenizer(),
            "build": self.build,
            "read_scalars": self.read_scalars,
        }

    def open_tokenizer(self, max_tokens=None):
        """Returns the WordPiece tokenizer."""
        checkpoint = self.checkpoint
        length = max_tokens or min(_MAX_TOKENS, checkpoint.positions)
        if length > checkpoint.positions:
            raise UserError(
                f"max_tokens is {length}, but {checkpoint.name} has {checkpoint.positions} "
                f"positions: set max_tokens={checkpoint.positions} or less"
            )
        return Tokenizer(checkpoint.vocabulary, length, checkpoint.lower_case)

    def read_scalars(self):
        """Returns the temperature."""
        folder = checkpoint_files.fetch(self.checkpoint.name, weights=True)
        return {"temperature": float(checkpoint_files.read_tensors(folder)["temperature"])}

    def build(self, modality, *, dim, weights, image_size, max_tokens, pooling):
        """Builds an encoder, see `public_models.PublicModel.encoder`."""
        checkpoint = self.checkpoint
        if pooling is not None:
            raise UserError(
                f"the {modality} encoder of {checkpoint.name} has a fixed pooling: omit pooling"
            )
        own = dim in (None, checkpoint.embedding_dim)
        dim = dim or checkpoint.embedding_dim
        if modality == "image":
            preprocessing = self.preprocessing.with_size(image_size or self.preprocessing.crop)
            encoder = models.image_tower(
                image_size=preprocessing.crop, embedding_dim=dim, **checkpoint.image
            )
            encoder.preprocessing = preprocessing
        else:
            tokenizer = self.open_tokenizer(max_tokens)
            encoder = models.text_tower(
                tokenizer.size,
                max_tokens=tokenizer.max_tokens,
                embedding_dim=dim,
                **checkpoint.text,
            )
            encoder.tokenizer = tokenizer
        if weights:
            variables = {
                variable.path: variable
                for variable in encoder.variables
                if "seed_generator" not in variable.path
                and (own or not variable.path.startswith(f"{modality}_projection/"))
            }
            shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
            arrays, _ = huggingface.read_weights(checkpoint, shapes, (modality,))
            for path, array in arrays.items():
                variables[path].assign(array)
        return encoder
