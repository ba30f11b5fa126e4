"""Times the input of training: JPEGs and texts to batches, beside webdataset and tokenizers.

    python3.11 -m venv .venv-bench
    .venv-bench/bin/pip install -r benchmarks/requirements.txt
    .venv-bench/bin/python benchmarks/input.py --photos=FOLDER --tatoeba=FOLDER --json=input.json

Both sides read the same JPEGs of 346 pixels, from records and from tars, and make batches of 224:
with a random crop alone, and resized to 268 before, as the recipe does in proportion. Beside them,
JPEG decoding alone, our scenes, sentences of Tatoeba, and what the training step takes. The sides
take turns.
"""

import argparse
import os
import statistics
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks import input_sides  # noqa: E402
from benchmarks.cases import CASES, Case  # noqa: E402
from benchmarks.common import machine, note_load, picked, require, say, tell  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

SIDES = "benchmarks.input_sides"
PARTS = ("images", "scenes", "tokens", "steps")
CROP = 224
RESIZES = {"crop alone": input_sides.SIDE, "resize and crop": CROP * 346 // 289}
SCENES = Case("scenes", "tiny", "nano", image_size=64, batch=128, tokens=32, vocabulary=2000)


def measure(makes, batches, rounds, label):
    """Times sides in turn, all of them in processes that live at once and rest between.

    Args:
        makes: {side: function to a `Worker` of `input_sides._Batches`}.
        batches: of a turn.
        rounds: turns of each side, after one that is not counted.
        label: of this measurement, for what is said.

    Returns:
        {side: [examples a second]}.
    """
    workers, found = {}, {side: [] for side in makes}
    try:
        for side, make in makes.items():
            workers[side] = make()
            workers[side].call("run", batches)
        for turn in range(rounds):
            for side, worker in workers.items():
                rate = worker.call("run", batches)[0]
                found[side].append(rate)
                say(f"{label}: turn {turn + 1}/{rounds}, {side}: {rate:.0f} a second")
    finally:
        for worker in workers.values():
            worker.close()
    return found


def measure_images(folder, rows, batches, rounds, peer):
    """{name of `RESIZES`: {side: [images a second]}}, JPEG decoding alone among the sides."""
    records, tars = os.path.join(folder, "records"), os.path.join(folder, "tars")
    found = {}
    for name, resize in RESIZES.items():
        arguments = dict(resize=resize, crop=CROP, rows=rows)
        makes = {
            "ours": lambda arguments=arguments: Worker(
                SIDES, "Pipeline", folder=records, **arguments
            ),
            "decoding": lambda: Worker(SIDES, "Decoding", folder=records, rows=rows),
        }
        for count in (1, 2) if peer else ():
            makes[f"webdataset, {count}"] = lambda count=count, arguments=arguments: Worker(
                SIDES, "WebDataset", children=True, folder=tars, workers=count, **arguments
            )
        found[name] = measure(makes, batches, rounds, name)
    return found


def measure_scenes(folder, rows, batches, rounds):
    """{"ours": [triples a second]} of the pictures and captions that this package makes."""
    from tf_mural import conversion

    place = os.path.join(folder, "scenes")
    conversion.ensure("scenes", place)
    arguments = dict(folder=os.path.join(place, "train"), resize=72, crop=64, rows=rows, texts=2)
    return measure(
        {"ours": lambda: Worker(SIDES, "Pipeline", **arguments)}, batches, rounds, "scenes"
    )


def measure_tokens(folder, rounds, rows=1024, vocabulary=30_000, max_tokens=64):
    """Times both tokenizers on the sentences of a folder of Tatoeba.

    Returns:
        {"sentences", "different" rows of the two, "rates": {side: [sentences a second]}}.
    """
    from benchmarks.embedding import read_sentences

    sentences = read_sentences(folder)
    arguments = dict(sentences=sentences, vocabulary=vocabulary, max_tokens=max_tokens, rows=rows)
    worker, rates, tokens = Worker(SIDES, "Tokens", **arguments), {}, {}
    try:
        for turn in range(rounds + 1):
            for side in ("ours", "theirs"):
                (rate, tokens[side]), _, _ = worker.call(side)
                if turn:  # the first one traces, and starts threads
                    rates.setdefault(side, []).append(rate)
                    say(f"tokens: turn {turn}/{rounds}, {side}: {rate:,.0f} sentences a second")
    finally:
        worker.close()
    different = int((tokens["ours"] != tokens["theirs"]).any(axis=1).sum())
    return {"sentences": len(sentences), "different": different, "rates": rates}


def measure_steps(cases, steps):
    """{case: triples a second of the training step}, by the median of the steps after the first."""
    found = {}
    for case in cases:
        worker = Worker("benchmarks.ours", "Ours", case=case)
        try:
            walls = [worker.call("step", "graph")[1] for _ in range(steps + 1)][1:]
        finally:
            worker.close()
        found[case.name] = case.batch / statistics.median(walls)
        say(f"steps, {case.name}: {found[case.name]:.2f} triples a second")
    return found


def compared(results):
    """What the requirements ask for: ratios of medians.

    Returns:
        {"images": {resize: {"peer": over the better webdataset, "decoding": share of its rate}},
        "steps": {case: times what the step takes}, "tokens": over Hugging Face's}.
    """
    found = {"images": {}, "steps": {}}
    median = statistics.median
    for name, sides in results.get("images", {}).items():
        rates = {side: median(values) for side, values in sides.items()}
        peers = [rate for side, rate in rates.items() if side.startswith("webdataset")]
        found["images"][name] = {"decoding": rates["ours"] / rates["decoding"]}
        if peers:
            found["images"][name]["peer"] = rates["ours"] / max(peers)
    steps = results.get("steps", {})
    if "b0" in steps and "images" in results:
        slowest = min(median(sides["ours"]) for sides in results["images"].values())
        found["steps"]["b0"] = slowest / steps["b0"]
    if "scenes" in steps and "scenes" in results:
        found["steps"]["scenes"] = median(results["scenes"]["ours"]) / steps["scenes"]
    if "tokens" in results:
        rates = results["tokens"]["rates"]
        found["tokens"] = median(rates["ours"]) / median(rates["theirs"])
    return found


def table(results):
    """Lines that say the same as the JSON file, for people."""
    lines, ratios = [], compared(results)
    groups = {f"images, {name}": sides for name, sides in results.get("images", {}).items()}
    if "scenes" in results:
        groups["scenes"] = results["scenes"]
    if "tokens" in results:
        groups["sentences"] = results["tokens"]["rates"]
    for name, sides in groups.items():
        lines.append(f"  {name:<28} {'a second':>10} {'slowest..fastest':>20}")
        for side, rates in sides.items():
            spread = f"{min(rates):,.0f}..{max(rates):,.0f}"
            lines.append(f"    {side:<26} {statistics.median(rates):>10,.0f} {spread:>20}")
    for name, rate in results.get("steps", {}).items():
        lines.append(f"  training step, {name:<13} {rate:>10.2f} triples a second")
    for name, found in ratios["images"].items():
        peer = f", {found['peer']:.2f} times webdataset" if "peer" in found else ""
        lines.append(f"  {name}: {found['decoding']:.0%} of decoding alone{peer}")
    for name, ratio in ratios["steps"].items():
        lines.append(f"  {name}: {ratio:,.1f} times what the training step takes")
    if "tokens" in ratios:
        lines.append(
            f"  tokens: {ratios['tokens']:.2f} times Hugging Face's; "
            f"{results['tokens']['different']} of {results['tokens']['sentences']} rows differ"
        )
    return lines


def parse(arguments=None):
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="parted by commas")
    parser.add_argument("--photos", help="folder of JPEG files, for images")
    parser.add_argument("--tatoeba", help="folder of tatoeba.xxx-eng.xxx, for tokens")
    parser.add_argument("--count", type=int, default=4000, help="images")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=60, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--steps", type=int, default=3, help="training steps")
    parser.add_argument("--cases", default="b0,scenes", help="of the training step: b0, scenes")
    parser.add_argument(
        "--peer", action=argparse.BooleanOptionalAction, default=True, help="webdataset too"
    )
    parser.add_argument("--json", help="file for the numbers")
    options = parser.parse_args(arguments)
    options.parts = picked(parser, "--parts", options.parts, PARTS)
    known = {"b0": CASES["b0"], "scenes": SCENES}
    options.cases = [known[n] for n in picked(parser, "--cases", options.cases, known)]
    for part, flag in (("images", "photos"), ("tokens", "tatoeba")):
        if part in options.parts and not getattr(options, flag):
            parser.error(f"--{flag} is missing: say where they are, or leave {part} out of --parts")
    if min(options.count, options.batch, options.batches, options.rounds, options.steps) < 1:
        parser.error("--count, --batch, --batches, --rounds and --steps from 1")
    if options.peer and "images" in options.parts:
        require(parser, ("torch", "webdataset"))
    return options


def main():
    options = parse()
    about, results = machine(), {}
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            turns = options.batch, options.batches, options.rounds
            if part == "images":
                size = input_sides.prepare(options.photos, folder, options.count)
                about["bytes_per_image"] = size
                results[part] = measure_images(folder, *turns, options.peer)
            elif part == "scenes":
                results[part] = measure_scenes(folder, *turns)
            elif part == "tokens":
                results[part] = measure_tokens(options.tatoeba, options.rounds)
            else:
                results[part] = measure_steps(options.cases, options.steps)
            note_load(about)
    flags = {k: v for k, v in vars(options).items() if k not in ("json", "cases")}
    written = {"options": flags, **results, "compared": compared(results)}
    tell(about, table(results), options.json, **written)


if __name__ == "__main__":
    main()
