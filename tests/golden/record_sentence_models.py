"""Records tokens and embeddings of sentence-transformers and of Hugging Face's text models.

    python3.11 -m venv venv-sentence_models
    venv-sentence_models/bin/pip install -r tests/golden/requirements-sentence_models.txt
    venv-sentence_models/bin/python tests/golden/record_sentence_models.py

Writes sentence_models.npz next to this file. The checkpoints are those of
tests/helpers/sentence_checkpoints.py, which draws their weights from a seed. The keys are
"<checkpoint>/<name>", and the names are "tokens" (int32, padded to the longest text) and "rows".
The rows are the embeddings of sentence-transformers or of M-CLIP, or the hidden states of the first
token of models that have no pooling of their own. They are computed in float64, and stored in
float32.
"""

import json
import os
import sys
import tempfile

import numpy as np
import safetensors.torch
import sentence_models_case as case
import sentence_transformers
import torch
import transformers

_TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [_TESTS, os.path.dirname(_TESTS)]
from helpers import sentence_checkpoints as checkpoints  # noqa: E402


class MultilingualClip(torch.nn.Module):
    """The model of the package multilingual_clip, with a transformer that a config describes."""

    def __init__(self, folder):
        super().__init__()
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        base = os.path.join(folder, config["modelBase"])
        self.transformer = transformers.AutoModel.from_config(
            transformers.AutoConfig.from_pretrained(base)
        )
        sizes = config["transformerDimensions"], config["numDims"]
        self.LinearTransformation = torch.nn.Linear(*sizes)
        tensors = safetensors.torch.load_file(os.path.join(folder, "model.safetensors"))
        self.load_state_dict(tensors)

    def forward(self, tokens):
        """Returns the projected averages of the hidden states."""
        mask = tokens["attention_mask"]
        hidden = self.transformer(**tokens)[0]
        pooled = (hidden * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1)[:, None]
        return self.LinearTransformation(pooled)


def outputs(name, folder):
    """Returns the tokens of the texts and the embeddings."""
    texts = checkpoints.TEXTS
    if name.startswith("multilingual-e5"):
        texts = [case.E5_PREFIX + text for text in texts]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    options = {"padding": True, "truncation": True, "max_length": checkpoints.MAX_TOKENS}
    if os.path.exists(os.path.join(folder, "modules.json")):
        model = sentence_transformers.SentenceTransformer(folder, device="cpu").double().eval()
        tokens = tokenizer(texts, return_tensors="pt", **options)
        with torch.no_grad():
            return tokens["input_ids"], model(dict(tokens))["sentence_embedding"]
    tokens = tokenizer(texts, return_tensors="pt", **options)
    tokens = {key: tokens[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        if "Vit" in name:
            return tokens["input_ids"], MultilingualClip(folder).double().eval()(tokens)
        model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager")
        hidden = model.double().eval()(**tokens).last_hidden_state
    return tokens["input_ids"], hidden[:, 0]


def main():
    """Writes the file."""
    arrays = {}
    with tempfile.TemporaryDirectory() as root:
        for name, write in checkpoints.MODELS.items():
            folder = write(os.path.join(root, name), case.SEED)
            tokens, rows = outputs(name, folder)
            arrays[f"{name}/tokens"] = np.asarray(tokens, np.int32)
            arrays[f"{name}/rows"] = np.asarray(rows, np.float32)
    np.savez_compressed(case.OUTPUTS, **arrays)
    print(f"wrote {case.OUTPUTS}: {len(arrays)} arrays, {os.path.getsize(case.OUTPUTS)} bytes")
    versions = (sentence_transformers, transformers, torch)
    print(", ".join(f"{module.__name__} {module.__version__}" for module in versions))


if __name__ == "__main__":
    main()
