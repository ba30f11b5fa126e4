"""Times the resizer and writer of img2dataset on local files, in an environment of its own.

    python benchmarks/img2dataset_peer.py PROCESSES SIDE QUALITY OUT_DIR < list-of-files

Prints a line of JSON with the number of written images, and the seconds from the first image of the
first process to the last image of the last process. The start of processes and the imports are not
included.
"""

import io
import json
import multiprocessing
import sys
import time


def convert_files(worker, files, side, quality, out_dir, ready, results):
    """Reads, resizes and writes the files of a worker process."""
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    resizer = Resizer(
        image_size=side,
        resize_mode="center_crop",
        resize_only_if_bigger=False,
        encode_quality=quality,
    )
    writer = WebDatasetSampleWriter(worker, out_dir, True, 5, _schema(), "jpg")
    ready.wait()
    began, written = time.time(), 0
    for index, path in enumerate(files):
        with open(path, "rb") as file:
            stream = io.BytesIO(file.read())
        image, *_, error = resizer(stream)
        if error is None:
            key = f"{worker:05d}{index:05d}"
            writer.write(image, key, "a caption", {"key": key, "caption": "a caption"})
            written += 1
    writer.close()
    results.put((began, time.time(), written))


def _schema():
    import pyarrow

    return pyarrow.schema([("key", pyarrow.string()), ("caption", pyarrow.string())])


def main():
    processes, side, quality = map(int, sys.argv[1:4])
    files = sys.stdin.read().splitlines()
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(
            target=convert_files,
            args=(i, files[i::processes], side, quality, sys.argv[4], ready, results),
        )
        for i in range(processes)
    ]
    for worker in workers:
        worker.start()
    began, ended, written = zip(*(results.get() for _ in workers), strict=True)
    for worker in workers:
        worker.join()
    print(json.dumps({"images": sum(written), "seconds": max(ended) - min(began)}))


if __name__ == "__main__":
    main()
