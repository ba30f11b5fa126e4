"""Times the ETCL training step, and the same step in PyTorch.

    python -m venv .venv-bench && .venv-bench/bin/pip install -r benchmarks/requirements.txt
    .venv-bench/bin/python benchmarks/train_step.py --model=all --json=step.json

A step runs both towers forward and backward with dropout and stochastic depth, the three terms of
the ETCL loss, and LAMB. The step runs on a synthetic batch, in float32, on the CPU. Each framework
runs in a separate process with its default number of threads. The frameworks take turns. Therefore
other load on the machine affects both frameworks. benchmarks/README.md lists the differences
between the two models.
"""

import argparse
import dataclasses
import os
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.cases import CASES  # noqa: E402
from benchmarks.common import (  # noqa: E402
    append_load,
    log,
    machine_info,
    make_parser,
    peak_flops,
    report,
    require_packages,
)
from benchmarks.worker import Worker  # noqa: E402

TORCH_VARIANTS = ("eager", "channels_last")


def measure(
    case, steps, warmup, torch_variants=(), threads=None, rounds=2, own_variants=("graph",)
):
    """Times the steps of a case.

    Only one process runs at a time, to save memory. Each framework has a turn in every round.

    Args:
        case: `cases.Case`.
        steps: number of timed steps per turn.
        warmup: number of steps per turn before the timed steps.
        torch_variants: variants of `torch_step.TorchStep`; () omits PyTorch.
        threads: threads of each framework. Defaults to the choice of the framework.
        rounds: number of turns of each framework.
        own_variants: variants of `tf_mural_step.TensorFlowStep`; the first one is "graph".

    Returns:
        See `summarize`.
    """
    runs = [("tf_mural", variant) for variant in own_variants]
    runs += [("pytorch", variant) for variant in torch_variants]
    timings, facts, peaks = {run: [] for run in runs}, {}, {}
    for turn in range(rounds):
        for side, variant in runs:
            log(f"{case.name}: turn {turn + 1}/{rounds}, {side} {variant}")
            worker = _make_worker(side, variant, case, threads)
            try:
                timings[side, variant] += _time_steps(worker, case, side, variant, steps, warmup)
                if side not in facts:
                    facts[side] = worker.call("describe")[0]
                    peaks[side] = peak_flops(_matmul_timer(worker), case.matmul)
            finally:
                worker.close()
    return summarize(case, timings, facts, peaks)


def _matmul_timer(worker):
    return lambda size: worker.call("matmul", size)[1]


def _make_worker(side, variant, case, threads):
    if side == "tf_mural":
        return Worker(
            "benchmarks.tf_mural_step",
            "TensorFlowStep",
            case=case,
            threads=threads,
            batch_norm="per_image" if variant == "per_image" else "auto",
        )
    return Worker(
        "benchmarks.torch_step", "TorchStep", case=case, threads=threads, variants=(variant,)
    )


def _time_steps(worker, case, side, variant, steps, warmup):
    """Returns a list of tuples (elapsed seconds, processor seconds) of the timed steps."""
    timings = []
    for number in range(-warmup, steps):
        loss, wall, processor = worker.call("step", variant)
        label = f"step {number + 1}/{steps}" if number >= 0 else "warm-up"
        log(f"{case.name}: {label} {side} {variant}: {wall:.3f} s, loss {loss:.4f}")
        if number >= 0:
            timings.append((wall, processor))
    return timings


def summarize(case, timings, facts, peaks):
    """Returns the results of a case.

    Args:
        case: `cases.Case`.
        timings: {(framework, variant): list of tuples (elapsed seconds, processor seconds)}.
        facts: {framework: result of the method `describe` of its step}.
        peaks: {framework: floating-point operations per second of a matrix product}.

    Returns:
        Dict with these keys:
            "case": dict of the attributes of `case`;
            "facts": the argument `facts`;
            "parameters": number of trainable parameters;
            "flops": floating-point operations of a step;
            "peak_flops_per_second": {framework: peak rate};
            "runs": {"<framework> <variant>": result of `_timing`}.
        With PyTorch also:
            "best_peer": fastest variant of PyTorch;
            "ratio": triples per second of tf_mural over those of the best peer;
            "ratio_fastest": the same ratio for the fastest steps.

    Raises:
        RuntimeError: the two models differ in the number of trainable parameters or in the
            operations of a forward pass, for example because of a tower, a size or a padding.
    """
    for key in ("parameters", "forward_flops"):
        counts = {side: fact[key] for side, fact in facts.items()}
        if len(set(counts.values())) > 1:
            raise RuntimeError(f"the two models are not the same: {key} {counts}")
    flops, peak = facts["tf_mural"]["flops"], max(peaks.values())
    runs = {
        f"{side} {variant}": _timing(case, flops, peak, steps)
        for (side, variant), steps in timings.items()
    }
    results = {
        "case": dataclasses.asdict(case),
        "parameters": facts["tf_mural"]["parameters"],
        "flops": flops,
        "facts": facts,
        "peak_flops_per_second": peaks,
        "runs": runs,
    }
    peers = {name: run for name, run in runs.items() if name.startswith("pytorch")}
    if peers:
        best = max(peers, key=lambda name: peers[name]["triples_per_second"])
        own = runs["tf_mural graph"]
        results["best_peer"] = best
        results["ratio"] = own["triples_per_second"] / peers[best]["triples_per_second"]
        fastest = min(min(run["seconds"]) for run in peers.values())
        results["ratio_fastest"] = fastest / min(own["seconds"])
    return results


