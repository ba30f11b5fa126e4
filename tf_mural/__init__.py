"""Multilingual image-text training with MURAL and ETCL in TensorFlow and Keras."""

__version__ = "0.1.0"
