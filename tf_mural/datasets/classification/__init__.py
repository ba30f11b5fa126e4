"""Labeled images for the evaluation of classification, one file per corpus.

`cifar100`, `food101`, `sun397` and `imagenet` read the published archives without unpacking them,
or the folders that the archives unpack to. A record is one image with its label, an integer that
counts from 0; the manifest lists the class names as `classes`.
"""
