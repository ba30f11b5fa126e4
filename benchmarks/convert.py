"""Times conversion: images to small JPEGs beside img2dataset, translation pairs, reading back.

    python3.11 -m venv .venv-img2dataset && .venv-img2dataset/bin/pip install img2dataset==1.47.0
    python benchmarks/convert.py --images=photos --peer=.venv-img2dataset/bin/python

Both sides read the same files, make squares of 346 pixels at the same JPEG quality, and write them:
records here, webdataset tars there, with as many processes. The bare limit is the loop that
decodes, resizes and encodes in as many processes and writes nothing. Rounds alternate.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.common import machine, note_load, say, tell  # noqa: E402

SIDE, QUALITY = 346, 95
UNIT = 2000  # rows of a unit of the data set `table`


def images(folder, out_dir, limit, processes, rounds, peer=None):
    """Images a second of the bare loop, of a conversion, and of the peer.

    Args:
        folder: of JPEG files, at any depth.
        out_dir: for what is written.
        limit: how many files at most.
        processes, rounds: of each side.
        peer: a Python that has img2dataset, or None.

    Returns:
        dict: images, bytes, runs {"bare", "ours", "peer": images a second of each round}, and
        medians and ratios.
    """
    files = sorted(
        os.path.join(at, name)
        for at, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith((".jpg", ".jpeg"))
    )[:limit]
    if not files:
        raise SystemExit(f"no JPEG files in {folder}")
    runs = {"bare": [], "ours": []} | ({"peer": []} if peer else {})
    for turn in range(rounds):
        for side, found in runs.items():
            place = os.path.join(out_dir, f"{side}-{turn}")
            os.makedirs(place)
            if side == "peer":
                rate = _peer(peer, files, place, processes)
            else:
                rate = {"bare": _bare, "ours": _ours}[side](files, place, processes)
            found.append(rate)
            say(f"images: turn {turn + 1}/{rounds}, {side}: {rate:.0f} a second")
    median = {side: statistics.median(rates) for side, rates in runs.items()}
    found = {"images": len(files), "bytes": sum(map(os.path.getsize, files)), "runs": runs}
    found["median"] = median
    found["share_of_bare"] = median["ours"] / median["bare"]
    if peer:
        found["ratio"] = median["ours"] / median["peer"]
    return found


def _bare(files, place, processes):
    from tf_mural.conversion.executors import run_in_processes

    share = [files[i::processes] for i in range(processes)]
    jobs = [(some,) for some in share]
    spans = [span for _, span in run_in_processes(_bare_share, jobs, processes)]
    return len(files) / max(spans)


def _bare_share(files):
    from tf_mural.conversion.image_probe import resize_to_jpeg

    data = [open(file, "rb").read() for file in files]
    resize_to_jpeg(data[0], SIDE, QUALITY)  # TensorFlow is imported by the first
    began = time.perf_counter()
    for one in data:
        resize_to_jpeg(one, SIDE, QUALITY)
    return time.perf_counter() - began


def _ours(files, place, processes):
    """From the difference of two sizes, so that starting the processes cancels out.

    Each gives every process as many units as the others, of files taken round and round.
    """
    share = processes * UNIT
    few, many = (list(itertools.islice(itertools.cycle(files), n * share)) for n in (1, 2))
    short = _converted(few, os.path.join(place, "few"), processes)
    return share / (_converted(many, os.path.join(place, "many"), processes) - short)


def _converted(files, place, processes):
    """Seconds of the conversion of a table of these files."""
    from tf_mural import conversion
    from tf_mural.conversion import FilterConfig
    from tf_mural.datasets import table

    raw = os.path.join(place, "raw")
    os.makedirs(raw)
    with open(os.path.join(raw, "train.tsv"), "w", encoding="utf-8") as file:
        file.write("image\ten\n")
        for number, path in enumerate(files):
            name = f"{number:07d}.jpg"
            shutil.copyfile(path, os.path.join(raw, name))
            file.write(f"{name}\ta caption\n")
    filters = FilterConfig(resize=SIDE, resize_quality=QUALITY)
    began = time.perf_counter()
    conversion.convert(
        table, "table", raw, place, "train", processes=processes, filters=filters, progress=_nothing
    )
    return time.perf_counter() - began


def _nothing(line):
    pass


def _peer(python, files, place, processes):
    script = os.path.join(ROOT, "benchmarks", "img2dataset_peer.py")
    done = subprocess.run(
        [python, script, str(processes), str(SIDE), str(QUALITY), place],
        input="\n".join(files),
        capture_output=True,
        text=True,
        env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"},
    )
    if done.returncode:
        raise SystemExit(f"img2dataset failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found["images"] / found["seconds"]


def bitext(out_dir, pairs, processes, rounds):
    """Translation pairs a second from an OPUS zip to records, and records a second read back.

    The pairs are random words, 12 a sentence on average. Starting the processes counts.
    """
    from tf_mural import conversion
    from tf_mural.datasets import opus

    raw = os.path.join(out_dir, "bitext")
    os.makedirs(raw)
    _moses_zip(os.path.join(raw, "de-en.txt.zip"), pairs)
    rates, seconds = [], []
    for turn in range(rounds):
        place = os.path.join(out_dir, f"bitext-{turn}")
        began = time.perf_counter()
        manifest = conversion.convert(
            opus, "ccmatrix", raw, place, "train", processes=processes, progress=_nothing
        )
        seconds.append(time.perf_counter() - began)
        rates.append(manifest["records"] / seconds[-1])
        say(f"bitext: turn {turn + 1}/{rounds}: {rates[-1]:,.0f} pairs a second")
    found = {"pairs": pairs, "runs": rates, "median": statistics.median(rates)}
    return found | _read_back(os.path.join(place, "train"))


def _moses_zip(path, pairs):
    words = ["".join(chr(97 + (i * 7 + k * k) % 26) for k in range(2 + i % 9)) for i in range(5000)]
    rng = random.Random(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for language in ("de", "en"):
            with archive.open(f"CCMatrix.de-en.{language}", "w", force_zip64=True) as file:
                for _ in range(0, pairs, 10_000):
                    lines = (
                        " ".join(rng.choices(words, k=rng.randint(4, 20))) + "\n"
                        for _ in range(10_000)
                    )
                    file.write("".join(lines).encode())


def _read_back(folder):
    import numpy as np

    from tf_mural.data import records

    opened = records.RecordSet.open(folder)
    count = min(len(opened), 500_000)
    some = np.random.default_rng(0).integers(0, len(opened), count)
    began = time.perf_counter()
    for start in range(0, count, 4096):
        opened.read(some[start : start + 4096])
    random_rate = count / (time.perf_counter() - began)
    began = time.perf_counter()
    for start in range(0, count, 4096):
        opened.read(np.arange(start, min(start + 4096, count)))
    return {"read_random": random_rate, "read_in_order": count / (time.perf_counter() - began)}


def parse(arguments=None):
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="folder of JPEG files (default: no images are timed)")
    parser.add_argument("--limit", type=int, default=4000, help="images at most")
    parser.add_argument("--peer", help="a Python that has img2dataset")
    parser.add_argument("--pairs", type=int, default=1_000_000, help="translation pairs; 0 is none")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file for the numbers")
    options = parser.parse_args(arguments)
    if min(options.processes, options.rounds) < 1 or options.limit < 2:
        parser.error("--processes and --rounds from 1, --limit from 2")
    return options


def main():
    options = parse()
    about, found = machine(), {"processes": options.processes}
    with tempfile.TemporaryDirectory() as place:
        if options.images:
            found["images"] = images(
                options.images,
                place,
                options.limit,
                options.processes,
                options.rounds,
                options.peer,
            )
        if options.pairs:
            found["bitext"] = bitext(place, options.pairs, options.processes, options.rounds)
    tell(note_load(about), table_of(found), options.json, **found)


def table_of(found):
    """Lines that say the same as the JSON file, for people."""
    lines = [f"  {found['processes']} processes, medians"]
    if "images" in found:
        part = found["images"]
        for side, rate in part["median"].items():
            lines.append(f"  images to {SIDE} px, {side:<5} {rate:>10,.0f} a second")
        lines.append(f"  share of the bare loop {part['share_of_bare']:.0%}")
        if "ratio" in part:
            lines.append(f"  ours / img2dataset {part['ratio']:.2f}")
    if "bitext" in found:
        part = found["bitext"]
        lines.append(f"  translation pairs {part['median']:>13,.0f} a second")
        lines.append(f"  records read, random {part['read_random']:>10,.0f} a second")
        lines.append(f"  records read, in order {part['read_in_order']:>8,.0f} a second")
    return lines


if __name__ == "__main__":
    main()
