"""Times the distillation of a text encoder, compared with ETCL and with sentence-transformers.

    python benchmarks/distillation.py --parts=etcl --json=etcl.json
    python benchmarks/distillation.py --parts=peer --tatoeba=FOLDER --peer_python=PYTHON

The student is the text tower of the paper: a BERT, [CLS] and a linear projection. The targets are
stored vectors of a teacher, which are random here. The loss is the mean squared error.

The part "etcl" compares the rows per second of text-only distillation, with one text per row and a
frozen image tower, with those of the ETCL step of the same model. The part "peer" compares complete
training, from sentences to weights, with the trainer of sentence-transformers and its `MSELoss`.
The peer runs in an environment of its own. Both sides have the same sizes, vocabulary, sentences,
dropout, batch size, AdamW, clipping, float32 and number of threads. In the data set "full", every
sentence has at least `--tokens` tokens, and all texts are cut to this length. In the data set
"tatoeba", sentences keep their lengths, up to `--tokens`. The compared steps alternate.
"""

import dataclasses
import json
import os
import random
import statistics
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks import distillation_step  # noqa: E402
from benchmarks.cases import CASES, DROPOUT, EMBEDDING_DIM  # noqa: E402
from benchmarks.common import (  # noqa: E402
    append_load,
    log,
    machine_info,
    make_parser,
    parse_names,
    peak_flops,
    report,
)
from benchmarks.worker import ScriptWorker, Worker  # noqa: E402

PARTS = ("etcl", "peer")
DATA_SETS = ("full", "tatoeba")
_PEER_SCRIPT = os.path.join(ROOT, "benchmarks", "sentence_transformers_peer.py")
_MATMUL = 2048  # rows of the square matrices whose product is timed as the peak rate


def measure_etcl(case, text_batches, rounds, warmup=1):
    """Times the ETCL step and steps of text-only distillation alternately.

    Args:
        case: `cases.Case` of the ETCL step; the distillation has the same towers and tokens.
        text_batches: list of numbers of rows per distillation step.
        rounds: timed steps of each kind.
        warmup: steps of each kind before the timed steps.

    Returns:
        {"case", "seconds": {name: list of the seconds of each step}, "rows_per_second": {name:
        batch size over the median}, "ratio": {name: rows per second over those of "etcl"}}.
    """
    module = "benchmarks.distillation_step"
    workers = {
        "etcl": (case.batch, Worker("benchmarks.tf_mural_step", "TensorFlowStep", case=case))
    }
    seconds = {}
    try:
        for rows in text_batches:
            text_case = dataclasses.replace(case, batch=rows)
            workers[f"distil {rows}"] = rows, Worker(module, "TextOnlyStep", case=text_case)
        for turn in range(-warmup, rounds):
            for name, (_, worker) in workers.items():
                loss, wall, _ = worker.call("step")
                log(f"{case.name}: {name}, {wall:.3f} s, loss {loss:.4f}")
                if turn >= 0:
                    seconds.setdefault(name, []).append(wall)
    finally:
        for _, worker in workers.values():
            worker.close()
    rates = {name: workers[name][0] / statistics.median(v) for name, v in seconds.items()}
    return {
        "case": dataclasses.asdict(case),
        "seconds": seconds,
        "rows_per_second": rates,
        "ratio": {k: rate / rates["etcl"] for k, rate in rates.items() if k != "etcl"},
    }


