"""What people use a trained model by; `tf_mural.Embedder` is the one here."""

from tf_mural.api.embedding import Embedder

__all__ = ["Embedder"]
