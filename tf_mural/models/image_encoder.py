"""The image tower: KerasHub's EfficientNet up to its last MBConv block."""

import functools
import warnings

import keras
import numpy as np

import tf_mural
from tf_mural.errors import UserError, lookup
from tf_mural.models.ghost_batch_norm import GhostBatchNormalization
from tf_mural.models.keras_patches import dtype_policy_scope, replace_inner_layers
from tf_mural.models.model_configs import (
    block_shapes,
    count_blocks,
    efficientnet_config,
    load_backbone,
    preset_of,
    upgrade_tower,
)
from tf_mural.models.squeeze_excite import fuse_squeeze_excite
from tf_mural.models.vectors_encoder import features_of, split_tower

# Values of the argument `batch_norm` of `image_tower`.
BATCH_NORMS = ("auto", "per_image")
# Names of the arguments of `image_tower` that a saved tower contains.
_STORED_ARGUMENTS = (
    "backbone",
    "image_size",
    "embedding_dim",
    "stochastic_depth",
    "virtual_batch_size",
    "batch_norm",
    "batch_norm_momentum",
    "padding",
    "scale",
    "mean",
    "std",
)


@keras.saving.register_keras_serializable(package="tf_mural")
class EfficientNetEncoder(keras.Model):
    """The image tower of the paper, which `image_tower` builds.

    In this model, layers of KerasHub's backbone are replaced by other layers. A saved model
    therefore contains the arguments of `image_tower`, from which it is built again when it is
    loaded.

    Args:
        pixels: input of the model.
        embeddings: output of the model.
        arguments: {name: value} of the arguments of `image_tower`.
        name: name of the model.

    Attributes:
        image_size: height and width of the images in pixels.
        preprocessing: `data.preprocessing.Preprocessing`. By default, image files are resized to
            `image_size` without cropping.
    """

    modality = "image"
    _projection_name = "image_projection"

    def __init__(self, pixels, embeddings, arguments, name="image_tower"):
        super().__init__(pixels, embeddings, name=name)
        features = features_of(self, self._projection_name)
        self._get_features = lambda: features
        self._get_arguments = lambda: arguments
        self._precision = keras.config.dtype_policy().name
        self.image_size = arguments["image_size"]
        scaling = {key: arguments[key] for key in ("scale", "mean", "std", "padding")}
        self.preprocessing = tf_mural.data.as_preprocessing(None, self.image_size, **scaling)

    def split(self) -> tuple[keras.Model, keras.Model]:
        """Returns the tower as two models that share its layers: features, and projection.

        The features map the input of the tower to pooled vectors (n, c). The projection maps these
        vectors to embeddings (n, dim); it is the identity if the tower has no projection.
        """
        return split_tower(self, self._get_features(), self._projection_name)

    def get_config(self):
        """Returns the arguments of `image_tower`, and the preprocessing."""
        return {
            "arguments": self._get_arguments(),
            "preprocessing": self.preprocessing.to_json(),
            "precision": self._precision,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds a tower with new weights from the result of `get_config`."""
        with dtype_policy_scope(config["precision"]):
            tower = image_tower(**upgrade_tower("image", config["arguments"]))
        tower.name = config["name"]
        tower.preprocessing = tf_mural.data.as_preprocessing(
            config["preprocessing"], tower.image_size
        )
        return tower


def image_tower(
    backbone="b7",
    image_size=289,
    embedding_dim=640,
    stochastic_depth=0.2,
    virtual_batch_size=None,
    batch_norm="auto",
    batch_norm_momentum=0.99,
    padding=None,
    scale=1 / 127.5,
    mean=(1.0,),
    std=(1.0,),
    all_reduce_mean=list,
    batch_norm_kernel=None,
):
    """Builds an EfficientNet whose last MBConv output is averaged over all positions.

    As in ALIGN, the top 1x1 convolution is omitted; B7 therefore has 640 output features. A linear
    projection is added if the number of features is not `embedding_dim`.

    Args:
        backbone: a key of `EFFICIENTNETS`, or a dict with the arguments of an EfficientNet, see
            `model_configs.efficientnet_config`, with random weights; or "keras_hub:" followed by a
            KerasHub preset of an EfficientNet (name, `hf://` or `kaggle://` handle, or folder),
            which also provides weights.
        image_size: height and width of the images in pixels.
        embedding_dim: width of the embeddings.
        stochastic_depth: upper bound of the drop rates of stochastic depth. Block i (from 0) of B
            blocks has the drop rate `stochastic_depth * i / B`.
        virtual_batch_size: see `GhostBatchNormalization`.
        batch_norm: "auto" or "per_image". With "auto", batch norm calls `batch_norm_kernel` in
            training. With "per_image", it never does, and its sums are computed image by image.
        batch_norm_momentum: momentum of the moving averages of batch normalization.
        padding: padding before stride-2 convolutions, "symmetric" or "end". KerasHub pads
            symmetrically. "end" omits one row of padding at the top and one column of padding at
            the left, as in the published ALIGN models at every image size. None: "symmetric", with
            a warning for a preset, because a preset does not record its padding.
        scale: factor of the pixels. The input of the backbone is (scale * x - mean) / std for each
            pixel x.
        mean: one float, or one float per channel.
        std: one float, or one float per channel.
        all_reduce_mean: see `GhostBatchNormalization`.
        batch_norm_kernel: see the argument `kernel` of `GhostBatchNormalization`. The backend
            chooses it by the devices. A saved tower does not contain this argument; a loaded tower
            can therefore be trained on other devices.

    Returns:
        `EfficientNetEncoder` that maps pixels in [0, 255], (n, image_size, image_size, 3), to
        embeddings, (n, embedding_dim), which are not normalized.
    """
    import keras_hub

    lookup(dict.fromkeys(BATCH_NORMS), batch_norm, "batch norm")
    arguments = {key: value for key, value in locals().items() if key in _STORED_ARGUMENTS}
    preset = preset_of(backbone)
    padding = resolve_padding(padding, preset)
    backbone_class = keras_hub.models.EfficientNetBackbone
    # The pretrained backbone is built with Keras' batch norm layer, because KerasHub finds the
    # weights of a layer in a preset by the class name of the layer.
    pretrained = load_backbone(backbone_class, preset) if preset else None
    config = efficientnet_config(pretrained.get_config() if preset else backbone)
    arguments |= {"backbone": dict(config) if preset else backbone, "padding": padding}
    repeats, blocks = sum(config["stackwise_num_repeats"]), count_blocks(config)
    config["input_shape"] = (image_size, image_size, 3)
    # KerasHub computes drop rates with the number of blocks before depth scaling. Without the
    # factor `repeats / blocks`, the last block of a B7 would have the drop rate 0.675.
    config["dropout"] = stochastic_depth * repeats / blocks
    replace = functools.partial(
        _replace_layer,
        lookup(PADDINGS, padding, "padding")(config),
        functools.partial(
            GhostBatchNormalization,
            virtual_batch_size,
            all_reduce_mean,
            kernel=batch_norm_kernel if batch_norm == "auto" else None,
        ),
        batch_norm_momentum,
    )
    network, inputs = fuse_squeeze_excite(backbone_class.from_config(config), replace)
    if preset:
        network.set_weights(pretrained.get_weights())
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    # Rescaling and the average over positions use the dtype of the weights. In bfloat16, the
    # constant 1 / 127.5 has a relative error of 0.4 %, which would change every pixel.
    dtype = keras.config.dtype_policy().variable_dtype
    factor, offset = rescaling(scale, mean, std)
    x = keras.layers.Rescaling(factor, offset=offset, dtype=dtype, name="rescale")(pixels)
    for stage in _split_stages(network, inputs, len(config["stackwise_num_repeats"])):
        x = stage(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype, name="pool")(x)
    if x.shape[-1] != embedding_dim:
        x = keras.layers.Dense(embedding_dim, name="image_projection")(x)
    return EfficientNetEncoder(pixels, x, arguments)


def resolve_padding(padding, preset=None):
    """Returns a key of `PADDINGS`, and warns if a preset is used with an unknown padding.

    Args:
        padding: see `image_tower`; None: unknown.
        preset: preset of `image_tower`, or name of another backbone with trained weights.
    """
    if padding is not None:
        return padding
    if preset:
        warnings.warn(
            f"the backbone {preset!r} does not record how its weights were padded; padding="
            "'symmetric' is assumed. Weights of TensorFlow's own EfficientNets and of ALIGN need "
            "padding='end'; with the wrong padding, the features are wrong (cosine similarity "
            "about 0.8)",
            stacklevel=3,
        )
    return "symmetric"


def apply_padding(backbone, padding=None):
    """Changes the padding layers before the stride-2 convolutions of a KerasHub EfficientNet.

    Args:
        backbone: `keras.Model`. Only the layers of a `keras_hub.models.EfficientNetBackbone` are
            changed.
        padding: a key of `PADDINGS`. None: "symmetric", with a warning, because a backbone does not
            record how its weights were padded.

    Raises:
        UserError: the padding is "end", and the backbone is no `EfficientNetBackbone`.
    """
    import keras_hub

    if not isinstance(backbone, keras_hub.models.EfficientNetBackbone):
        if padding not in (None, "symmetric"):
            raise UserError(
                f"the padding is {padding!r}, but the backbone {backbone.name!r} is no "
                'EfficientNet of KerasHub, whose padding can be changed: set padding="symmetric"'
            )
        return
    padding = resolve_padding(padding, backbone.name)
    end_padded = lookup(PADDINGS, padding, "padding")(backbone.get_config())
    for layer in backbone._flatten_layers():
        if layer.name in end_padded and isinstance(layer, keras.layers.ZeroPadding2D):
            # A second call changes nothing: the padding (1, 1) becomes (0, 1) and remains (0, 1).
            layer.padding = tuple((after - 1, after) for _, after in layer.padding)


def rescaling(scale, mean, std):
    """Returns (factor, offset) of (scale * x - mean) / std, as floats or lists of 3 floats."""
    mean, std = np.atleast_1d(mean).astype(float), np.atleast_1d(std).astype(float)
    factor, offset = np.broadcast_arrays(scale / std, -mean / std)
    if factor.size == 1:
        return float(factor[0]), float(offset[0])
    return factor.tolist(), offset.tolist()


def _replace_layer(end_padded, make_norm, momentum, layer):
    """Returns the layer of the image tower that replaces a layer of KerasHub.

    Args:
        end_padded: names of the padding layers that omit one row at the top and one column at the
            left.
        make_norm: callable that takes the arguments of `keras.layers.BatchNormalization`.
        momentum: momentum of the moving averages. KerasHub's EfficientNet v1 blocks have no
            argument for the momentum.
        layer: layer of KerasHub.
    """
    if isinstance(layer, keras.layers.BatchNormalization):
        return make_norm(**{**layer.get_config(), "momentum": momentum})
    if layer.name in end_padded:
        sizes = tuple((before - 1, after) for before, after in layer.padding)
        return type(layer).from_config({**layer.get_config(), "padding": sizes})
    replace = functools.partial(_replace_layer, end_padded, make_norm, momentum)
    replace_inner_layers(layer, replace)
    return layer


def _strided_paddings(config):
    """Returns the names of the padding layers before stride-2 convolutions.

    Args:
        config: arguments of KerasHub's `EfficientNetBackbone`.

    Raises:
        UserError: the backbone has blocks of EfficientNetV2, some of which have no padding layer.
    """
    types = sorted(set(config["stackwise_block_types"]) - {"v1"})
    if types:
        raise UserError(
            'padding="end" requires an EfficientNet whose blocks are all of the type "v1", but the '
            f'backbone has blocks of the types {", ".join(types)}; use padding="symmetric"'
        )
    strided = [name for name, (*_, stride, _) in block_shapes(config).items() if stride == 2]
    return {"stem_conv_pad", *(f"{name}_dwconv_pad" for name in strided)}


# A padding maps the arguments of a backbone to the names of the padding layers that omit one row at
# the top and one column at the left.
PADDINGS = {"symmetric": lambda config: frozenset(), "end": _strided_paddings}


def _split_stages(backbone, inputs, num_stages):
    """Splits the part of a backbone before its top convolution into one model per stage.

    The stem belongs to the first stage.

    Args:
        backbone: model that `fuse_squeeze_excite` returned.
        inputs: layer inputs of the backbone, the dict that `fuse_squeeze_excite` returned.
        num_stages: number of stages.
    """
    prefixes = [f"block{i}a_" for i in range(2, num_stages + 1)]
    names = [next(x for x in inputs if x.startswith(prefix)) for prefix in prefixes]
    cuts = [backbone.input, *(inputs[x] for x in (*names, "top_conv"))]
    return [keras.Model(cuts[i], cuts[i + 1], name=f"stage_{i + 1}") for i in range(num_stages)]
