"""Times the conversion of images, compared with img2dataset, and of translation pairs.

    python3.11 -m venv .venv-img2dataset && .venv-img2dataset/bin/pip install img2dataset==1.47.0
    python benchmarks/convert.py --images=photos --peer=.venv-img2dataset/bin/python

Both packages read the same files, resize them to 346 x 346 pixels, encode them with the same JPEG
quality, and write records (this package) or webdataset tars (img2dataset), with the same number of
processes. A loop that decodes, resizes and encodes the files in the same number of processes, but
writes nothing, gives the upper limit of both rates. The two packages and the loop take turns. The
benchmark also measures how many records per second can be read.
"""

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

from benchmarks.common import append_load, log, machine_info, make_parser, report  # noqa: E402

SIDE, QUALITY = 346, 95
RECORDS_PER_UNIT = 2000  # as `_RECORDS_PER_UNIT` of the data set `table`


def measure_images(folder, out_dir, limit, processes, rounds, peer=None):
    """Measures images per second of a loop without writing, of a conversion, and of img2dataset.

    Args:
        folder: folder with JPEG files, also in subfolders.
        out_dir: folder for temporary files.
        limit: maximum number of files.
        processes: number of processes.
        rounds: number of measurements of the loop and of each package.
        peer: path of a Python with img2dataset, or None.

    Returns:
        {"images": number of files, "bytes": total size of the files, "runs": {"loop", "tf_mural",
        "img2dataset": images per second of each round}, "median": {side: images per second},
        "share_of_loop": rate of tf_mural over that of the loop, "ratio": rate of tf_mural over that
        of img2dataset}.
    """
    files = sorted(
        os.path.join(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith((".jpg", ".jpeg"))
    )[:limit]
    if not files:
        raise SystemExit(f"no JPEG files in {folder}")
    runs = {"loop": [], "tf_mural": []} | ({"img2dataset": []} if peer else {})
    for turn in range(rounds):
        for side, rates in runs.items():
            work_dir = os.path.join(out_dir, f"{side}-{turn}")
            os.makedirs(work_dir)
            if side == "img2dataset":
                rate = _run_img2dataset(peer, files, work_dir, processes)
            else:
                run = {"loop": _run_loop, "tf_mural": _run_conversion}[side]
                rate = run(files, work_dir, processes)
            rates.append(rate)
            log(f"images: turn {turn + 1}/{rounds}, {side}: {rate:.0f} per second")
    median = {side: statistics.median(rates) for side, rates in runs.items()}
    results = {"images": len(files), "bytes": sum(map(os.path.getsize, files)), "runs": runs}
    results["median"] = median
    results["share_of_loop"] = median["tf_mural"] / median["loop"]
    if peer:
        results["ratio"] = median["tf_mural"] / median["img2dataset"]
    return results


def _run_loop(files, work_dir, processes):
    from tf_mural.conversion.executors import run_in_processes

    jobs = [(files[i::processes],) for i in range(processes)]
    seconds = [result for _, result in run_in_processes(_resize_files, jobs, processes)]
    return len(files) / max(seconds)


def _resize_files(files):
    from tf_mural.conversion.image_probe import resize_image

    contents = [open(file, "rb").read() for file in files]
    resize_image(contents[0], SIDE, QUALITY)  # the first call imports TensorFlow
    began = time.perf_counter()
    for content in contents:
        resize_image(content, SIDE, QUALITY)
    return time.perf_counter() - began


def _run_conversion(files, work_dir, processes):
    """Returns the images per second of a conversion, without the start of the processes.

    The function times a conversion, and a conversion of twice as many files. The rate is computed
    from the difference of the two times, in which the start of the processes cancels. All processes
    have the same number of units. The files are repeated to fill the units.
    """
    count = processes * RECORDS_PER_UNIT
    few, many = (list(itertools.islice(itertools.cycle(files), n * count)) for n in (1, 2))
    seconds = _conversion_seconds(few, os.path.join(work_dir, "few"), processes)
    return count / (_conversion_seconds(many, os.path.join(work_dir, "many"), processes) - seconds)


def _conversion_seconds(files, work_dir, processes):
    """Returns the seconds that the conversion of a table of files takes."""
    from tf_mural import conversion
    from tf_mural.conversion import FilterConfig
    from tf_mural.datasets import table

    raw = os.path.join(work_dir, "raw")
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
        table, "table", raw, work_dir, "train", processes=processes, filters=filters, progress=str
    )
    return time.perf_counter() - began


