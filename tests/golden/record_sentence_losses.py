"""Records losses of sentence-transformers and their gradients in sentence_losses.npz.

    python3.11 -m venv venv-sentence_losses
    venv-sentence_losses/bin/pip install -r tests/golden/requirements-sentence_losses.txt
    venv-sentence_losses/bin/python tests/golden/record_sentence_losses.py

The keys are "<case>/loss", and the gradients of this loss with respect to the embeddings before the
normalization: "<case>/anchors", and for the ranking losses "<case>/positives" and
"<case>/negatives". All arrays are float64. The cases are "mse" (`MSELoss`, whose teacher's rows are
the positives), "negatives" (`MultipleNegativesRankingLoss` in both directions), and "matryoshka
negatives" (the same inside of `MatryoshkaLoss`).
"""

import importlib.metadata
import os

import numpy as np
import sentence_losses_case as case
import torch
from sentence_transformers.sentence_transformer import losses


class Embeddings(torch.nn.Module):
    """A model whose inputs are its embeddings."""

    def forward(self, features):
        """Returns the embeddings under the key that the losses read."""
        return {"sentence_embedding": features["embeddings"]}

    def get_embedding_dimension(self):
        """Returns the width of the embeddings."""
        return case.WIDTH


def record(loss, inputs, labels):
    """Returns the loss and its gradients at the inputs, {name: array}."""
    tensors = {name: torch.tensor(x, requires_grad=True) for name, x in inputs.items()}
    value = loss([{"embeddings": x} for x in tensors.values()], labels)
    value.backward()
    return {"loss": value.item(), **{name: x.grad.numpy() for name, x in tensors.items()}}


def main():
    """Writes sentence_losses.npz."""
    rows = dict(zip(("anchors", "positives", "negatives"), case.embeddings(), strict=True))
    model, arrays = Embeddings(), {}
    teacher = torch.tensor(rows["positives"])
    ranking = losses.MultipleNegativesRankingLoss(
        model,
        scale=1 / case.TEMPERATURE,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    nested = losses.MatryoshkaLoss(model, ranking, list(case.DIMS), list(case.WEIGHTS))
    cases = {
        "mse": (losses.MSELoss(model), {"anchors": rows["anchors"]}, teacher),
        "negatives": (ranking, rows, None),
        "matryoshka negatives": (nested, rows, None),
    }
    for name, arguments in cases.items():
        arrays |= {f"{name}/{part}": value for part, value in record(*arguments).items()}
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sentence_losses.npz")
    np.savez_compressed(path, **arrays)
    version = importlib.metadata.version("sentence-transformers")
    print(f"wrote {path}: {len(arrays)} arrays (sentence-transformers {version})")


if __name__ == "__main__":
    main()
