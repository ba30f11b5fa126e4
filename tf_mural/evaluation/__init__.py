"""Evaluation tasks by name: functions `run(embedder, records, **options)` that return `Result`."""

from tf_mural.evaluation import bitext, consistency, knn, retrieval, sts, zero_shot

TASKS = {
    "retrieval": retrieval.run,
    "zero_shot": zero_shot.run,
    "knn": knn.run,
    "sts": sts.run,
    "bitext": bitext.run,
    "consistency": consistency.run,
}
