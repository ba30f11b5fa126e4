"""Times the ETCL step with a trained, a frozen and a stored image tower.

    python benchmarks/frozen_tower.py --cases=tiny,b0 --json=frozen.json

A trained image tower runs forward and backward. A frozen one (adapt="frozen") runs forward, without
a gradient tape. Of a stored one (vectors=..., adapt="last:0"), the features are read from the
records, and only the projection runs. The three steps alternate on the same examples in one
process, on TensorFlow.
"""

import dataclasses
import os
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.cases import CASES, Case, synthetic_batch  # noqa: E402
from benchmarks.common import (  # noqa: E402
    append_load,
    log,
    machine_info,
    make_parser,
    parse_names,
    report,
)
from benchmarks.tf_mural_step import make_config, make_trainer  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

VARIANTS = {  # {name: values of config.model.image}
    "trained": {"adapt": "full"},
    "frozen": {"adapt": "frozen"},
    "stored": {"adapt": "last:0", "vectors": "features"},
}
_TINY = Case("tiny", "tiny", "nano", image_size=64, batch=128, tokens=32, vocabulary=3116)
_MINI = dataclasses.replace(CASES["b0"], name="b0_mini", text="mini", batch=32, tokens=32)
# {name: tuple (case, turns per round)}
SETUPS = {"tiny": (_TINY, 5), "b0_mini": (_MINI, 1), "b0": (CASES["b0"], 1)}


class FrozenTowerStep:
    """Compiled trainers whose image towers are trained, frozen, or have stored features."""

    def __init__(self, case):
        import tensorflow as tf

        from tf_mural.backends import tensorflow as tf_backend

        self._steps, strategy = {}, tf_backend.make_strategy("one")
        for name, values in VARIANTS.items():
            config = make_config(case)
            # The projection of the features, which the stored tower trains.
            config.model.embedding_dim = 512
            config.model.image.update(values)
            trainer = make_trainer(config, case, strategy)
            batch = self._batch(case, trainer)
            function = tf.function(trainer.train_step, autograph=False)
            self._steps[name] = (strategy, function, batch)

    @staticmethod
    def _batch(case, trainer):
        import tensorflow as tf

        arrays, ids = synthetic_batch(case), tf.range(case.batch, dtype=tf.int64)
        image = {"pixels": tf.constant(arrays["image"])}
        if "image" in trainer.encoder.stored.projections:
            features = trainer.encoder.towers["image"].split()[0]
            image = {"vectors": features.predict(arrays["image"], verbose=0)}
        batch = {"image": {**image, "id": ids}}
        for field in ("text_a", "text_b"):
            texts = {"tokens": tf.constant(arrays[field]), "id": ids}
            batch[field] = {**texts, "language": tf.zeros([case.batch], tf.int32)}
        return batch

    def step(self, variant):
        """Runs one step; returns its loss."""
        strategy, function, batch = self._steps[variant]
        return float(strategy.run(function, args=(batch,))["loss"])


def measure(case, rounds, warmup=1):
    """Times the steps of all variants alternately.

    Args:
        case: `cases.Case`.
        rounds: timed steps of each variant.
        warmup: steps of each variant before the timed steps.

    Returns:
        {"case", "seconds": {variant: list of the seconds of each step}, "share": {variant: median
        over the median of the trained tower}}.
    """
    seconds = {variant: [] for variant in VARIANTS}
    worker = Worker("benchmarks.frozen_tower", "FrozenTowerStep", case=case)
    try:
        for turn in range(-warmup, rounds):
            for variant, values in seconds.items():
                loss, wall, _ = worker.call("step", variant)
                log(f"{case.name}: {variant}, {wall:.3f} s, loss {loss:.4f}")
                if turn >= 0:
                    values.append(wall)
    finally:
        worker.close()
    medians = {variant: statistics.median(values) for variant, values in seconds.items()}
    share = {variant: median / medians["trained"] for variant, median in medians.items()}
    return {"case": dataclasses.asdict(case), "seconds": seconds, "share": share}


def table(results):
    """Returns the lines of a table."""
    lines = []
    for name, result in results.items():
        medians = {k: statistics.median(values) for k, values in result["seconds"].items()}
        cells = [f"{k} {s:.3f} s ({result['share'][k]:.2f})" for k, s in medians.items()]
        lines.append(f"  {name}, batch {result['case']['batch']}: {', '.join(cells)}")
    return lines


def main(arguments=None):
    """Runs the benchmark. `arguments` is a list of flags; None means the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--cases", default="tiny", help=f"comma-separated: {', '.join(SETUPS)}")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each kind")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    info, results = machine_info(), {}
    for name in parse_names(parser, "--cases", options.cases, SETUPS):
        case, turns = SETUPS[name]
        results[name] = measure(case, turns * options.rounds)
        append_load(info)
    report(info, table(results), options.json, cases=results)


if __name__ == "__main__":
    main()
