"""Times what an evaluation does: recalls, the embedding of texts and that of images.

    python -m venv .venv-bench
    .venv-bench/bin/pip install -r benchmarks/requirements.txt
    .venv-bench/bin/pip install --no-deps clip-benchmark==1.6.2
    .venv-bench/bin/python benchmarks/evaluate.py --tatoeba=FOLDER --json=evaluate.json

Recalls of 5,000 images and 25,000 texts, beside straightforward numpy and CLIP_benchmark's
functions (--no-peer leaves those out); the `Embedder` beside the bare towers on the same batches;
texts sorted and cut by length beside all padded to 64. The sides take turns.
"""

import argparse
import os
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.common import machine, note_load, picked, require, say, tell  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

PARTS = ("recalls", "texts", "images")


def measure_recalls(images, texts_per_image, width, rounds, peer=True):
    """Times each way of scoring, each in a process of its own.

    Returns:
        {way: {"seconds": of each round, "peak_mib", "values"}}, ours in `rounds` rounds, the slow
        ways in one; and "largest_difference" of any recall of theirs from ours.

    Raises:
        RuntimeError: a way gives other recalls: more than one query in a direction is ranked
            otherwise, which rounding alone does not do.
    """
    ways = ["ours", "numpy"] + ["clip_benchmark"] * peer
    found = {}
    for way in ways:
        worker = Worker(
            "benchmarks.recalls",
            "Recalls",
            images=images,
            texts_per_image=texts_per_image,
            width=width,
        )
        try:
            worker.call("load", way)
            seconds = []
            for _ in range(rounds if way == "ours" else 1):
                values, wall, _ = worker.call(way)
                seconds.append(wall)
                say(f"recalls, {way}: {wall:.2f} s, average recall {values['average_recall']:.3f}")
            peak = worker.call("peak")[0]
        finally:
            worker.close()
        found[way] = {"seconds": seconds, "peak_mib": peak, "values": values}
    ours = found["ours"]["values"]
    others = [found[way]["values"][name] - ours[name] for way in ways[1:] for name in ours]
    largest = max(map(abs, others))
    if largest > 1.001 * 100.0 / images:
        raise RuntimeError(f"the ways do not agree: {found}")
    return {"ways": found, "largest_difference": largest}


def measure_embedding(worker, kind, rounds):
    """Times the embedder and the bare tower in turns; of texts also with all padded to 64.

    Returns:
        {"items", "batches" {width or size: batches}, "seconds" and "processor_seconds" {side:
        [...]}, "of_bare": the rate as a share of the bare tower's, by the medians, and
        "of_bare_fastest", by the fastest turn of each}; of texts also "speedup" over padding all,
        likewise, and "largest_difference" of two embeddings.
    """
    import numpy as np

    cuts = (True, False) if kind == "texts" else (True,)
    batches = {cut: worker.call("prepare", kind, cut)[0] for cut in cuts}
    seconds, processor, rows = {}, {}, {}
    for turn in range(rounds):
        for cut in cuts:
            name = "cut" if cut else "padded"
            for side in ("bare", "embed"):
                answer, wall, busy = worker.call(side, kind, cut)
                seconds.setdefault(f"{side} {name}", []).append(wall)
                processor.setdefault(f"{side} {name}", []).append(busy)
                say(f"{kind}: turn {turn + 1}/{rounds}, {side} {name}: {wall:.2f} s")
                if answer is not None:
                    rows[name] = answer
    median = {side: statistics.median(walls) for side, walls in seconds.items()}
    fastest = {side: min(walls) for side, walls in seconds.items()}
    found = {
        "items": len(rows["cut"]),
        "batches": batches[True],
        "seconds": seconds,
        "processor_seconds": processor,
        "of_bare": median["bare cut"] / median["embed cut"],
        "of_bare_fastest": fastest["bare cut"] / fastest["embed cut"],
    }
    if "padded" in rows:
        found["speedup"] = median["embed padded"] / median["embed cut"]
        found["speedup_fastest"] = fastest["embed padded"] / fastest["embed cut"]
        found["largest_difference"] = float(np.abs(rows["cut"] - rows["padded"]).max())
    return found


def table(results):
    """Lines that say the same as the JSON file, for people."""
    lines = []
    if recalls := results.get("recalls"):
        ours = statistics.median(recalls["ways"]["ours"]["seconds"])
        lines.append(f"  {'recalls':<24} {'seconds':>8} {'peak MiB':>9} {'ours is faster by':>18}")
        for way, found in recalls["ways"].items():
            seconds = statistics.median(found["seconds"])
            lines.append(
                f"  {way:<24} {seconds:>8.2f} {found['peak_mib']:>9.0f} {seconds / ours:>18.1f}"
            )
    for kind in ("texts", "images"):
        if found := results.get(kind):
            lines.append(f"  {kind:<24} {'seconds':>8} {'a second':>9}")
            for side, walls in found["seconds"].items():
                seconds = statistics.median(walls)
                lines.append(f"  {side:<24} {seconds:>8.2f} {found['items'] / seconds:>9.1f}")
            lines.append(
                f"  rate of the bare tower reached: {found['of_bare']:.1%} "
                f"({found['of_bare_fastest']:.1%} by the fastest turns)"
            )
            if "speedup" in found:
                lines.append(
                    f"  faster than padding all to 64 by {found['speedup']:.2f} "
                    f"({found['speedup_fastest']:.2f} by the fastest turns), largest difference "
                    f"{found['largest_difference']:.1e}; batches by length: {found['batches']}"
                )
    return lines


def parse(arguments=None):
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="parted by commas")
    parser.add_argument("--retrieval_images", type=int, default=5000)
    parser.add_argument("--texts_per_image", type=int, default=5)
    parser.add_argument("--width", type=int, default=640, help="of the embeddings to score")
    parser.add_argument("--tatoeba", help="folder of tatoeba.xxx-eng.xxx; without: random words")
    parser.add_argument("--text", default="base", help="text tower")
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--text_batch", type=int, default=32)
    parser.add_argument("--image", default="b7", help="image tower")
    parser.add_argument("--image_size", type=int, default=289)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--image_batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument(
        "--peer", action=argparse.BooleanOptionalAction, default=True, help="CLIP_benchmark too"
    )
    parser.add_argument("--json", help="file for the numbers")
    options = parser.parse_args(arguments)
    options.parts = picked(parser, "--parts", options.parts, PARTS)
    if options.rounds < 1 or options.retrieval_images < 10:
        parser.error("--rounds from 1, --retrieval_images from 10")
    if options.peer and "recalls" in options.parts:
        require(parser, ("torch", "clip_benchmark"))
    return options


def main():
    options = parse()
    about, results = machine(), {}
    if "recalls" in options.parts:
        results["recalls"] = measure_recalls(
            options.retrieval_images,
            options.texts_per_image,
            options.width,
            options.rounds,
            options.peer,
        )
        note_load(about)
    kinds = [kind for kind in ("texts", "images") if kind in options.parts]
    if kinds:
        names = ("image", "text", "image_size", "tatoeba", "sentences", "images")
        names += ("text_batch", "image_batch")
        arguments = {name: getattr(options, name) for name in names}
        worker = Worker("benchmarks.embedding", "Embedding", **arguments)
        try:
            for kind in kinds:
                results[kind] = measure_embedding(worker, kind, options.rounds)
                note_load(about)
        finally:
            worker.close()
    flags = {key: value for key, value in vars(options).items() if key != "json"}
    tell(about, table(results), options.json, options=flags, **results)


if __name__ == "__main__":
    main()
