"""The ETCL step in PyTorch, with the towers of Hugging Face's `transformers`."""

import math

from benchmarks.cases import DROPOUT, EMBEDDING_DIM, STOCHASTIC_DEPTH, synthetic_batch
from benchmarks.torch_lamb import LAMB

# Arguments of `EfficientNetConfig` that differ from the defaults.
_EFFICIENTNETS = {
    "b0": dict(width_coefficient=1.0, depth_coefficient=1.0),
    "b7": dict(width_coefficient=2.0, depth_coefficient=3.1),
    # In `transformers`, the stem has 32 channels before scaling, but the tiny stem has 16.
    # Therefore all widths are doubled here, and the width coefficient is 0.5.
    "tiny": dict(
        width_coefficient=0.5,
        depth_coefficient=1.0,
        kernel_sizes=[3, 3, 3, 3],
        in_channels=[32, 32, 48, 96],
        out_channels=[32, 48, 96, 192],
        strides=[2, 1, 2, 2],
        num_block_repeats=[1, 1, 2, 1],
        expand_ratios=[1, 3, 3, 3],
    ),
}
_BERTS = {"nano": (2, 96, 2), "base": (12, 768, 12)}  # (layers, width, heads)


def _efficientnet(case):
    """Returns an `EfficientNetModel` without top, with the padding and dropout of our tower."""
    import torch
    from transformers import EfficientNetConfig, EfficientNetModel

    class StochasticDepth(torch.nn.Module):
        """Drops a block for random images. `transformers` drops random values, which is slower."""

        def __init__(self, rate):
            super().__init__()
            self.rate = rate

        def forward(self, x):
            if not self.training or not self.rate:
                return x
            mask = x.new_empty((len(x), 1, 1, 1)).bernoulli_(1 - self.rate)
            return x * (mask / (1 - self.rate))

    options = _EFFICIENTNETS[case.image]
    config = EfficientNetConfig(
        **options,
        depthwise_padding=_strided_blocks(EfficientNetConfig(**options)),
        drop_connect_rate=STOCHASTIC_DEPTH,
    )
    model = EfficientNetModel(config)
    model.embeddings.padding = torch.nn.ZeroPad2d(1)
    for name in ("top_conv", "top_bn", "top_activation"):
        setattr(model.encoder, name, torch.nn.Identity())
    for block in model.encoder.blocks:
        block.projection.dropout = StochasticDepth(block.projection.dropout.p)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    return model


def _strided_blocks(config):
    """Returns the indices of the blocks of stride 2, whose input our tower pads symmetrically."""
    first, blocks = 0, []
    for stride, repeats in zip(config.strides, config.num_block_repeats, strict=True):
        if stride == 2:
            blocks.append(first)
        first += math.ceil(config.depth_coefficient * repeats)
    return blocks


def _bert(case):
    from transformers import BertConfig, BertModel

    layers, width, heads = _BERTS[case.text]
    config = BertConfig(
        vocab_size=case.vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
        hidden_act="gelu_pytorch_tanh",
        max_position_embeddings=case.tokens,
    )
    return BertModel(config, add_pooling_layer=False)


def dual_encoder(case):
    """Returns a module that encodes pixels and two batches of tokens as normalized embeddings."""
    import torch
    from torch import nn

    class DualEncoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.text = _efficientnet(case), _bert(case)
            width = self.image.encoder.blocks[-1].projection.project_conv.out_channels
            if width == EMBEDDING_DIM:
                self.image_projection = nn.Identity()
            else:
                self.image_projection = nn.Linear(width, EMBEDDING_DIM)
            self.text_projection = nn.Linear(self.text.config.hidden_size, EMBEDDING_DIM)
            self.temperature = nn.Parameter(torch.ones(()))

        def forward(self, pixels, text_a, text_b):
            x = self.image.embeddings(pixels.float() / 127.5 - 1.0)
            x = self.image.encoder(x).last_hidden_state.mean((2, 3))
            tokens = torch.cat([text_a, text_b])
            hidden = self.text(tokens, attention_mask=(tokens != 0).long()).last_hidden_state
            texts = self.text_projection(hidden[:, 0])
            embeddings = (self.image_projection(x), *texts.split(len(text_a)))
            return [nn.functional.normalize(e, dim=-1, eps=1e-12) for e in embeddings]

    return DualEncoder()


