"""Evaluations, one a file: each has `run(embed, records, **options) -> Result`."""

from tf_mural.tasks import retrieval

TASKS = {"retrieval": retrieval.run}
