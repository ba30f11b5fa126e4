"""Records losses and gradients of `open_clip.SigLipLoss` in siglip_loss.npz, next to this file.

    python3.11 -m venv venv-siglip_loss
    venv-siglip_loss/bin/pip install -r tests/golden/requirements-siglip_loss.txt
    venv-siglip_loss/bin/python tests/golden/record_siglip_loss.py

The keys are "<case>/loss", and the gradients of this loss with respect to its inputs:
"<case>/images" and "<case>/texts", both (pairs, width), "<case>/scale" and "<case>/bias". All
arrays are float64.
"""

import importlib.metadata
import os

import numpy as np
import siglip_loss_case
import torch
from clip_loss_case import features
from record_clip_loss import open_clip_loss


def record(scale, bias, **settings):
    """Returns the recorded arrays of one case, {name: array}."""
    inputs = (*features(**settings), np.float64(scale), np.float64(bias))
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    loss = open_clip_loss("SigLipLoss")(*tensors)
    loss.backward()
    gradients = zip(("images", "texts", "scale", "bias"), tensors, strict=True)
    return {"loss": loss.item(), **{name: x.grad.numpy() for name, x in gradients}}


def main():
    """Writes siglip_loss.npz."""
    arrays = {}
    for case, settings in siglip_loss_case.CASES.items():
        arrays |= {f"{case}/{name}": value for name, value in record(**settings).items()}
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "siglip_loss.npz")
    np.savez_compressed(path, **arrays)
    version = importlib.metadata.version("open_clip_torch")
    versions = f"open_clip {version}, PyTorch {torch.__version__}"
    print(f"wrote {path}: {len(arrays)} arrays, {os.path.getsize(path)} bytes ({versions})")


if __name__ == "__main__":
    main()