def measure_peer(folder, settings, steps, rounds, python=None):
    """Times the training of both implementations alternately.

    Args:
        folder: result of `write_data`.
        settings: {"bert", "tokens", "batch", "threads"}, see `distillation_step.DistillationRun`.
        steps: steps per turn.
        rounds: timed turns of each side; a first turn is not timed.
        python: path of a Python with sentence-transformers; None: this package only.

    Returns:
        {"facts": {side: dict}, "peak_flops_per_second": {side: rate}, "texts_per_second": {side:
        list of the rates of each turn}, "share_of_peak": rate of the floating-point operations of
        tf_mural over the peak rate, "ratio": rate of tf_mural over that of the peer}.

    Raises:
        RuntimeError: the models of both sides differ in their number of parameters.
    """
    settings = {**settings, "folder": folder, "width": EMBEDDING_DIM}
    workers, rates, facts = {}, {}, {}
    try:
        workers["tf_mural"] = Worker("benchmarks.distillation_step", "DistillationRun", **settings)
        facts["tf_mural"] = workers["tf_mural"].call("describe")[0]
        if python:
            peer_settings = json.dumps(settings | _peer_settings(settings["bert"]))
            workers["peer"] = ScriptWorker(python, _PEER_SCRIPT, peer_settings, facts=True)
            facts["peer"] = workers["peer"].facts
            counts = {side: fact["parameters"] for side, fact in facts.items()}
            if len(set(counts.values())) > 1:
                raise RuntimeError(f"the two models are not the same: parameters {counts}")
        for turn in range(-1, rounds):
            for side, worker in workers.items():
                _, wall, _ = worker.call("turn", steps)
                rate = steps * settings["batch"] / wall
                log(f"{side}: turn {turn + 1}/{rounds}, {rate:.1f} texts per second")
                if turn >= 0:
                    rates.setdefault(side, []).append(rate)
        peaks = {
            side: peak_flops(lambda n, worker=worker: worker.call("matmul", n)[1], _MATMUL)
            for side, worker in workers.items()
        }
    finally:
        for worker in workers.values():
            worker.close()
    return _summarize_peer(rates, facts, peaks, settings["batch"])


def _peer_settings(bert):
    from tf_mural.models.model_configs import bert_sizes

    return {
        "sizes": bert_sizes(bert),
        "dropout": DROPOUT,
        "learning_rate": distillation_step.LEARNING_RATE,
        "weight_decay": distillation_step.WEIGHT_DECAY,
        "clip_norm": distillation_step.CLIP_NORM,
    }


def _summarize_peer(rates, facts, peaks, batch):
    medians = {side: statistics.median(values) for side, values in rates.items()}
    flops = facts["tf_mural"]["flops"] / batch * medians["tf_mural"]
    result = {
        "facts": facts,
        "peak_flops_per_second": peaks,
        "texts_per_second": rates,
        "share_of_peak": flops / max(peaks.values()),
    }
    if "peer" in medians:
        result["ratio"] = medians["tf_mural"] / medians["peer"]
    return result


def make_texts(name, sentences, tokens):
    """Returns the texts of a data set.

    Args:
        name: "full" (a text consists of sentences with at least `tokens` words), or "tatoeba".
        sentences: list of strings in random order.
        tokens: tokens per text.
    """
    if name == "tatoeba":
        return sentences
    texts, words = [], []
    for sentence in sentences:
        words += sentence.split()  # a word has at least one token
        if len(words) >= tokens:
            texts.append(" ".join(words))
            words = []
    return texts


def write_data(folder, texts, pieces):
    """Writes texts and random vectors of a teacher for both sides.

    Args:
        folder: existing folder. It gets the files vocab.txt and sentences.json, and the record set
            `records`, in which each text is a record.
        texts: list of strings.
        pieces: pieces of the vocabulary.

    Returns:
        `folder`.
    """
    import numpy as np

    from tf_mural.data import records

    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as file:
        file.writelines(f"{piece}\n" for piece in pieces)
    with open(os.path.join(folder, "sentences.json"), "w", encoding="utf-8") as file:
        json.dump(texts, file)
    targets = np.random.default_rng(0).normal(size=(len(texts), 1, EMBEDDING_DIM))
    examples = (
        records.Record(str(i), texts=(("en", text),), vectors={"teacher": rows})
        for i, (text, rows) in enumerate(zip(texts, targets.astype(np.float16), strict=True))
    )
    vectors = {"teacher": records.describe_vectors("texts", EMBEDDING_DIM)}
    records.write(os.path.join(folder, "records"), examples, vectors=vectors)
    return folder


