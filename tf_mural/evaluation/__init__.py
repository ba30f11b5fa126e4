"""Evaluation tasks by name; each module has `run(embedder, records, **options) -> Result`."""

from tf_mural.evaluation import bitext, consistency, knn, retrieval, sts, zero_shot

TASKS = {
    "retrieval": retrieval.run,
    "zero_shot": zero_shot.run,
    "knn": knn.run,
    "sts": sts.run,
    "bitext": bitext.run,
    "consistency": consistency.run,
}
