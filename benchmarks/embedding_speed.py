"""Times the embedding of texts and images with a trained model, and with PyTorch.

    python -m benchmarks.trained_weights presets
    python -m benchmarks.embedding_speed --presets=presets --tatoeba=FOLDER --photos=FOLDER \
        --peer_python=PATH --json=embedding_speed.json

The towers are multilingual-e5-small and EfficientNet-Lite0. The sides of tf_mural are `Embedder`,
the SavedModel and the ONNX models (float32 and int8) of tools/export.py. The sides of PyTorch have
towers of the same sizes with random weights: `SentenceTransformer.encode`, and timm's Lite0 behind
the image transform of open_clip. PyTorch runs in an environment of its own, whose interpreter
--peer_python names (pip install sentence-transformers open_clip_torch timm). Each side gets the
same strings, or the same JPEG files as bytes, and returns rows of norm 1. The part "folder" embeds
a folder of JPEG files: `search.make_index`, compared with a DataLoader of PyTorch with the same
transform and two workers, as in clip-retrieval. The frameworks take turns, each in a process of its
own.
"""

import os
import statistics
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.common import (  # noqa: E402
    append_load,
    log,
    machine_info,
    make_parser,
    parse_names,
    peak_flops,
    report,
)
from benchmarks.embedding import jpegs, random_sentences, read_sentences  # noqa: E402
from benchmarks.worker import ScriptWorker, Worker  # noqa: E402

PARTS = ("texts", "images", "folder")
PEER_SCRIPT = os.path.join(ROOT, "benchmarks", "embedding_peer.py")
OWN = {
    "texts": ("embedder", "saved_model", "onnx", "onnx int8"),
    "images": ("embedder", "saved_model", "onnx"),
    "folder": ("index",),
}
PEERS = {
    "texts": ("sentence_transformers",),
    "images": ("eager", "channels_last", "compiled"),
    "folder": ("channels_last", "compiled"),
}
_MATMUL = 4096  # rows of the matrices whose product is timed as the peak rate


def measure(part, own, peer, batch_sizes, counts, rounds, chosen=()):
    """Times all sides of a part alternately.

    Args:
        part: one of `PARTS`.
        own: `Worker` of `embedding_sides.Sides`.
        peer: `ScriptWorker` of `PEER_SCRIPT`, or None.
        batch_sizes: sizes of the batches.
        counts: {batch size: number of items}.
        rounds: number of timed turns of each side, after one that is not counted.
        chosen: names of the sides; () means all sides.

    Returns:
        {batch size: {side: {"seconds": list, "per_second": number of items per second, by the
        median}, "ratio": rate of the fastest side of tf_mural over that of the fastest peer}}.
    """
    results = {}
    for size in batch_sizes:
        sides = [("tf_mural", own, name) for name in OWN[part]]
        sides += [("pytorch", peer, name) for name in (PEERS[part] if peer else ())]
        sides = [side for side in sides if not chosen or side[2] in chosen]
        seconds = {}
        warmups = 0 if part == "folder" else 1
        for turn in range(-warmups, rounds):
            for group, worker, name in list(sides):
                try:
                    _, wall, _ = worker.call("embed", part, name, size, counts[size])
                except RuntimeError as error:
                    if group == "tf_mural":
                        raise
                    log(f"{part}: {name} is left out: {str(error).strip().splitlines()[-1]}")
                    sides.remove((group, worker, name))
                    continue
                log(f"{part}, batch {size}, {group} {name}: {counts[size] / wall:.1f} per second")
                if turn >= 0:
                    seconds.setdefault(f"{group} {name}", []).append(wall)
        rows = {
            side: {"seconds": walls, "per_second": counts[size] / statistics.median(walls)}
            for side, walls in seconds.items()
        }
        results[size] = {"sides": rows} | _ratio(rows)
    return results


def _ratio(rows):
    best = {}
    for side, row in rows.items():
        group = side.split()[0]
        best[group] = max(best.get(group, 0.0), row["per_second"])
    return {"ratio": best["tf_mural"] / best["pytorch"]} if len(best) == 2 else {}


def table(results):
    """Returns the lines of a table."""
    lines = []
    if peaks := results.get("peak_flops_per_second"):
        rates = ", ".join(f"{side} {rate / 1e9:.0f}" for side, rate in peaks.items())
        lines.append(f"  matrix-multiply peak, GFLOP/s: {rates}")
    for part in PARTS:
        for size, result in results.get(part, {}).items():
            for side, row in result["sides"].items():
                name = f"{part}, batch {size}, {side}"
                line = f"  {name:<48} {row['per_second']:>8.1f} per second"
                flops = results["flops"].get(part)
                if flops and peaks:
                    share = flops[str(size)] * row["per_second"] / max(peaks.values())
                    line += f", {share:.0%} of the peak"
                lines.append(line)
            if "ratio" in result:
                lines.append(f"    fastest of tf_mural / fastest of PyTorch: {result['ratio']:.2f}")
    if accuracy := results.get("int8_accuracy"):
        lines.append(
            f"  Tatoeba accuracy in percent, float32: {accuracy['embedder']:.2f}, int8: "
            f"{accuracy['onnx int8']:.2f}"
        )
    return lines