def table(results):
    """Returns the lines of a table."""
    lines = []
    for name, result in results.get("etcl", {}).items():
        rates, etcl = result["rows_per_second"], result["rows_per_second"]["etcl"]
        lines.append(f"  {name}, {result['case']['tokens']} tokens: ETCL {etcl:.2f} rows/s")
        for kind, ratio in result["ratio"].items():
            lines.append(f"    {kind} texts: {rates[kind]:.2f} rows/s, {ratio:.1f} times ETCL")
    for name, result in results.get("peer", {}).items():
        medians = {k: statistics.median(v) for k, v in result["texts_per_second"].items()}
        cells = [f"{side} {rate:.1f}" for side, rate in medians.items()]
        peaks = [f"{k} {v / 1e9:.0f}" for k, v in result["peak_flops_per_second"].items()]
        lines.append(f"  {name}: texts per second {', '.join(cells)}")
        lines.append(
            f"    {result['share_of_peak']:.0%} of the matrix-multiply peak (GFLOP/s: "
            f"{', '.join(peaks)})"
        )
        if "ratio" in result:
            lines.append(f"    tf_mural / sentence-transformers: {result['ratio']:.2f}")
    return lines


def parse(arguments=None):
    """Parses the flags."""
    parser = make_parser(__doc__, PARTS, default="etcl")
    parser.add_argument("--case", choices=list(CASES), default="b7", help="towers of `etcl`")
    parser.add_argument("--etcl_batch", type=int, default=4, help="triples per ETCL step")
    parser.add_argument("--text_batches", default="4,32", help="rows per step of `etcl`")
    parser.add_argument("--bert", default="base", help="of `peer`: a key of tf_mural.models.BERTS")
    parser.add_argument("--vocabulary", type=int, default=30_000, help="pieces, of `peer`")
    parser.add_argument("--batch", type=int, default=32, help="texts per step of `peer`")
    parser.add_argument("--tokens", type=int, default=32, help="tokens per text")
    parser.add_argument("--data", default=",".join(DATA_SETS), help="data sets of `peer`")
    parser.add_argument("--tatoeba", help="folder of tatoeba.xxx-eng.xxx (default: random words)")
    parser.add_argument("--sentences", type=int, default=20_000, help="number of sentences")
    parser.add_argument("--steps", type=int, default=5, help="steps per turn of `peer`")
    parser.add_argument("--rounds", type=int, default=3, help="timed turns of each kind")
    parser.add_argument("--threads", type=int, help="of each side of `peer` (default: all cores)")
    parser.add_argument("--peer_python", help="path of a Python with sentence-transformers")
    options = parser.parse_args(arguments)
    options.parts = parse_names(parser, "--parts", options.parts, PARTS)
    options.data = parse_names(parser, "--data", options.data, DATA_SETS)
    options.text_batches = [int(text) for text in options.text_batches.split(",")]
    if min(options.steps, options.rounds) < 1 or min(options.batch, options.etcl_batch) < 2:
        parser.error("--steps and --rounds must be at least 1, batches at least 2")
    return options


def run_peer(options):
    """Runs the part "peer"; returns {data set: result of `measure_peer`}."""
    from benchmarks.embedding import random_sentences, read_sentences
    from tf_mural.data.tokenizers import train_vocabulary

    count = options.sentences
    sentences = read_sentences(options.tatoeba) if options.tatoeba else random_sentences(count)
    random.Random(0).shuffle(sentences)
    sentences = sentences[:count]
    pieces, results = train_vocabulary(sentences, options.vocabulary), {}
    settings = {name: getattr(options, name) for name in ("bert", "tokens", "batch", "threads")}
    for name in options.data:
        with tempfile.TemporaryDirectory() as folder:
            write_data(folder, make_texts(name, sentences, options.tokens), pieces)
            results[name] = measure_peer(
                folder, settings, options.steps, options.rounds, options.peer_python
            )
    return results


def main(arguments=None):
    """Runs the benchmark. `arguments` is a list of flags; None means the command line."""
    options, info, results = parse(arguments), machine_info(), {}
    if "etcl" in options.parts:
        case = dataclasses.replace(
            CASES[options.case], batch=options.etcl_batch, tokens=options.tokens
        )
        result = measure_etcl(case, options.text_batches, options.rounds)
        results["etcl"] = {options.case: result}
        append_load(info)
    if "peer" in options.parts:
        results["peer"] = run_peer(options)
        append_load(info)
    report(info, table(results), options.json, **results)


if __name__ == "__main__":
    main()
