"""Adapters that run models of this package in other packages.

mteb.py   mteb, the benchmark of text and multimodal embeddings

Each module imports the other package, which is not installed with this package.
"""
