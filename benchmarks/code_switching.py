"""Measures how many captions per second are code-switched on one core, beside their tokenization.

    python benchmarks/code_switching.py --json=code_switching.json

The captions are those of the training images of scenes. The words are replaced by translations into
eleven languages with probability 0.5, in batches of 128 captions. The table shows the median over
the rounds, in which the variants alternate.
"""

import os
import statistics
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.common import append_load, log, machine_info, make_parser, report  # noqa: E402

BATCH = 128
VARIANTS = {  # {name: options of `CodeSwitch`}
    "one language per word": {},
    "one language per text": {"per": "text"},
    "all words": {"probability": 1.0},
    "phrases of up to 3 words": {"max_words": 3},
    "no words": {"probability": 0.0},
}


def captions(count):
    """Returns the English captions of `count` training images of scenes, as UTF-8 bytes."""
    from tf_mural.datasets.scenes.grammar import GRAMMARS
    from tf_mural.datasets.scenes.scene import sample_scenes

    scenes = sample_scenes("train", count, seed=0)
    return [GRAMMARS["en"].caption(scene).encode("utf-8") for scene in scenes]


def measure(count=5_888, rounds=9):
    """Returns {variant: list of captions per second}, also of the tokenization of the captions.

    Args:
        count: number of captions of a round, a multiple of `BATCH`.
        rounds: number of rounds.
    """
    import numpy as np
    import tensorflow as tf

    from tf_mural.data.code_switching import CodeSwitch, CodeSwitcher
    from tf_mural.data.tokenizer_files import open_tokenizer
    from tf_mural.datasets.scenes.lexicon import scenes_lexicon
    from tf_mural.experiment.config_validation import SCENES_VOCABULARY

    texts = np.array(captions(count), object).reshape(-1, BATCH)
    lexicon, english = scenes_lexicon(), np.zeros(BATCH, np.int64)
    calls = {}
    for name, options in VARIANTS.items():
        options = CodeSwitch(("caption",), lexicon, **options)
        calls[name] = CodeSwitcher(options, "captions/caption", 0, ("en",))
    tokenizer = open_tokenizer(SCENES_VOCABULARY, 32)
    tokenize = tf.function(tokenizer, autograph=False)
    calls["tokenization only"] = lambda batch, *_: tokenize(tf.constant(batch))
    rates = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start_time = time.perf_counter()
            for i, batch in enumerate(texts):
                call(batch, english, np.arange(i * BATCH, (i + 1) * BATCH))
            if number:  # the first round also compiles
                rates[name].append(count / (time.perf_counter() - start_time))
    return rates


def table(rates):
    """Returns the lines of the table: medians, and the range of the rounds."""
    return [
        f"{name:<26}{statistics.median(values):>10,.0f} captions/s "
        f"({min(values):,.0f} to {max(values):,.0f})"
        for name, values in rates.items()
    ]


def main(argv=None):
    """Runs the benchmark on one core."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="number of rounds")
    args = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    info = machine_info()
    log("one core, batches of 128 captions of scenes")
    rates = measure(rounds=args.rounds)
    report(append_load(info), table(rates), args.json, captions_per_second=rates)


if __name__ == "__main__":
    main()