def _timing(case, flops, peak, steps):
    seconds = [wall for wall, _ in steps]
    median = statistics.median(seconds)
    return {
        "milliseconds": 1000 * median,
        "spread_milliseconds": [1000 * min(seconds), 1000 * max(seconds)],
        "triples_per_second": case.batch / median,
        "flops_per_second": flops / median,
        "share_of_peak": flops / median / peak,
        "seconds": seconds,
        "processor_seconds": [processor for _, processor in steps],
    }


def table(results):
    """Returns the lines of a table of the results, {case name: result of `summarize`}."""
    lines = []
    for name, result in results.items():
        case, peaks = result["case"], result["peak_flops_per_second"]
        peak_list = ", ".join(f"{side} {peak / 1e9:.0f}" for side, peak in peaks.items())
        lines += [
            f"{name}: {case['image_size']} px, batch {case['batch']}, {result['parameters']:,} "
            f"parameters, {result['flops'] / 1e9:.1f} GFLOP per step",
            f"  matrix-multiply peak, GFLOP/s: {peak_list}",
            f"  {'':<20} {'ms per step':>11} {'fastest..slowest':>18} {'triples/s':>10} "
            f"{'of peak':>8}",
        ]
        for run, timing in result["runs"].items():
            low, high = timing["spread_milliseconds"]
            lines.append(
                f"  {run:<20} {timing['milliseconds']:>11.0f} {f'{low:.0f}..{high:.0f}':>18} "
                f"{timing['triples_per_second']:>10.2f} {timing['share_of_peak']:>8.1%}"
            )
        if "ratio" in result:
            variant = result["best_peer"].split()[1]
            lines.append(
                f"  tf_mural / PyTorch ({variant}): {result['ratio']:.2f} times the triples "
                f"per second ({result['ratio_fastest']:.2f} for the fastest steps)"
            )
    return lines


def parse(arguments=None):
    """Parses the flags."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", choices=[*CASES, "all"], default="all", help="all: b7 and b0")
    parser.add_argument("--steps", type=int, default=4, help="timed steps per turn")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the timed steps")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each framework")
    parser.add_argument(
        "--threads", type=int, help="threads of each framework (default: its own default)"
    )
    parser.add_argument(
        "--peer", action=argparse.BooleanOptionalAction, default=True, help="also time PyTorch"
    )
    parser.add_argument(
        "--variants",
        default=",".join(TORCH_VARIANTS),
        help="comma-separated variants of PyTorch: eager, channels_last, compiled "
        "(needs a compiler)",
    )
    parser.add_argument(
        "--per_image",
        action="store_true",
        help="also time batch norm whose sums are computed image by image, as on TPUs",
    )
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.warmup < 0 or options.rounds < 1:
        parser.error("--steps and --rounds must be at least 1, --warmup at least 0")
    if options.peer:
        require_packages(parser, ("torch", "transformers"))
    return options


def main():
    options = parse()
    names = [n for n in CASES if n != "tiny"] if options.model == "all" else [options.model]
    variants = options.variants.split(",") if options.peer else ()
    own_variants = ("graph", "per_image") if options.per_image else ("graph",)
    info, results = machine_info(), {}
    for name in names:
        results[name] = measure(
            CASES[name],
            options.steps,
            options.warmup,
            variants,
            options.threads,
            options.rounds,
            own_variants,
        )
        append_load(info)
    report(info, table(results), options.json, cases=results)


if __name__ == "__main__":
    main()