def contrastive(x, y, temperature, margin=0.3, label_smoothing=0.1):
    """Returns the mean of `tf_mural.losses.contrastive` over a batch, computed by PyTorch."""
    import torch

    similarity = x @ y.T - margin * torch.eye(len(x), device=x.device)
    logits, target = similarity / temperature, torch.arange(len(x), device=x.device)
    loss = torch.nn.functional.cross_entropy
    return loss(logits, target, label_smoothing=label_smoothing) + loss(
        logits.T, target, label_smoothing=label_smoothing
    )


def etcl(image, text_a, text_b, temperature):
    """Returns the ETCL loss, the mean of its three terms."""
    pairs = ((image, text_a), (text_a, text_b), (text_b, image))
    return sum(contrastive(x, y, temperature) for x, y in pairs) / 3


class TorchStep:
    """A model, a batch and an optimizer for each variant.

    Args:
        case: `cases.Case`.
        threads: threads of PyTorch. Defaults to all cores.
        variants: list of "eager" (NCHW), "channels_last" (NHWC) and "compiled" (torch.compile).
        device: device of PyTorch; "auto" is a GPU if there is one.
        precision: one of "float32" and "bfloat16" (autocast).
    """

    def __init__(
        self,
        case,
        threads=None,
        variants=("eager", "channels_last"),
        device="cpu",
        precision="float32",
    ):
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device, self._dtype = device, getattr(torch, precision)

        if threads:
            torch.set_num_threads(threads)
        # TensorFlow also flushes denormal numbers to 0.
        torch.set_flush_denormal(True)
        torch.manual_seed(0)
        self.variants = tuple(variants)
        self._setups = {variant: self._set_up(case, variant) for variant in variants}

    def _set_up(self, case, variant):
        import torch

        model, arrays = dual_encoder(case).train().to(self._device), synthetic_batch(case)
        batch = [torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2)]
        if variant == "eager":
            batch[0] = batch[0].contiguous()
        else:
            model = model.to(memory_format=torch.channels_last)
        batch += [torch.from_numpy(arrays[field]).long() for field in ("text_a", "text_b")]
        batch = [tensor.to(self._device) for tensor in batch]
        run = torch.compile(model) if variant == "compiled" else model
        return model, run, batch, LAMB(model.named_parameters())

    def step(self, variant):
        """Runs one step; returns its loss.

        Raises:
            RuntimeError: a parameter has no gradient.
        """
        import torch

        model, run, batch, optimizer = self._setups[variant]
        model.zero_grad(set_to_none=True)
        with torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32):
            embeddings = run(*batch)
        loss = etcl(*(e.float() for e in embeddings), model.temperature)
        loss.backward()
        if not optimizer.steps:
            missing = [name for name, p in model.named_parameters() if p.grad is None]
            if missing:
                raise RuntimeError(f"no gradient for {missing}")
        with torch.no_grad():
            optimizer.step()
            model.temperature.clamp_(0.005, 2.0)
        return loss.item()

    def describe(self):
        """Returns {"parameters", "forward_flops", "device", "versions", "threads"}."""
        import torch
        import transformers
        from torch.utils.flop_counter import FlopCounterMode

        # Only the forward pass is counted, because PyTorch counts the gradient of a depthwise
        # kernel once per channel.
        model, _, batch, _ = self._setups[self.variants[0]]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(*batch)
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "forward_flops": counter.get_total_flops(),
            "device": torch.cuda.get_device_name() if self._device == "cuda" else "cpu",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "threads": torch.get_num_threads(),
        }

    def matmul(self, size):
        """Multiplies two matrices of `size` x `size` in the precision of the step."""
        import torch

        if getattr(self, "_matrix", None) is None or self._matrix.shape[0] != size:
            self._matrix = torch.randn(size, size, device=self._device, dtype=self._dtype)
        torch.matmul(self._matrix, self._matrix)
        if self._device == "cuda":
            torch.cuda.synchronize()
