"""Part "remote" of benchmarks/input.py: records on an S3 or GCS server of this machine.

A proxy delays each request by 50 ms. Server, proxy and loader share the processors, so the rates
are lower than with a server on another machine.
"""

import contextlib
import os
import statistics
import time

import numpy as np

from benchmarks.common import log
from benchmarks.input_loaders import SIDE
from benchmarks.worker import Worker

LATENCY = 0.05  # seconds per request
_LOADERS = "benchmarks.input_loaders"
_SENTENCES = 200_000  # translation pairs
_SHARDS = 1000  # shards of the set whose first batch is timed
# {side: bytes of a set that is read into memory}; "requested" requests each record by itself.
SIDES = {"in memory": 1 << 29, "requested": 0, "cached": 0}


def measure(folder, batch_size, batches, rounds, measure_turns, peer):
    """Times the input pipeline with local records and with the same records on a server.

    Args:
        folder: folder with the records and tars of `input_loaders.prepare`.
        batch_size, batches, rounds: as in `benchmarks.input`.
        measure_turns: the function `measure` of `benchmarks.input`.
        peer: whether webdataset reads the same images from the server.

    Returns:
        {"images": {side: rates}, "pairs": {side: rates}, "first_batch": {"seconds", "shards",
        "open_files"}}.
    """
    pairs = os.path.join(folder, "pairs")
    _write_pairs(pairs)
    many = os.path.join(folder, "many")
    _write_many(many)
    kinds = {
        "images": (os.path.join(folder, "records"), {"resize": SIDE, "crop": 224, "texts": 1}),
        "pairs": (pairs, {"resize": None, "crop": None, "texts": 2}),
    }
    results = {}
    with _server() as proxy:
        names = {kind: local for kind, (local, _) in kinds.items()} | {"many": many}
        for name, local in names.items():
            _upload(local, f"gs://bucket/{name}")
        tars = os.path.join(folder, "tars")
        if peer:
            _upload(tars, "gs://bucket/tars")
        proxy.reset(delay=LATENCY)
        os.environ["STORAGE_EMULATOR_HOST"] = proxy.url
        for kind, (local, arguments) in kinds.items():
            options = dict(arguments, batch_size=batch_size)
            factories = {"local": _factory(local, options)}
            for side, memory in SIDES.items():
                cache = os.path.join(folder, "cache", kind) if side == "cached" else None
                remote = dict(options, memory_bytes=memory, cache=cache)
                factories[side] = _factory(f"gs://bucket/{kind}", remote)
            if peer and kind == "images":
                address = f"{proxy.url}/download/storage/v1/b/bucket/o/tars"
                shards = [f"{address}/{name}" for name in sorted(os.listdir(tars))]
                factories["webdataset, 2"] = lambda shards=shards: Worker(
                    _LOADERS,
                    "WebDataset",
                    children=True,
                    urls=shards,
                    resize=SIDE,
                    crop=224,
                    batch_size=batch_size,
                    workers=2,
                )
            results[kind] = measure_turns(factories, batches, rounds, f"remote, {kind}")
        results["first_batch"] = _first_batch("gs://bucket/many", batch_size)
    return results


def ratios(results):
    """Returns {kind: {side: median rate divided by the local median rate}}."""
    values = {}
    for kind in ("images", "pairs"):
        rates = {side: statistics.median(values) for side, values in results[kind].items()}
        values[kind] = {s: rate / rates["local"] for s, rate in rates.items() if s != "local"}
    return values


def lines(results):
    """Returns the lines of a table."""
    table = []
    for kind, sides in ratios(results).items():
        for side, ratio in sides.items():
            rate = statistics.median(results[kind][side])
            label = f"remote {kind}, {side}"
            table.append(f"  {label:<28} {rate:>10,.0f} per second, {ratio:.0%} of local")
    first = results["first_batch"]
    table.append(
        f"  first batch of {first['shards']:,} shards: {first['seconds']:.1f} s, "
        f"{first['open_files']} open files"
    )
    return table


def _factory(folder, options):
    return lambda: Worker(_LOADERS, "Pipeline", folder=folder, **options)


def _first_batch(folder, batch_size):
    worker = Worker(_LOADERS, "FirstBatch", folder=folder, batch_size=batch_size)
    try:
        result = worker.call("run")[0]
    finally:
        worker.close()
    log(f"first batch: {result}")
    return result


def _write_pairs(folder):
    from tf_mural.data import records

    rng = np.random.default_rng(0)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, 5)) for _ in range(5000)]

    def sentence():
        return " ".join(words[i] for i in rng.integers(0, len(words), 15))

    examples = [
        records.Record(str(i), (), (("de", sentence()), ("en", sentence())))
        for i in range(_SENTENCES)
    ]
    records.write(folder, examples, shards=4)


def _write_many(folder):
    from tf_mural.data import records

    texts = (("de", "ein Haus"), ("en", "a house"))
    examples = [records.Record(str(i), (), texts) for i in range(_SHARDS)]
    records.write(folder, examples, shards=_SHARDS)


def _upload(folder, target):
    import concurrent.futures

    from tf_mural import file_io

    def copy(name):
        file_io.copy(os.path.join(folder, name), f"{target}/{name}")

    began, names = time.perf_counter(), sorted(os.listdir(folder))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(copy, names))
    log(f"{len(names)} files copied in {time.perf_counter() - began:.0f} s")


@contextlib.contextmanager
def _server():
    """Yields a proxy before a GCS server, which the environment variables select."""
    from tests.helpers import faulty_proxy, storage_servers

    with faulty_proxy.FaultyProxy() as proxy:
        with storage_servers.gs_server(proxy.url) as url:
            proxy.upstream = url
            os.environ.update(storage_servers.environment_of("gs", url))
            yield proxy
