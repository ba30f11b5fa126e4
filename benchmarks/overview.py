"""The numbers of all benchmarks in one table: ours, what stands beside it, and how they compare."""

import statistics

_MIB = 2**20


def rows(found):
    """What the table shows.

    Args:
        found: {name of a part of benchmarks/run_all.py: what its script wrote}.

    Returns:
        List of {"part", "what", "unit", "ours", "beside": what the other number is, or "",
        "theirs": that number or None, "ratio": ours over theirs, or None}.
    """
    made = []
    for name, numbers in found.items():
        made += [{"part": name, **row} for row in _ROWS[name.split()[0]](numbers)]
    return made + [{"part": "input", **row} for row in _needs(found)]


def _row(what, unit, ours, beside="", theirs=None):
    ratio = ours / theirs if theirs else None
    return dict(what=what, unit=unit, ours=ours, beside=beside, theirs=theirs, ratio=ratio)


def _step(numbers):
    for name, case in numbers["cases"].items():
        ours, best = case["runs"]["ours graph"], case.get("best_peer")
        theirs, beside = (
            case["runs"][best] if best else {},
            f"PyTorch, {best.split()[1]}" if best else "",
        )
        for unit, key, scale in (
            ("triples/s", "triples_per_second", 1),
            ("% of peak", "share_of_peak", 100),
        ):
            other = scale * theirs[key] if theirs else None
            yield _row(f"training step, {name}", unit, scale * ours[key], beside, other)


def _input(numbers):
    for name, sides in numbers["images"].items():
        rates = {side: statistics.median(of) for side, of in sides.items()}
        ours, what = rates.pop("ours"), f"JPEGs to batches, {name}"
        yield _row(what, "a second", ours, "decoding alone", rates.pop("decoding"))
        if rates:
            best = max(rates, key=rates.get)
            yield _row(what, "a second", ours, f"{best} workers", rates[best])
    ours = statistics.median(numbers["scenes"]["ours"])
    step = numbers["steps"]["scenes"]
    yield _row("triples of scenes to batches", "a second", ours, "what its step takes", step)


def _needs(found):
    """The input beside what each step takes."""
    if "input" not in found:
        return
    slowest = min(statistics.median(sides["ours"]) for sides in found["input"]["images"].values())
    for name, numbers in found.items():
        for case, step in numbers["cases"].items() if name.startswith("step ") else ():
            taken = step["runs"]["ours graph"]["triples_per_second"]
            yield _row(
                "JPEGs to batches", "a second", slowest, f"what the step of {case} takes", taken
            )


def _tokens(numbers):
    rates = {side: statistics.median(of) for side, of in numbers["tokens"]["rates"].items()}
    yield _row("sentences tokenised", "a second", rates["ours"], "tokenizers", rates["theirs"])


def _evaluate(numbers):
    ways = {way: statistics.median(of["seconds"]) for way, of in numbers["recalls"]["ways"].items()}
    ours = ways.pop("ours")
    for way, seconds in ways.items():
        yield _row("recalls", "seconds", ours, way, seconds)
    for kind in ("texts", "images"):
        seconds = {s: statistics.median(of) for s, of in numbers[kind]["seconds"].items()}
        bare = numbers[kind]["items"] / seconds["bare cut"]
        ours = numbers[kind]["items"] / seconds["embed cut"]
        yield _row(f"{kind} embedded", "a second", ours, "the bare tower", bare)


def _convert(numbers):
    if "images" in numbers:
        median = dict(numbers["images"]["median"])
        ours = median.pop("ours")
        for side, rate in median.items():
            beside = {"bare": "the bare loop", "peer": "img2dataset"}[side]
            yield _row("JPEGs converted", "a second", ours, beside, rate)
    yield _row("translation pairs converted", "a second", numbers["bitext"]["median"])


def _checkpoint(numbers):
    ours, theirs = numbers["ours"], numbers["tensorflow"]
    size = f"checkpoint of {numbers['bytes'] / 1e9:.2g} GB"
    still, on_disk = (statistics.median(ours[key]) for key in ("stands_still", "on_disk"))
    tensorflow, plain = "tf.train.Checkpoint", numbers["plain_write"]
    yield _row(
        f"{size}: training stands still", "seconds", still, tensorflow, theirs["stands_still"]
    )
    yield _row(f"{size}: on the disk after", "seconds", on_disk, "plain writing", plain)
    yield _row(f"{size}: restored", "seconds", ours["restore"])


def _start(numbers):
    yield _row("command to first step", "seconds", statistics.median(numbers["start"]))


def _gradcache(numbers):
    for name, found in numbers["microbatches"].items():
        plain, parted = (statistics.median(found["seconds"][k]) for k in ("plain", "microbatches"))
        what = f"step in micro-batches of {found['microbatch']}, {name}"
        yield _row(what, "seconds", parted, "the plain step", plain)


def _memory(numbers):
    lines = {(line["batch"], line["microbatch"]): line for line in numbers["results"]}
    for (batch, microbatch), line in lines.items():
        if microbatch and "error" not in line:
            plain = lines.get((batch, 0), {})
            what = f"batch {batch} in micro-batches of {microbatch}"
            peak = plain["peak_bytes"] / _MIB if "peak_bytes" in plain else None
            beside = "the plain step" if peak else ""
            yield _row(f"{what}: peak", "MiB", line["peak_bytes"] / _MIB, beside, peak)


_ROWS = {
    "step": _step,
    "input": _input,
    "tokens": _tokens,
    "evaluate": _evaluate,
    "convert": _convert,
    "checkpoint": _checkpoint,
    "start": _start,
    "gradcache": _gradcache,
    "memory": _memory,
}


def table(found):
    """Lines of what `rows` gave."""
    head = f"  {'':<50} {'ours':>10} {'beside':>10} {'ratio':>8}"
    lines = [head]
    for row in found:
        what = f"{row['what']}, {row['unit']}"
        theirs = _short(row["theirs"]) if row["theirs"] is not None else ""
        ratio = _short(row["ratio"]) if row["ratio"] is not None else ""
        numbers = f"{_short(row['ours']):>10} {theirs:>10} {ratio:>8}"
        lines.append(f"  {what:<50} {numbers}  {row['beside']}".rstrip())
    return lines


def notes(results):
    """Lines that tell what was skipped, left out or failed.

    Args:
        results: {name of a part: what `run_all.run` says of it}.
    """
    return [
        f"  {name}: {result['status']}{', ' * bool(result['note'])}{result['note']}"
        for name, result in results.items()
        if result["note"] or result["status"] != "ok"
    ]


def _short(number):
    """A number with three digits that count."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