def parse(arguments=None):
    """Parses the flags."""
    parser = make_parser(__doc__, PARTS)
    parser.add_argument("--presets", required=True, help="folder of benchmarks.trained_weights")
    parser.add_argument("--tatoeba", help="folder of tatoeba.xxx-eng.xxx (default: random words)")
    parser.add_argument("--photos", help="folder of JPEG files (default: blurred noise)")
    parser.add_argument("--peer_python", help="interpreter with PyTorch; none: no comparison")
    parser.add_argument("--batch_sizes", default="1,64", help="comma-separated")
    parser.add_argument("--sentences", type=int, default=1024, help="texts of a turn")
    parser.add_argument("--images", type=int, default=256, help="images of a turn")
    parser.add_argument("--folder_images", type=int, default=10_000, help="images of the folder")
    names = sorted({name for table in (OWN, PEERS) for sides in table.values() for name in sides})
    parser.add_argument("--sides", default="", help=f"comma-separated: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=3, help="timed turns of each side")
    options = parser.parse_args(arguments)
    options.parts = parse_names(parser, "--parts", options.parts, PARTS)
    options.sides = parse_names(parser, "--sides", options.sides, names)
    options.batch_sizes = [int(size) for size in options.batch_sizes.split(",")]
    if options.rounds < 1 or min(options.sentences, options.images, options.folder_images) < 64:
        parser.error("--rounds must be at least 1, and the numbers of items at least 64")
    return options


def _counts(total, sizes):
    """Returns {batch size: number of items of a turn}: a tenth for single items."""
    return {size: max(total // 10, 16) if size == 1 else total for size in sizes}


def _prepare(options, folder):
    """Writes the texts and the images that all sides read. Returns the settings of the sides."""
    import json

    import numpy as np

    texts = read_sentences(options.tatoeba) if options.tatoeba else random_sentences(5000)
    chosen = np.random.default_rng(0).permutation(len(texts))[: options.sentences]
    photos = photographs(options.photos, 256) if options.photos else jpegs(64, 188)
    settings = {
        "texts": [texts[i] for i in chosen],
        "photos": os.path.join(folder, "photos"),
        "presets": os.path.abspath(options.presets),
        "tatoeba": options.tatoeba,
        "folder": folder,
    }
    os.makedirs(settings["photos"])
    count = max(options.images, options.folder_images if "folder" in options.parts else 0)
    for i in range(count):
        with open(os.path.join(settings["photos"], f"{i:06d}.jpg"), "wb") as file:
            file.write(photos[i % len(photos)])
    with open(os.path.join(folder, "settings.json"), "w", encoding="utf-8") as file:
        json.dump(settings, file)
    return settings


def photographs(folder, count, size=(500, 375)):
    """Returns photographs of a folder as JPEGs of quality 90, enlarged to `size`."""
    import io

    from PIL import Image

    files = []
    for name in sorted(os.listdir(folder))[:count]:
        with Image.open(os.path.join(folder, name)) as image:
            buffer = io.BytesIO()
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(
                buffer, "JPEG", quality=90
            )
        files.append(buffer.getvalue())
    return files


def main():
    options = parse()
    info, results = machine_info(), {}
    with tempfile.TemporaryDirectory() as folder:
        settings = _prepare(options, folder)
        own = Worker("benchmarks.embedding_sides", "Sides", settings=settings)
        peer = None
        try:
            if options.peer_python:
                path = os.path.join(folder, "settings.json")
                peer = ScriptWorker(options.peer_python, PEER_SCRIPT, path)
            sides = {"tf_mural": own} | ({"pytorch": peer} if peer else {})
            results["peak_flops_per_second"] = {
                name: peak_flops(lambda size, side=side: side.call("matmul", size)[1], _MATMUL)
                for name, side in sides.items()
            }
            results["flops"] = own.call("flops", options.batch_sizes)[0]
            totals = {"texts": options.sentences, "images": options.images}
            for part in options.parts:
                sizes, rounds = options.batch_sizes, options.rounds
                counts = _counts(totals.get(part, 0), sizes)
                if part == "folder":
                    sizes, counts, rounds = [64], {64: options.folder_images}, 1
                results[part] = measure(part, own, peer, sizes, counts, rounds, options.sides)
                append_load(info)
            has_int8 = not options.sides or "onnx int8" in options.sides
            if options.tatoeba and "texts" in options.parts and has_int8:
                results["int8_accuracy"] = own.call("accuracy")[0]
        finally:
            own.close()
            if peer:
                peer.close()
    flags = {key: value for key, value in vars(options).items() if key != "json"}
    report(info, table(results), options.json, options=flags, **results)


if __name__ == "__main__":
    main()
