"""Records losses and gradients of `open_clip.ClipLoss` in clip_loss.npz, next to this file.

    python3.11 -m venv venv-clip_loss
    venv-clip_loss/bin/pip install -r tests/golden/requirements-clip_loss.txt
    venv-clip_loss/bin/python tests/golden/record_clip_loss.py

The keys are "<case>/loss", and the gradients of this loss with respect to its inputs:
"<case>/images" and "<case>/texts", both (pairs, width), and "<case>/scale". All arrays are float64.
The loss is the mean of the image-to-text and the text-to-image loss. The scale multiplies the
logits.
"""

import importlib.metadata
import importlib.util
import os

import clip_loss_case
import numpy as np
import torch


def open_clip_loss(name):
    """Creates a loss of open_clip by the name of its class, such as "ClipLoss".

    Only loss.py is imported, because the package needs a torchvision that matches PyTorch.
    """
    folder = importlib.util.find_spec("open_clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("loss", os.path.join(folder, "loss.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)()


def record(scale, **features):
    """Returns the recorded arrays of one case, {name: array}."""
    images, texts = clip_loss_case.features(**features)
    tensors = [torch.tensor(x, requires_grad=True) for x in (images, texts, np.float64(scale))]
    loss = open_clip_loss("ClipLoss")(*tensors)
    loss.backward()
    gradients = zip(("images", "texts", "scale"), tensors, strict=True)
    return {"loss": loss.item(), **{name: x.grad.numpy() for name, x in gradients}}


def main():
    """Writes clip_loss.npz."""
    arrays = {}
    for case, settings in clip_loss_case.CASES.items():
        arrays |= {f"{case}/{name}": value for name, value in record(**settings).items()}
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clip_loss.npz")
    np.savez_compressed(path, **arrays)
    version = importlib.metadata.version("open_clip_torch")
    versions = f"open_clip {version}, PyTorch {torch.__version__}"
    print(f"wrote {path}: {len(arrays)} arrays, {os.path.getsize(path)} bytes ({versions})")


if __name__ == "__main__":
    main()
