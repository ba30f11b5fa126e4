"""Flags of the commands that embed record sets with a model."""

import os

from absl import flags

from tf_mural.errors import UserError

flags.disclaim_key_flags()  # absl assigns a flag to the module that calls its `define_...`


def define_model(flag_values):
    """Defines the flag --model, which is required."""
    return flags.DEFINE_string(
        "model",
        None,
        "Workdir of a finished run, a preset, or a public model (hf:NAME_OR_FOLDER, "
        "keras_hub:PRESET_OR_FOLDER). Required.",
        flag_values=flag_values,
    )


def define_records(flag_values):
    """Defines the flag --records, which is required; see `open_record_sets`."""
    return flags.DEFINE_list(
        "records",
        None,
        "Folders of the record sets, separated by commas. Required.",
        flag_values=flag_values,
    )


def define_batches(flag_values):
    """Defines the flags --batch_size and --strategy; returns both."""
    batch_size = flags.DEFINE_integer(
        "batch_size",
        64,
        "Number of images or texts per batch.",
        lower_bound=1,
        flag_values=flag_values,
    )
    strategy = flags.DEFINE_string(
        "strategy",
        "one",
        "Devices that compute the embeddings: one, or mirrored (all GPUs).",
        flag_values=flag_values,
    )
    return batch_size, strategy


def check_given(*required):
    """Raises UserError if one of these flags has no value."""
    for flag in required:
        if not flag.value:
            raise UserError(f"--{flag.name} is missing (--help describes this flag)")


def open_record_sets(folders):
    """Returns {name of a folder: `RecordSet`}; the results of a command get these names.

    Raises:
        UserError: a folder has no record set, or two folders have the same name.
    """
    from tf_mural.data.records import RecordSet

    sets = {}
    for folder in folders:
        split = os.path.basename(os.path.normpath(folder))
        if split in sets:
            raise UserError(
                f"two of the record sets have the name {split!r}, which their results get: give "
                "them to two commands with different --out_dir"
            )
        sets[split] = RecordSet.open(folder)
    return sets
