"""Records outputs of Hugging Face's `BertModel` for [CLS] in bert.npz, next to this file.

    python3.11 -m venv venv-bert
    venv-bert/bin/pip install -r tests/golden/requirements-bert.txt
    venv-bert/bin/python tests/golden/record_bert.py

The arrays are computed in float64 and stored in float32. The keys start with the activation, "gelu"
(exact) or "gelu_new" (tanh approximation):

    <activation>/cls        hidden states of [CLS] after the last layer (texts, width)
    <activation>/embedding  linear projections of these hidden states
    <activation>/pooled     outputs of BERT's pooler
"""

import os

import bert_case
import numpy as np
import torch
import transformers


def record(activation):
    """Returns the recorded arrays of one activation function, {key: array}."""
    config = transformers.BertConfig(
        vocab_size=bert_case.VOCABULARY,
        hidden_size=bert_case.WIDTH,
        num_hidden_layers=bert_case.LAYERS,
        num_attention_heads=bert_case.HEADS,
        intermediate_size=4 * bert_case.WIDTH,
        max_position_embeddings=bert_case.POSITIONS,
        hidden_act=activation,
        attn_implementation="eager",
    )
    model = transformers.BertModel(config).double().eval()
    weights = {name: torch.tensor(value).double() for name, value in bert_case.weights().items()}
    kernel, bias = (weights.pop(f"text_projection.{name}") for name in ("weight", "bias"))
    model.load_state_dict(weights, strict=True)
    tokens = torch.tensor(bert_case.tokens()).long()
    with torch.no_grad():
        output = model(input_ids=tokens, attention_mask=(tokens != 0).long())
        cls = output.last_hidden_state[:, 0]
        outputs = {
            "cls": cls,
            "embedding": torch.nn.functional.linear(cls, kernel, bias),
            "pooled": output.pooler_output,
        }
    return {name: np.float32(value.numpy()) for name, value in outputs.items()}


def main():
    """Writes bert.npz."""
    arrays = {}
    for activation in ("gelu", "gelu_new"):
        arrays |= {f"{activation}/{name}": x for name, x in record(activation).items()}
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bert.npz")
    np.savez_compressed(path, **arrays)
    versions = f"transformers {transformers.__version__}, PyTorch {torch.__version__}"
    print(f"wrote {path}: {len(arrays)} arrays, {os.path.getsize(path)} bytes ({versions})")


if __name__ == "__main__":
    main()
