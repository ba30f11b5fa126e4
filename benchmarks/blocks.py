"""Measures record sets that are read in windows of blocks: opening them, and how well they shuffle.

    python benchmarks/blocks.py --parts=open --shards=100000 --folder=/tmp
    python benchmarks/blocks.py --parts=shuffle --blocks=1024,8192 --windows=8,32,128

The part `open` writes the manifest and the block index of a synthetic record set, and shards that
are sparse files, with records only in the windows that are read. A new process opens the set, and
starts at several steps. The part `shuffle` compares the order of the examples with that of a global
shuffle. It needs no data, because the order depends only on the numbers of records of the blocks.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import types

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

import numpy as np  # noqa: E402

from benchmarks.common import append_load, log, machine_info, make_parser, report  # noqa: E402

PARTS = ("open", "shuffle")
SHARD_RECORDS = 100_000
_STEPS = (0, 10**6, 10**9)  # steps at which the part `open` starts
_BATCH = 16_384
_NEAR = 10  # records at most at this distance in the corpus are near


# --- opening a set --------------------------------------------------------------------------------


def _payload():
    """Returns a serialized translation pair; all records of the synthetic set are equal."""
    from tf_mural.data import records

    texts = (("de", "x" * 100), ("en", "y" * 100))
    return records.serialize(records.Record("0" * 12, (), texts))


def write_set(folder, num_shards, shard_records=SHARD_RECORDS, block_records=8192):
    """Writes the manifest, the block index and sparse shards of a set of translation pairs."""
    from tf_mural.data import records
    from tf_mural.data.records import blocks, tfrecord
    from tf_mural.data.records.writing import set_digest

    frame = len(tfrecord.frame(_payload()))
    firsts = np.arange(0, shard_records, block_records)
    counts = np.minimum(shard_records - firsts, block_records)
    rows = np.zeros((num_shards, len(firsts)), blocks.BLOCK)
    rows["shard"] = np.arange(num_shards)[:, None]
    rows["offset"], rows["bytes"], rows["records"] = firsts * frame, counts * frame, counts
    rows = rows.reshape(-1)
    rows["languages"] = 2
    rows["first_language"] = 2 * np.arange(len(rows))
    languages = np.zeros((len(rows), 2), blocks.LANGUAGE)
    languages["block"] = np.arange(len(rows))[:, None]
    languages["language"] = (0, 1)
    languages["records"] = languages["texts"] = rows["records"][:, None]
    shards = []
    for number in range(num_shards):
        name = records.shard_name(number, num_shards)
        with open(os.path.join(folder, name), "wb") as file:
            file.truncate(shard_records * frame)
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        size = {"records": shard_records, "bytes": shard_records * frame}
        shards.append({"file": name, **size, "sha256": sha256})
    total = num_shards * shard_records
    manifest = {
        "schema": 2,
        "dataset": "synthetic",
        "split": "train",
        "records": total,
        "images": 0,
        "texts": 2 * total,
        "languages": {"de": total, "en": total},
        "augmentations": [],
        "shards": shards,
        "made_by": {},
        "ledger": {},
    }
    with open(os.path.join(folder, records.MANIFEST), "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
    index = blocks.BlockIndex(rows, languages.reshape(-1), block_records, 16 << 20)
    index.save(folder, set_digest(shards))


def fill_windows(folder, steps):
    """Writes records into the blocks of the windows that are read at `steps`."""
    from tf_mural.data import records
    from tf_mural.data.records import tfrecord

    opened = records.RecordSet.open(folder, max_indexed=0)
    block = tfrecord.frames([_payload()] * int(opened.blocks.rows["records"].max()))
    original = opened.load_blocks

    def load_blocks(numbers):
        for row in opened.blocks.rows[numbers]:
            name = opened.manifest["shards"][row["shard"]]["file"]
            with open(os.path.join(folder, name), "r+b") as file:
                file.seek(row["offset"])
                file.write(block[: row["bytes"]])
        return original(numbers)

    opened.load_blocks = load_blocks
    for step in steps:
        read_batch(make_sampler(opened), step)


def make_sampler(record_set, **options):
    """Returns the `BlockSampler` of a set, whatever its size."""
    from tf_mural.data.block_sampling import BlockSampler

    return BlockSampler([record_set], 2, ["de", "en"], shuffle_limit=0, **options)


def read_batch(sampler, step):
    """Returns the serialized records of the first draws of a step."""
    draws = step * _BATCH + np.arange(256, dtype=np.int64)
    set_index, unit = (x.numpy() for x in sampler.sample(draws))
    record, _, _ = sampler.resolve(draws, set_index, unit)
    return sampler.sets[0].read(record, verify=True)


def _memory():
    """Returns {"now", "peak"}: resident memory of this process in MiB."""
    with open("/proc/self/status", encoding="utf-8") as file:
        values = dict(line.split(":", 1) for line in file)
    return {"now": int(values["VmRSS"].split()[0]) / 1024,
            "peak": int(values["VmHWM"].split()[0]) / 1024}  # fmt: skip


def measure_open(folder):
    """Opens a set and starts at `_STEPS`; a new process calls this function.

    Returns:
        Dict of seconds and MiB. "order" are the seconds until the records of a batch are known if
        the window is in memory already, and the order of another epoch must be made.
    """
    from tf_mural.data.records import RecordSet

    before, began = _memory(), time.perf_counter()
    opened = RecordSet.open(folder, max_indexed=0)
    result = {"open_seconds": time.perf_counter() - began, "before": before, "opened": _memory()}
    result |= {"records": len(opened), "blocks": len(opened.blocks)}
    result["index_mib"] = os.path.getsize(os.path.join(folder, "blocks.index")) / 2**20
    import tensorflow as tf

    tf.constant(0)
    result["with_tensorflow"], result["steps"] = _memory(), []
    for step in _STEPS:
        seconds = {}
        load = opened.load_blocks

        def timed(numbers, load=load, seconds=seconds):
            began = time.perf_counter()
            loaded = load(numbers)
            seconds["read_window"] = time.perf_counter() - began
            return loaded

        opened.load_blocks = timed
        sampler, began = make_sampler(opened), time.perf_counter()
        read_batch(sampler, step)
        seconds["first_batch"] = time.perf_counter() - began
        opened.load_blocks = load
        result["steps"].append({"step": step, **seconds})
    return result | {"end": _memory()}


def run_open(folder, num_shards, shard_records, block_records):
    """Runs the part `open`; returns the result of `measure_open`, which a new process measures."""
    with tempfile.TemporaryDirectory(dir=folder) as path:
        began = time.perf_counter()
        write_set(path, num_shards, shard_records, block_records)
        fill_windows(path, _STEPS)
        log(f"open: wrote {num_shards:,} shards in {time.perf_counter() - began:.1f} s")
        code = "import json, sys; from benchmarks import blocks; "
        code += "print(json.dumps(blocks.measure_open(sys.argv[1])))"
        environment = {**os.environ, "PYTHONPATH": ROOT}
        command = [sys.executable, "-c", code, path]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        result = json.loads(done.stdout.splitlines()[-1])
    return result


def open_table(result):
    """Returns the lines of the part `open`."""
    opened = result["opened"]["peak"]
    lines = [
        f"{result['records']:,} records in {result['blocks']:,} blocks, index of "
        f"{result['index_mib']:.0f} MiB: opened in {result['open_seconds']:.2f} s, peak memory "
        f"{opened:.0f} MiB ({result['before']['now']:.0f} before)"
    ]
    for step in result["steps"]:
        other = step["first_batch"] - step["read_window"]
        lines.append(
            f"start at step {step['step']:>13,}: {step['read_window']:.2f} s for reading the "
            f"window, and {other:.2f} s"
        )
    grown = result["end"]["peak"] - result["with_tensorflow"]["now"]
    return [*lines, f"memory of the order and of two windows: {grown:.0f} MiB"]


# --- quality of the shuffle -----------------------------------------------------------------------


def synthetic_sampler(num_records, block_records, window_blocks):
    """Returns a sampler of a set without data; None for a block size of 0: a global shuffle."""
    from tf_mural.data import block_sampling, sampling
    from tf_mural.data.records.block_reader import Block
    from tf_mural.data.records.blocks import BLOCK, LANGUAGE, BlockIndex

    counts = np.full(num_records // max(block_records, 1), block_records)
    rows = np.zeros(len(counts) if block_records else 0, BLOCK)
    rows["records"] = block_records
    index = BlockIndex(rows, np.zeros(0, LANGUAGE), block_records, 0)

    class SyntheticSet(types.SimpleNamespace):
        def __len__(self):
            return num_records

        def load_blocks(self, numbers):
            payloads = np.empty(block_records, object)
            payloads.fill(b"")
            return [Block(payloads, {}) for _ in numbers]

    record_set = SyntheticSet(
        folder="synthetic",
        blocks=index,
        languages=(),
        has_language=np.zeros((num_records, 0), bool),
        image_counts=np.zeros(num_records, np.int64),
    )
    if not block_records:
        return sampling.IndexSampler([record_set], 0, [])
    options = {"shuffle_limit": 0, "window_blocks": window_blocks}
    return block_sampling.BlockSampler([record_set], 0, [], **options)


def draw_records(sampler, start, count):
    """Returns the records of consecutive draws, int64 (count,)."""
    draws = start + np.arange(count, dtype=np.int64)
    set_index, unit = (x.numpy() for x in sampler.sample(draws))
    return sampler.resolve(draws, set_index, unit)[0]


def measure_shuffle(sampler, num_records, batch, num_batches):
    """Measures the order of batches.

    Returns:
        Dict of "distance": median distance in the corpus between consecutive examples, divided by
        the number of records; "near": mean number of other examples of a batch at most `_NEAR`
        records from an example in the corpus; "repeated": share of the examples of a batch that
        occur twice in it, for batches half of which belong to the next epoch. Other batches have no
        repetitions.
    """
    distances, near, repeated = [], [], []
    generator = np.random.default_rng(0)
    for start in generator.integers(0, num_records // batch, num_batches):
        record = draw_records(sampler, start * batch, batch)
        distances.append(np.abs(np.diff(record)))
        ascending = np.sort(record)
        ends = [np.searchsorted(ascending, ascending + d) for d in (-_NEAR, _NEAR + 1)]
        near.append(np.mean(ends[1] - ends[0]) - 1)
        assert len(np.unique(record)) == batch
    for epoch in range(1, num_batches + 1):
        record = draw_records(sampler, epoch * num_records - batch // 2, batch)
        repeated.append(1 - len(np.unique(record)) / batch)
    return {
        "distance": float(np.median(np.concatenate(distances))) / num_records,
        "near": float(np.mean(near)),
        "repeated": float(np.mean(repeated)),
    }


def run_shuffle(num_records, blocks, windows, batch=_BATCH, num_batches=20):
    """Runs the part `shuffle`; returns a list of results, the first one of the global shuffle."""
    results = []
    cases = [(0, 0), *((b, w) for b in blocks for w in windows)]
    for block_records, window_blocks in cases:
        sampler = synthetic_sampler(num_records, block_records, window_blocks)
        result = measure_shuffle(sampler, num_records, batch, num_batches)
        results.append({"block": block_records, "window": window_blocks, **result})
        log(f"shuffle: {results[-1]}")
    return results


def shuffle_table(results):
    """Returns the lines of the part `shuffle`, a table in Markdown."""
    lines = [
        "| block | window | records | distance | near records | repeated |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        block = f"{r['block']:,}" if r["block"] else "global"
        window = f"{r['window']:,} | {r['block'] * r['window']:,}" if r["block"] else "shuffle |"
        values = f"{r['distance']:.3f} | {r['near']:.2f} | {r['repeated']:.3%}"
        lines.append(f"| {block} | {window} | {values} |")
    return lines


def main(arguments=None):
    """Runs the parts, prints tables and writes a JSON file."""
    parser = make_parser(__doc__, PARTS)
    parser.add_argument("--folder", help="folder of the synthetic set; default: a temporary one")
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--shard_records", type=int, default=SHARD_RECORDS)
    parser.add_argument("--block_records", type=int, default=8192)
    parser.add_argument("--records", type=int, default=1 << 23, help="records of part shuffle")
    parser.add_argument("--blocks", default="64,1024,8192", help="records of a block")
    parser.add_argument("--windows", default="1,8,32,128", help="blocks of a window")
    parser.add_argument("--batch", type=int, default=_BATCH)
    options = parser.parse_args(arguments)
    info, lines, results = machine_info(), [], {}
    parts = options.parts.split(",")
    if "open" in parts:
        sizes = (options.shards, options.shard_records, options.block_records)
        results["open"] = run_open(options.folder, *sizes)
        lines += open_table(results["open"])
    if "shuffle" in parts:
        blocks, windows = (
            [int(n) for n in o.split(",")] for o in (options.blocks, options.windows)
        )
        results["shuffle"] = run_shuffle(options.records, blocks, windows, options.batch)
        lines += shuffle_table(results["shuffle"])
    report(append_load(info), lines, options.json, **results)


if __name__ == "__main__":
    main()
