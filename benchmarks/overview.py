"""Puts all benchmark results into one table: value of tf_mural, reference value, ratio."""

import statistics

_MIB = 2**20


def make_rows(results):
    """Returns the rows of the table.

    Args:
        results: {name of a part of benchmarks/run_all.py: content of its JSON file}.

    Returns:
        List of {"part", "metric", "unit", "value", "reference_name": name or "", "reference": value
        or None, "ratio": value over reference, or None}.
    """
    rows = []
    for part, result in results.items():
        rows += [{"part": part, **row} for row in _ROWS[part.split()[0]](result)]
    return rows + [{"part": "input", **row} for row in _input_and_step_rows(results)]


def _row(metric, unit, value, reference_name="", reference=None):
    return {
        "metric": metric,
        "unit": unit,
        "value": value,
        "reference_name": reference_name,
        "reference": reference,
        "ratio": value / reference if reference else None,
    }


def _step_rows(result):
    for name, case in result["cases"].items():
        own, best = case["runs"]["tf_mural graph"], case.get("best_peer")
        peer = case["runs"][best] if best else None
        peer_name = f"PyTorch, {best.split()[1]}" if best else ""
        for unit, key, scale in (
            ("triples/s", "triples_per_second", 1),
            ("% of peak", "share_of_peak", 100),
        ):
            reference = scale * peer[key] if peer else None
            yield _row(f"training step, {name}", unit, scale * own[key], peer_name, reference)


def _input_rows(result):
    for name, sides in result["images"].items():
        rates = {side: statistics.median(values) for side, values in sides.items()}
        own, metric = rates.pop("tf_mural"), f"JPEGs to batches, {name}"
        yield _row(metric, "per second", own, "JPEG decoding", rates.pop("decoding"))
        if rates:
            best = max(rates, key=rates.get)
            yield _row(metric, "per second", own, f"{best} workers", rates[best])
    own = statistics.median(result["scenes"]["tf_mural"])
    step = result["steps"]["scenes"]
    yield _row("triples of scenes to batches", "per second", own, "rate of their step", step)


def _input_and_step_rows(results):
    """Compares the rate of the input pipeline with that of each training step."""
    if "input" not in results:
        return
    images = results["input"]["images"].values()
    slowest = min(statistics.median(sides["tf_mural"]) for sides in images)
    for part, result in results.items():
        for case, step in result["cases"].items() if part.startswith("step ") else ():
            rate = step["runs"]["tf_mural graph"]["triples_per_second"]
            yield _row("JPEGs to batches", "per second", slowest, f"rate of the step {case}", rate)


def _tokens_rows(result):
    rates = {side: statistics.median(values) for side, values in result["tokens"]["rates"].items()}
    own, reference = rates["tf_mural"], rates["tokenizers"]
    yield _row("sentences tokenized", "per second", own, "tokenizers", reference)


def _evaluate_rows(result):
    implementations = result["recalls"]["implementations"].items()
    seconds = {name: statistics.median(values["seconds"]) for name, values in implementations}
    own = seconds.pop("tf_mural")
    for name, reference in seconds.items():
        yield _row("recalls", "seconds", own, name, reference)
    for items in ("texts", "images"):
        count = result[items]["items"]
        seconds = {s: statistics.median(v) for s, v in result[items]["seconds"].items()}
        own, tower = (count / seconds[f"{side} bucketed"] for side in ("embedder", "tower"))
        yield _row(f"{items} embedded", "per second", own, "bare tower", tower)


def _convert_rows(result):
    if "images" in result:
        median = dict(result["images"]["median"])
        own = median.pop("tf_mural")
        for side, rate in median.items():
            name = "loop without writing" if side == "loop" else side
            yield _row("JPEGs converted", "per second", own, name, rate)
    yield _row("translation pairs converted", "per second", result["bitext"]["median"])


def _checkpoint_rows(result):
    own, tensorflow = result["tf_mural"], result["tensorflow"]
    size = f"checkpoint of {result['bytes'] / 1e9:.2g} GB"
    blocked, on_disk = (statistics.median(own[key]) for key in ("blocked", "on_disk"))
    name, plain = "tf.train.Checkpoint", result["plain_write"]
    yield _row(f"{size}: training blocked", "seconds", blocked, name, tensorflow["blocked"])
    yield _row(f"{size}: on disk after", "seconds", on_disk, "plain writing", plain)
    yield _row(f"{size}: restored", "seconds", own["restore"])


def _start_rows(result):
    yield _row("command to first step", "seconds", statistics.median(result["start"]))


def _gradcache_rows(result):
    for name, case in result["microbatches"].items():
        plain = statistics.median(case["seconds"]["plain"])
        microbatches = statistics.median(case["seconds"]["microbatches"])
        metric = f"step with micro-batches of {case['microbatch']}, {name}"
        yield _row(metric, "seconds", microbatches, "plain step", plain)


def _memory_rows(result):
    lines = {(line["batch"], line["microbatch"]): line for line in result["results"]}
    for (batch, microbatch), line in lines.items():
        if microbatch and "error" not in line:
            plain = lines.get((batch, 0), {})
            metric = f"batch {batch}, micro-batches of {microbatch}: peak memory"
            peak = plain["peak_bytes"] / _MIB if "peak_bytes" in plain else None
            name = "plain step" if peak else ""
            yield _row(metric, "MiB", line["peak_bytes"] / _MIB, name, peak)


_ROWS = {
    "step": _step_rows,
    "input": _input_rows,
    "tokens": _tokens_rows,
    "evaluate": _evaluate_rows,
    "convert": _convert_rows,
    "checkpoint": _checkpoint_rows,
    "start": _start_rows,
    "gradcache": _gradcache_rows,
    "memory": _memory_rows,
}


def table(rows):
    """Returns the lines of a table of the result of `make_rows`."""
    lines = [f"  {'':<50} {'tf_mural':>10} {'reference':>10} {'ratio':>8}"]
    for row in rows:
        metric = f"{row['metric']}, {row['unit']}"
        reference = _format(row["reference"]) if row["reference"] is not None else ""
        ratio = _format(row["ratio"]) if row["ratio"] is not None else ""
        numbers = f"{_format(row['value']):>10} {reference:>10} {ratio:>8}"
        lines.append(f"  {metric:<50} {numbers}  {row['reference_name']}".rstrip())
    return lines


def notes(results):
    """Returns a line for each part that failed, was skipped, or ran without the peer package.

    Args:
        results: {name of a part: result of `run_all.run`}.
    """
    return [
        f"  {name}: {result['status']}{', ' * bool(result['note'])}{result['note']}"
        for name, result in results.items()
        if result["note"] or result["status"] != "ok"
    ]


def _format(number):
    """Formats a number with three significant digits."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
