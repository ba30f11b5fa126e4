"""Times the parts of an evaluation: recalls, the embedding of texts, and the embedding of images.

    python -m venv .venv-bench
    .venv-bench/bin/pip install -r benchmarks/requirements.txt
    .venv-bench/bin/pip install --no-deps clip-benchmark==1.6.2
    .venv-bench/bin/python benchmarks/evaluate.py --tatoeba=FOLDER --json=evaluate.json

The recalls of 5,000 images and 25,000 texts are also timed for a straightforward numpy
implementation and for CLIP_benchmark. The flag --no-peer omits CLIP_benchmark. The `BatchEmbedder`
is compared with the bare towers on the same batches. For texts, batches that are padded to the
bucket of their length are compared with batches that are padded to 64 tokens. The compared
implementations take turns.
"""

import argparse
import os
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.common import (  # noqa: E402
    append_load,
    log,
    machine_info,
    make_parser,
    parse_names,
    report,
    require_packages,
)
from benchmarks.worker import Worker  # noqa: E402

PARTS = ("recalls", "texts", "images")


def measure_recalls(images, texts_per_image, width, rounds, peer=True):
    """Times each implementation of recalls in a process of its own.

    Args:
        images: see `recalls.Recalls`.
        texts_per_image: see `recalls.Recalls`.
        width: see `recalls.Recalls`.
        rounds: runs of `tf_mural`; the slower implementations run once.
        peer: whether to include CLIP_benchmark.

    Returns:
        {"implementations": {name: {"seconds" of each run, "peak_mib", "values"}},
        "largest_difference": largest difference between a recall by `tf_mural` and the same recall
        by another implementation}.

    Raises:
        RuntimeError: the recalls of an implementation differ from those of `tf_mural` by more than
            one query per direction. Rounding errors cannot cause such a difference.
    """
    names = ["tf_mural", "numpy"] + ["clip_benchmark"] * peer
    results = {}
    for name in names:
        worker = Worker(
            "benchmarks.recalls",
            "Recalls",
            images=images,
            texts_per_image=texts_per_image,
            width=width,
        )
        try:
            worker.call("load", name)
            seconds = []
            for _ in range(rounds if name == "tf_mural" else 1):
                values, wall, _ = worker.call(name)
                seconds.append(wall)
                log(f"recalls, {name}: {wall:.2f} s, average recall {values['average_recall']:.3f}")
            peak = worker.call("peak_mib")[0]
        finally:
            worker.close()
        results[name] = {"seconds": seconds, "peak_mib": peak, "values": values}
    own = results["tf_mural"]["values"]
    differences = [results[name]["values"][key] - own[key] for name in names[1:] for key in own]
    largest = max(map(abs, differences))
    if largest > 1.001 * 100.0 / images:
        raise RuntimeError(f"the implementations do not agree: {results}")
    return {"implementations": results, "largest_difference": largest}


def measure_embedding(worker, items, rounds):
    """Times the embedder and the bare tower alternately.

    Texts are timed twice: with padding to the bucket of their length, and to 64 tokens.

    Args:
        worker: `Worker` of an `embedding.Embedding`.
        items: "texts" or "images".
        rounds: number of timed runs of the embedder and of the tower.

    Returns:
        Dict with these keys:
            "items": number of items;
            "batches": {number of tokens or image size: number of batches};
            "seconds", "processor_seconds": {side: list of the seconds of each turn};
            "share_of_tower": rate of the embedder over the rate of the bare tower, by the medians;
            "share_of_tower_fastest": the same ratio by the fastest turns.
        For texts also:
            "speedup", "speedup_fastest": rate with buckets over the rate with padding;
            "largest_difference": largest difference between an embedding with buckets and the same
                embedding with padding.
    """
    import numpy as np

    modes = {"bucketed": True, "padded": False} if items == "texts" else {"bucketed": True}
    batches = {mode: worker.call("prepare", items, flag)[0] for mode, flag in modes.items()}
    seconds, processor, embeddings = {}, {}, {}
    for turn in range(rounds):
        for mode, flag in modes.items():
            for side in ("tower", "embedder"):
                answer, wall, processor_time = worker.call(side, items, flag)
                seconds.setdefault(f"{side} {mode}", []).append(wall)
                processor.setdefault(f"{side} {mode}", []).append(processor_time)
                log(f"{items}: turn {turn + 1}/{rounds}, {side} {mode}: {wall:.2f} s")
                if answer is not None:
                    embeddings[mode] = answer
    median = {side: statistics.median(walls) for side, walls in seconds.items()}
    fastest = {side: min(walls) for side, walls in seconds.items()}
    results = {
        "items": len(embeddings["bucketed"]),
        "batches": batches["bucketed"],
        "seconds": seconds,
        "processor_seconds": processor,
        "share_of_tower": median["tower bucketed"] / median["embedder bucketed"],
        "share_of_tower_fastest": fastest["tower bucketed"] / fastest["embedder bucketed"],
    }
    if "padded" in embeddings:
        difference = np.abs(embeddings["bucketed"] - embeddings["padded"]).max()
        results["speedup"] = median["embedder padded"] / median["embedder bucketed"]
        results["speedup_fastest"] = fastest["embedder padded"] / fastest["embedder bucketed"]
        results["largest_difference"] = float(difference)
    return results


