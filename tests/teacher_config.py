"""MURAL whose source texts are encoded by a frozen second text tower, the teacher."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import small_config  # noqa: E402


def get_config(stage):
    """Returns the config of a stage; the teacher encodes the field `source` of MURAL."""
    config = small_config.get_config(stage)
    config.model.towers.teacher = dict(modality="text", **config.model.text)
    config.model.towers.teacher.adapt = "frozen"
    config.sources.bitext.fields.source = "teacher"
    return config
