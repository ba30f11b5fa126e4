"""The labelled pictures that classification is evaluated on, one file a corpus.

`cifar100`, `food101`, `sun397` and `imagenet` read what their home pages publish: archives without
unpacking them, or the folders that they unpack to. A record is one image and its label, a number
from 0; the names of the labels stand in the manifest as `classes`.
"""