def table(results):
    """Returns the lines of a table."""
    lines = []
    if recalls := results.get("recalls"):
        own = statistics.median(recalls["implementations"]["tf_mural"]["seconds"])
        lines.append(f"  {'recalls':<24} {'seconds':>8} {'peak MiB':>9} {'times as long':>14}")
        for name, result in recalls["implementations"].items():
            seconds = statistics.median(result["seconds"])
            lines.append(
                f"  {name:<24} {seconds:>8.2f} {result['peak_mib']:>9.0f} {seconds / own:>14.1f}"
            )
    for items in ("texts", "images"):
        if result := results.get(items):
            lines.append(f"  {items:<24} {'seconds':>8} {'per second':>10}")
            for side, walls in result["seconds"].items():
                seconds = statistics.median(walls)
                lines.append(f"  {side:<24} {seconds:>8.2f} {result['items'] / seconds:>10.1f}")
            lines.append(
                f"  share of the rate of the bare tower: {result['share_of_tower']:.1%} "
                f"({result['share_of_tower_fastest']:.1%} for the fastest turns)"
            )
            if "speedup" in result:
                lines.append(
                    f"  speedup over padding to 64 tokens: {result['speedup']:.2f} "
                    f"({result['speedup_fastest']:.2f} for the fastest turns), largest difference "
                    f"{result['largest_difference']:.1e}; batches by length: {result['batches']}"
                )
    return lines


def parse(arguments=None):
    """Parses the flags."""
    parser = make_parser(__doc__, PARTS)
    parser.add_argument("--retrieval_images", type=int, default=5000)
    parser.add_argument("--texts_per_image", type=int, default=5)
    parser.add_argument(
        "--width", type=int, default=640, help="width of the embeddings for recalls"
    )
    parser.add_argument("--tatoeba", help="folder of tatoeba.xxx-eng.xxx (default: random words)")
    parser.add_argument("--text", default="base", help="text tower")
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--text_batch", type=int, default=32)
    parser.add_argument("--image", default="b7", help="image tower")
    parser.add_argument("--image_size", type=int, default=289)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--image_batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument(
        "--peer", action=argparse.BooleanOptionalAction, default=True, help="also CLIP_benchmark"
    )
    options = parser.parse_args(arguments)
    options.parts = parse_names(parser, "--parts", options.parts, PARTS)
    if options.rounds < 1 or options.retrieval_images < 10:
        parser.error("--rounds must be at least 1, --retrieval_images at least 10")
    if options.peer and "recalls" in options.parts:
        require_packages(parser, ("torch", "clip_benchmark"))
    return options


def main():
    options = parse()
    info, results = machine_info(), {}
    if "recalls" in options.parts:
        results["recalls"] = measure_recalls(
            options.retrieval_images,
            options.texts_per_image,
            options.width,
            options.rounds,
            options.peer,
        )
        append_load(info)
    parts = [items for items in ("texts", "images") if items in options.parts]
    if parts:
        names = ("image", "text", "image_size", "tatoeba", "sentences", "images")
        names += ("text_batch", "image_batch")
        arguments = {name: getattr(options, name) for name in names}
        worker = Worker("benchmarks.embedding", "Embedding", **arguments)
        try:
            for items in parts:
                results[items] = measure_embedding(worker, items, options.rounds)
                append_load(info)
        finally:
            worker.close()
    flags = {key: value for key, value in vars(options).items() if key != "json"}
    report(info, table(results), options.json, options=flags, **results)


if __name__ == "__main__":
    main()