def _run_img2dataset(python, files, work_dir, processes):
    script = os.path.join(ROOT, "benchmarks", "img2dataset_peer.py")
    process = subprocess.run(
        [python, script, str(processes), str(SIDE), str(QUALITY), work_dir],
        input="\n".join(files),
        capture_output=True,
        text=True,
        env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"},
    )
    if process.returncode:
        raise SystemExit(f"img2dataset failed: {process.stderr[-2000:]}")
    result = json.loads(process.stdout.splitlines()[-1])
    return result["images"] / result["seconds"]


def measure_bitext(out_dir, pairs, processes, rounds):
    """Measures the conversion of an OPUS zip in translation pairs per second, and reading rates.

    The sentences are random words, 12 per sentence on average. The time to start the processes is
    included.
    """
    from tf_mural import conversion
    from tf_mural.datasets import opus

    raw = os.path.join(out_dir, "bitext")
    os.makedirs(raw)
    _write_moses_zip(os.path.join(raw, "de-en.txt.zip"), pairs)
    rates, seconds = [], []
    for turn in range(rounds):
        work_dir = os.path.join(out_dir, f"bitext-{turn}")
        began = time.perf_counter()
        manifest = conversion.convert(
            opus, "ccmatrix", raw, work_dir, "train", processes=processes, progress=str
        )
        seconds.append(time.perf_counter() - began)
        rates.append(manifest["records"] / seconds[-1])
        log(f"bitext: turn {turn + 1}/{rounds}: {rates[-1]:,.0f} pairs per second")
    results = {"pairs": pairs, "runs": rates, "median": statistics.median(rates)}
    return results | _measure_reading(os.path.join(work_dir, "train"))


def _write_moses_zip(path, pairs):
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


def _measure_reading(folder):
    import numpy as np

    from tf_mural.data import records

    record_set = records.RecordSet.open(folder)
    count = min(len(record_set), 500_000)
    indices = np.random.default_rng(0).integers(0, len(record_set), count)
    began = time.perf_counter()
    for start in range(0, count, 4096):
        record_set.read(indices[start : start + 4096])
    random_rate = count / (time.perf_counter() - began)
    began = time.perf_counter()
    for start in range(0, count, 4096):
        record_set.read(np.arange(start, min(start + 4096, count)))
    return {"read_random": random_rate, "read_in_order": count / (time.perf_counter() - began)}


def parse(arguments=None):
    """Parses the flags."""
    parser = make_parser(__doc__)
    parser.add_argument("--images", help="folder of JPEG files (default: images are not measured)")
    parser.add_argument("--limit", type=int, default=4000, help="maximum number of images")
    parser.add_argument("--peer", help="path of a Python with img2dataset")
    parser.add_argument("--pairs", type=int, default=1_000_000, help="number of translation pairs")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    if min(options.processes, options.rounds) < 1 or options.limit < 2:
        parser.error("--processes and --rounds must be at least 1, --limit at least 2")
    return options


def main():
    options = parse()
    info, results = machine_info(), {"processes": options.processes}
    with tempfile.TemporaryDirectory() as folder:
        if options.images:
            results["images"] = measure_images(
                options.images,
                folder,
                options.limit,
                options.processes,
                options.rounds,
                options.peer,
            )
        if options.pairs:
            results["bitext"] = measure_bitext(
                folder, options.pairs, options.processes, options.rounds
            )
    report(append_load(info), table(results), options.json, **results)


def table(results):
    """Returns the lines of a table."""
    lines = [f"  {results['processes']} processes, medians"]
    if "images" in results:
        images = results["images"]
        for side, rate in images["median"].items():
            lines.append(f"  images to {SIDE} px, {side:<11} {rate:>10,.0f} per second")
        lines.append(f"  share of the loop without writing {images['share_of_loop']:.0%}")
        if "ratio" in images:
            lines.append(f"  tf_mural / img2dataset {images['ratio']:.2f}")
    if "bitext" in results:
        bitext = results["bitext"]
        lines.append(f"  translation pairs {bitext['median']:>13,.0f} per second")
        lines.append(f"  records read, random {bitext['read_random']:>10,.0f} per second")
        lines.append(f"  records read, in order {bitext['read_in_order']:>8,.0f} per second")
    return lines


if __name__ == "__main__":
    main()
