"""Protocols by name: what is measured, how ties count, and what is averaged.

The protocol id of a `Result` is "<task>/<name>", followed by options such as
";captions_per_image=1". Results of different ids are not comparable. The table says in words what
an id stands for; `tools/evaluate.py` prints it, and writes it to the file of the result.
"""

from tf_mural.errors import UserError

PROTOCOLS = {
    "retrieval/v1": {
        "captions": "all",
        "metrics": "hit@1, hit@5, hit@10, average recall",
        "ties": "misses",
        "duplicates": "images with equal bytes are merged",
        "mean": "over queries",
    },
    "retrieval/mteb": {
        "captions": "all",
        "metrics": "nDCG@10, hit@1, hit@5, hit@10",
        "ties": "by id, descending",
        "duplicates": "kept",
        "mean": "over queries",
    },
    "retrieval/mteb-unique": {
        "captions": "all; equal texts are one text",
        "metrics": "nDCG@10, hit@1, hit@5, hit@10",
        "ties": "by id, descending",
        "duplicates": "kept",
        "mean": "over queries",
    },
    "zero_shot/v1": {
        "templates": "all of the prompts",
        "metrics": "top-1, top-5",
        "ties": "misses",
        "mean": "over images",
    },
    "zero_shot/argmax": {
        "templates": "all of the prompts",
        "metrics": "top-1, mean per-class recall",
        "ties": "the class with the lowest label",
        "mean": "over images",
    },
    "multiple_choice/v1": {
        "metrics": "accuracy",
        "ties": "the first option",
        "mean": "over items",
    },
}
_DEFAULT = "v1"


def names(task):
    """Returns the names of the protocols of a task, such as ["v1", "mteb"]."""
    return [id.split("/")[1] for id in PROTOCOLS if id.split("/")[0] == task]


def protocol_id(task, protocol=None, **options):
    """Returns a protocol id.

    Args:
        task: name of the task.
        protocol: name of the protocol; None: the default protocol, v1.
        **options: options that change what is measured; options that are None are left out.

    Raises:
        UserError: the task has no such protocol.
    """
    if protocol not in (None, _DEFAULT) and protocol not in names(task):
        raise UserError(
            f"unknown protocol of {task} {protocol!r}; known: {', '.join(names(task)) or _DEFAULT}"
        )
    parts = [f"{name}={value}" for name, value in options.items() if value is not None]
    return ";".join([f"{task}/{protocol or _DEFAULT}", *parts])


def describe(id):
    """Returns what a protocol id stands for, as {part: description}; {} for other tasks."""
    name, *options = id.split(";")
    details = dict(PROTOCOLS.get(name, {}))
    for option in options:
        key, _, value = option.partition("=")
        if key == "captions_per_image":
            details["captions"] = "first" if value == "1" else f"first {value}"
        elif key == "prompt_set":
            details["templates"] = value
    return details
