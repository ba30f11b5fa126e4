"""Evaluation tasks by name: functions `run(embedder, records, **options)` that return `Result`."""

from tf_mural.evaluation import bitext, consistency, knn, multiple_choice, retrieval, sts, zero_shot

TASKS = {
    "retrieval": retrieval.run,
    "zero_shot": zero_shot.run,
    "knn": knn.run,
    "sts": sts.run,
    "bitext": bitext.run,
    "consistency": consistency.run,
    "multiple_choice": multiple_choice.run,
}
