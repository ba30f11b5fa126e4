"""Times the ETCL training step beside the same step in PyTorch.

    python -m venv .venv-bench && .venv-bench/bin/pip install -r benchmarks/requirements.txt
    .venv-bench/bin/python benchmarks/train_step.py --model=all --json=step.json

One step is the whole of it: both towers forward and backward with dropout and stochastic depth, the
three terms of the ETCL loss, and LAMB; on one synthetic batch, in float32, on the CPU. Each
framework has a process of its own and all its threads, and they take turns, so that whatever else
the machine does hits both. What is equal on both sides, and what is not: benchmarks/README.md.
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
from benchmarks.common import machine, note_load, peak, require, say, tell  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

PEER_VARIANTS = ("eager", "channels_last")


def measure(case, steps, warmup, peer=(), threads=None, rounds=2):
    """Times the steps of one case.

    One process lives at a time, for the sake of memory; each side has its turn in every round.

    Args:
        case: `cases.Case`.
        steps, warmup: timed steps of a turn, and steps before them.
        peer: variants of `peer.Peer`; () is none.
        threads: of each framework; None is its own choice.
        rounds: turns of each side.

    Returns:
        What the JSON file has of a case, see `summary`.
    """
    runs = [("ours", "graph")] + [("peer", variant) for variant in peer]
    timed, facts, peaks = {run: [] for run in runs}, {}, {}
    for turn in range(rounds):
        for side, variant in runs:
            say(f"{case.name}: turn {turn + 1}/{rounds}, {side} {variant}")
            worker = _worker(side, variant, case, threads)
            try:
                timed[side, variant] += _steps(worker, case, side, variant, steps, warmup)
                if side not in facts:
                    facts[side] = worker.call("describe")[0]
                    peaks[side] = peak(_multiplying(worker), case.matmul)
            finally:
                worker.close()
    return summary(case, timed, facts, peaks)


def _multiplying(worker):
    return lambda size: worker.call("matmul", size)[1]


def _worker(side, variant, case, threads):
    if side == "ours":
        return Worker("benchmarks.ours", "Ours", case=case, threads=threads)
    return Worker("benchmarks.peer", "Peer", case=case, threads=threads, variants=(variant,))


def _steps(worker, case, side, variant, steps, warmup):
    """[(seconds, processor seconds)] of the timed steps."""
    timed = []
    for number in range(-warmup, steps):
        loss, wall, processor = worker.call("step", variant)
        label = f"step {number + 1}/{steps}" if number >= 0 else "warm-up"
        say(f"{case.name}: {label} {side} {variant}: {wall:.3f} s, loss {loss:.4f}")
        if number >= 0:
            timed.append((wall, processor))
    return timed


def summary(case, timed, facts, peaks):
    """What is told of a case.

    Args:
        case: `cases.Case`.
        timed: {(side, variant): [(seconds, processor seconds)]}.
        facts: {side: what its `describe` says}.
        peaks: {side: floating-point operations a second}.

    Returns:
        dict: case, parameters, flops (of one step), peak_flops_per_second by side, runs (timings by
        "<side> <variant>"), and with a peer best_peer and ratio, which is ours over its triples a
        second; ratio_fastest likewise of each side's fastest step.

    Raises:
        RuntimeError: the two models differ in trainable parameters or in operations of a forward
            pass, which a tower, a size or a padding that is not the same would show.
    """
    for what in ("parameters", "forward_flops"):
        counts = {side: fact[what] for side, fact in facts.items()}
        if len(set(counts.values())) > 1:
            raise RuntimeError(f"the two models are not the same: {what} {counts}")
    flops, peak = facts["ours"]["flops"], max(peaks.values())
    runs = {
        f"{side} {variant}": _timing(case, flops, peak, steps)
        for (side, variant), steps in timed.items()
    }
    found = {
        "case": dataclasses.asdict(case),
        "parameters": facts["ours"]["parameters"],
        "flops": flops,
        "facts": facts,
        "peak_flops_per_second": peaks,
        "runs": runs,
    }
    peers = {name: run for name, run in runs.items() if name.startswith("peer")}
    if peers:
        best = max(peers, key=lambda name: peers[name]["triples_per_second"])
        ours = runs["ours graph"]
        found["best_peer"] = best
        found["ratio"] = ours["triples_per_second"] / peers[best]["triples_per_second"]
        fastest = min(min(run["seconds"]) for run in peers.values())
        found["ratio_fastest"] = fastest / min(ours["seconds"])
    return found


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
    """Lines that say the same as the JSON file, for people."""
    lines = []
    for name, found in results.items():
        case, peaks = found["case"], found["peak_flops_per_second"]
        shown = ", ".join(f"{side} {peak / 1e9:.0f}" for side, peak in peaks.items())
        lines += [
            f"{name}: {case['image_size']} px, batch {case['batch']}, {found['parameters']:,} "
            f"parameters, {found['flops'] / 1e9:.1f} GFLOP a step",
            f"  matrix-multiply peak, GFLOP/s: {shown}",
            f"  {'':<20} {'ms a step':>10} {'fastest..slowest':>18} {'triples/s':>10} "
            f"{'of peak':>8}",
        ]
        for run, timing in found["runs"].items():
            low, high = timing["spread_milliseconds"]
            lines.append(
                f"  {run:<20} {timing['milliseconds']:>10.0f} {f'{low:.0f}..{high:.0f}':>18} "
                f"{timing['triples_per_second']:>10.2f} {timing['share_of_peak']:>8.1%}"
            )
        if "ratio" in found:
            lines.append(
                f"  ours / best peer ({found['best_peer'].split()[1]}): {found['ratio']:.2f} times "
                f"the triples a second ({found['ratio_fastest']:.2f} by the fastest steps)"
            )
    return lines


def parse(arguments=None):
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=[*CASES, "all"], default="all", help="all: b7 and b0")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a turn")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side")
    parser.add_argument("--threads", type=int, help="of each framework (default: its own choice)")
    parser.add_argument(
        "--peer", action=argparse.BooleanOptionalAction, default=True, help="time PyTorch too"
    )
    parser.add_argument(
        "--variants",
        default=",".join(PEER_VARIANTS),
        help="of the peer, parted by commas: eager, channels_last, compiled (needs a compiler)",
    )
    parser.add_argument("--json", help="file for the numbers")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.warmup < 0 or options.rounds < 1:
        parser.error("--steps and --rounds from 1, --warmup from 0")
    if options.peer:
        require(parser, ("torch", "transformers"))
    return options


def main():
    options = parse()
    names = [n for n in CASES if n != "tiny"] if options.model == "all" else [options.model]
    peer = options.variants.split(",") if options.peer else ()
    about, results = machine(), {}
    for name in names:
        results[name] = measure(
            CASES[name], options.steps, options.warmup, peer, options.threads, options.rounds
        )
        note_load(about)
    tell(about, table(results), options.json, cases=results)


if __name__ == "__main__":
    main()
