"""Hard negatives: selection against a reference in float64, resuming, sampling, the command."""

import json
import os
import re

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from helpers import pipeline

from tf_mural import search
from tf_mural.cli import mine_negatives as command
from tf_mural.cli.error_lines import with_flags
from tf_mural.data import mined_negatives, records
from tf_mural.data.negative_sampler import NegativeSampler
from tf_mural.data.records import Record, RecordSet
from tf_mural.data.sampling import IndexSampler
from tf_mural.errors import UserError
from tf_mural.evaluation.batch_embedder import BadImage
from tf_mural.search import MiningOptions, hard_negatives, mining

MODEL = {"name": "runs/a", "fingerprint": "0123"}
WIDTH = 6


def row(item):
    data = item.encode() if isinstance(item, str) else item
    values = np.random.default_rng(list(data)).normal(size=WIDTH)
    return values / np.linalg.norm(values)


def embed(items):
    """Embeds each item as a random row of its own; b"bad" is no image."""
    rows = []
    for position, item in enumerate(items):
        if item == b"bad":
            raise BadImage(position, "not an image")
        rows.append(row(item))
    return np.array(rows, np.float32).reshape(-1, WIDTH)


EMBED = {"images": embed, "texts": embed}


def make_record(i, name=""):
    """Returns a record with 0 to 2 images and 1 to 3 texts, some of which other records share."""
    images = tuple(b"%s%d %d" % (name.encode(), i, j) for j in range(i % 3))
    images += (b"shared",) * (i % 11 == 0) + (b"bad",) * (i % 7 == 3)
    texts = (("en", f"{name}en {i}"), ("de", f"de {i}"), ("en", f"en again {i}"))[: 1 + i % 3]
    return Record(f"{name}{i}", images, (*texts, *((("de", "both"),) * (i % 9 == 0))))


def write(folder, count=53, name=""):
    records.write(folder, [make_record(i, name) for i in range(count)], shards=2)
    return RecordSet.open(folder)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A record set that is mined in many small parts."""
    monkeypatch.setattr(mining, "_RECORDS_PER_PART", 7)
    monkeypatch.setattr(hard_negatives, "_ANCHOR_ROWS", 5)
    monkeypatch.setattr(hard_negatives, "_CANDIDATE_ROWS", 9)
    return write(tmp_path / "source")


def mine(source, folder, options, **arguments):
    """Returns (negatives, scores, manifest) of a `MiningOptions` or of a dict of its arguments."""
    if isinstance(options, dict):
        options = MiningOptions(**options)
    manifest = search.mine(
        source,
        str(folder),
        arguments.pop("embed", EMBED),
        MODEL,
        options,
        print_fn=str,
        **arguments,
    )
    negatives = mined_negatives.read_negatives(str(folder), manifest)
    return negatives, np.load(folder / "scores.npy"), manifest


def items(record, part, languages):
    if part == "images":
        return [image for image in record.images if image != b"bad"]
    return [text for code, text in record.texts if languages is None or code in languages]


def reference(source, candidates, options):
    """Returns [[(score, record)]] of all negatives of each record, computed in loops in float64."""
    result = []
    parts = lambda record, part: [row(x) for x in items(record, part, options.languages)]  # noqa: E731
    for record in source:
        anchors, own = parts(record, options.anchors), parts(record, options.negatives)
        same = options.anchors == options.negatives
        positives = [
            a @ b for i, a in enumerate(anchors) for j, b in enumerate(own) if not same or i != j
        ]
        ranked = []
        for number, other in enumerate(candidates):
            shared = {*record.images} & {*other.images} or (
                {t for _, t in record.texts} & {t for _, t in other.texts}
            )
            scores = [a @ b for a in anchors for b in parts(other, options.negatives)]
            if scores and not shared:
                ranked.append((max(scores), number))
        # Equal texts of several candidates have equal scores.
        ranked = sorted(ranked, key=lambda pair: (-pair[0], pair[1]))
        ranked = ranked[options.range_min : options.depth]
        if positives and options.relative_margin is not None:
            limit = min(positives) - options.relative_margin * abs(min(positives))
            ranked = [pair for pair in ranked if pair[0] <= limit]
        if positives and options.absolute_margin is not None:
            ranked = [p for p in ranked if p[0] <= min(positives) - options.absolute_margin]
        if options.max_score is not None:
            ranked = [pair for pair in ranked if pair[0] <= options.max_score]
        if options.min_score is not None:
            ranked = [pair for pair in ranked if pair[0] >= options.min_score]
        result.append(ranked)
    return result


CASES = {
    "defaults": dict(anchors="images", negatives="texts"),
    "images": dict(anchors="images", negatives="images", num_negatives=2, max_score=0.5),
    "margin": dict(anchors="texts", negatives="images", relative_margin=0.1, num_negatives=4),
    "absolute": dict(
        anchors="texts", negatives="texts", absolute_margin=0.2, range_max=30, languages=("en",)
    ),
    "range": dict(anchors="texts", negatives="texts", range_min=3, range_max=12, min_score=0.3),
    "few": dict(anchors="images", negatives="images", num_negatives=60),
}


@pytest.mark.parametrize("name", CASES)
def test_the_negatives_are_those_of_loops_in_float64(source, tmp_path, name):
    options = MiningOptions(**CASES[name])
    negatives, scores, manifest = mine(source, tmp_path / "out", options)
    expected = [pairs[: options.num_negatives] for pairs in reference(source, source, options)]
    assert [[n for n in line if n >= 0] for line in negatives.tolist()] == [
        [number for _, number in pairs] for pairs in expected
    ]
    for line, pairs in zip(scores, expected, strict=True):
        np.testing.assert_allclose(line[: len(pairs)], [s for s, _ in pairs], atol=1e-6)
        assert np.isneginf(line[len(pairs) :]).all()
    assert manifest["negatives"] == sum(map(len, expected)) > 0
    assert manifest["records_without_negatives"] == sum(not pairs for pairs in expected)
    assert not [p for p in os.listdir(tmp_path) if "unfinished" in p]


def test_random_negatives_come_from_the_range_and_depend_on_the_seed(source, tmp_path):
    options = dict(anchors="texts", negatives="texts", range_min=2, range_max=20)
    results = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        random = MiningOptions(**options, sampling="random", seed=seed)
        results.append(mine(source, tmp_path / name, random)[:2])
    allowed = reference(source, source, MiningOptions(**options))
    (first, scores), (again, _), (other, _) = results
    for line, pairs in zip(first, allowed, strict=True):
        assert set(line.tolist()) <= {number for _, number in pairs} and len(set(line)) == 3
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_negatives_come_from_other_candidates(source, tmp_path):
    candidates = write(tmp_path / "candidates", 31, "other ")
    options = MiningOptions("images", "texts", relative_margin=0.05)
    negatives, _, manifest = mine(source, tmp_path / "out", options, candidates=candidates)
    expected = [pairs[:3] for pairs in reference(source, candidates, options)]
    assert [[n for n in line if n >= 0] for line in negatives.tolist()] == [
        [number for _, number in pairs] for pairs in expected
    ]
    assert manifest["candidates"]["digest"] == candidates.digest != source.digest


def make_index(folder, record_set, embed_images, width=WIDTH):
    source = search.RecordsSource(record_set.folder)
    search.make_index(str(folder), source, embed_images, "0123", "runs/a", width, print_fn=str)
    return search.Index(str(folder))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_an_index_replaces_the_embeddings_of_images(source, tmp_path):
    plain = [Record(str(i), (b"%d" % i,), (("en", f"t {i}"),)) for i in range(20)]
    records.write(tmp_path / "plain", plain)
    source = RecordSet.open(tmp_path / "plain")
    index = make_index(tmp_path / "index", source, embed)
    options = MiningOptions("texts", "images")
    expected, _, _ = mine(source, tmp_path / "a", options)
    only_texts = {"texts": embed, "images": None}
    actual, _, _ = mine(source, tmp_path / "b", options, embed=only_texts, index=index)
    np.testing.assert_array_equal(actual, expected)
    with pytest.raises(UserError, match="is an index of .*plain, but the candidates are the rec"):
        mine(write(tmp_path / "others"), tmp_path / "c", options, index=index)
    unused = "index has embeddings of images, but no images of .*plain are compared"
    with pytest.raises(UserError, match=unused):
        mine(source, tmp_path / "c", MiningOptions("texts", "texts"), index=index)
    others, options = write(tmp_path / "more"), MiningOptions("images", "texts")
    with pytest.raises(UserError, match=unused):
        mine(others, tmp_path / "c", options, candidates=source, index=index)


def test_negatives_of_an_index_of_another_size_are_other_negatives(tmp_path):
    plain = [Record(str(i), (b"%d" % i,), (("en", f"t {i}"),)) for i in range(20)]
    records.write(tmp_path / "plain", plain)
    source = RecordSet.open(tmp_path / "plain")
    for width in (4, WIDTH):
        folder = tmp_path / str(width)
        index = make_index(
            folder, source, lambda images, w=width: unit(embed(images)[:, :w]), width
        )
        parts = {"texts": lambda texts, w=width: unit(embed(texts)[:, :w])}
        options, arguments = MiningOptions("texts", "images"), dict(index=index, embed=parts)
        mine(source, tmp_path / f"out {width}", options, **arguments)
    with pytest.raises(UserError, match="other negatives .index_width was 4, is now 6.: choose"):
        mine(source, tmp_path / "out 4", options, **arguments)


def test_a_stopped_run_continues_and_a_finished_one_is_kept(source, tmp_path):
    options = MiningOptions("texts", "texts")
    expected, _, _ = mine(source, tmp_path / "expected", options)
    calls = []

    def stopping(texts):
        calls.append(len(texts))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return embed(texts)

    with pytest.raises(KeyboardInterrupt):
        mine(source, tmp_path / "out", options, embed={"texts": stopping})
    assert not (tmp_path / "out").exists()
    actual, _, _ = mine(source, tmp_path / "out", options, embed={"texts": stopping})
    np.testing.assert_array_equal(actual, expected)
    assert len(calls) == 1 + -(-len(source) // 7)  # each part is embedded once
    again, _, _ = mine(source, tmp_path / "out", options, embed={})
    np.testing.assert_array_equal(again, expected)
    other = MiningOptions("texts", "texts", num_negatives=2)
    with pytest.raises(UserError, match="other negatives .num_negatives was 3, is now 2.: choose"):
        mine(source, tmp_path / "out", other, embed={})
    os.remove(tmp_path / "out" / "manifest.json")  # stopped while the folder was written
    (tmp_path / "out" / "scores.npy.5e7.tmp").touch()
    replaced, _, _ = mine(source, tmp_path / "out", other)
    np.testing.assert_array_equal(replaced, expected[:, :2])
    replaced, _, _ = mine(source, tmp_path / "out", options, overwrite=True)
    np.testing.assert_array_equal(replaced, expected)
    replaced, _, _ = mine(source, tmp_path / "out", other, overwrite=True)
    np.testing.assert_array_equal(replaced, expected[:, :2])


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(anchors="image"), "unknown value of `anchors` 'image'; .* 'images'"),
        (dict(num_negatives=0), "num_negatives is 0 and range_min is 0: expected numbers from 1"),
        (dict(range_min=5, range_max=7), "leave fewer than num_negatives=3 .*to at least 8"),
        (dict(min_score=0.5, max_score=0.2), "min_score=0.5 is larger than max_score=0.2"),
        (dict(sampling="rand"), "unknown value of `sampling` 'rand'"),
        (dict(languages=()), "`languages` is empty: expected codes of languages"),
        (
            dict(negatives="images", languages=("en",)),
            "selects texts, but only images are compared",
        ),
    ],
)
def test_wrong_options_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        MiningOptions(**{"anchors": "images", "negatives": "texts", **values})


def test_what_cannot_be_mined_is_refused(tmp_path):
    records.write(tmp_path / "texts", [Record("a", texts=(("en", "x"),))])
    source = RecordSet.open(tmp_path / "texts")
    with pytest.raises(UserError, match="texts has no images"):
        mine(source, tmp_path / "out", MiningOptions("images", "texts"))
    with pytest.raises(UserError, match="has no texts in 'fr'; it has texts in en"):
        mine(source, tmp_path / "out", MiningOptions("texts", "texts", languages=("fr",)))
    with pytest.raises(UserError, match="has two texts to compare: a margin needs positives, so"):
        mine(source, tmp_path / "out", MiningOptions("texts", "texts", relative_margin=0.1))
    records.write(tmp_path / "apart", [Record("a", texts=(("en", "x"),)), Record("b", (b"y",))])
    with pytest.raises(UserError, match="has both an image and a text to compare"):
        options = MiningOptions("texts", "images", relative_margin=0.1)
        mine(RecordSet.open(tmp_path / "apart"), tmp_path / "out", options)
    with pytest.raises(UserError, match="gs://b/out is not a folder of this machine"):
        search.mine(source, "gs://b/out", EMBED, MODEL, MiningOptions("texts", "texts"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(UserError, match="other contains other files: choose another folder"):
        mine(source, tmp_path / "other", MiningOptions("texts", "texts"))


# --- sampling -------------------------------------------------------------------------------------


@pytest.fixture
def colors(tmp_path):
    """A record set of `helpers.pipeline`, of which every third record has no English text."""
    made = [pipeline.make_record(i) for i in range(pipeline.NUM_RECORDS)]
    made = [
        Record(r.id, r.images, tuple(t for t in r.texts if i % 3 or t[0] != "en"))
        for i, r in enumerate(made)
    ]
    records.write(tmp_path / "colors", made)
    return RecordSet.open(tmp_path / "colors")


def test_each_draw_takes_a_negative_of_its_record_in_its_language(colors, tmp_path):
    negatives, _, _ = mine(colors, tmp_path / "out", MiningOptions("images", "texts"))
    negatives[4, 1:], negatives[5] = -1, -1  # one negative, and none
    np.save(tmp_path / "out" / "negatives.npy", negatives)
    base = IndexSampler([colors], 1, ("en", "de"), seed=3, name="base")
    sampler = NegativeSampler(base, [str(tmp_path / "out")], 1, seed=3)
    draws = np.arange(2000)
    set_index, unit = (x.numpy() for x in sampler.sample(tf.constant(draws)))
    record, language, _ = base.resolve(draws, set_index, unit)
    negative, own, _ = sampler.resolve(draws, set_index, unit)
    drawn = {}
    for r, n, wanted, code in zip(record, negative, language[:, 0], own[:, 0], strict=True):
        drawn.setdefault(int(r), set()).add(int(n))
        has_english = n % 3 != 0
        assert base.languages[code] == (base.languages[wanted] if has_english else "de")
    assert drawn[4] == {negatives[4, 0]}
    assert len(drawn.pop(5)) > 15  # random records
    assert all(drawn[r] == {n for n in negatives[r].tolist() if n >= 0} for r in drawn)
    again = sampler.resolve(draws[7:9], set_index[7:9], unit[7:9])
    np.testing.assert_array_equal(again[0], negative[7:9])  # a function of the number of the draw


def test_mined_negatives_of_other_records_are_refused(colors, source, tmp_path):
    mine(colors, tmp_path / "out", MiningOptions("images", "texts"))
    folder = str(tmp_path / "out")
    base = IndexSampler([source], 1, seed=3)
    with pytest.raises(UserError, match="source of the source 'stream' has no mined negatives in"):
        NegativeSampler(base, [folder], 1)
    with pytest.raises(UserError, match="has no mined negatives: tools/mine_negatives.py writes"):
        NegativeSampler(base, [source.folder + "x"], 1)
    np.save(tmp_path / "out" / "negatives.npy", np.full((20, 3), 20))
    with pytest.raises(UserError, match="negatives.npy is damaged: expected numbers below 20"):
        NegativeSampler(IndexSampler([colors], 1), [folder], 1)
    candidates = write(tmp_path / "candidates", 9)
    mine(colors, tmp_path / "two", MiningOptions("images", "texts"), candidates=candidates)
    write(tmp_path / "candidates", 8)
    with pytest.raises(UserError, match="has changed .* since the negatives in .*two were mined"):
        NegativeSampler(IndexSampler([colors], 1), [str(tmp_path / "two")], 1)


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "--records is missing"),
        (("--records=x/train,y/train",), "two of the record sets have the name 'train'"),
        (("--records=x", "--range_max=2"), "set --range_max to at least 3"),
        (("--records=nowhere",), "no record set in nowhere"),
    ],
)
def test_wrong_flags_are_refused(source, tmp_path, flags, message, monkeypatch):
    for name in ("x/train", "y/train"):
        write(tmp_path / name, 2)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        command.main(["--model=m", "--out_dir=out", *flags])
    assert message in with_flags(str(error.value))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_trains_with_mined_negatives(tools, finished, data_dir, tmp_path):
    flags = (f"--model={finished[0]}", f"--records={data_dir}/scenes/train", "--out_dir=mined")
    done = tools.run(tmp_path, "mine_negatives.py", *flags, "--languages=en", "--range_min=1")
    assert done.code == 0, done.err
    assert "mined/train: 288 negatives (texts) of 96 records (images), mean similarity" in done.out
    (tmp_path / "config.py").write_text(
        f"import sys\nsys.path.insert(0, {ROOT + '/tests'!r})\n"
        "import small_config\nfrom configs import base\n"
        "def get_config(stage):\n"
        "    config = small_config.get_config(stage)\n"
        f"    base.add_negatives(config, 'image_caption', {str(tmp_path / 'mined/train')!r})\n"
        "    return config\n"
    )
    train = ("--stage=mural", f"--data_dir={data_dir}", "--strategy=one", "--workdir=run")
    done = tools.run(tmp_path, "train.py", f"--config={tmp_path}/config.py", *train)
    assert done.code == 0, done.err
    assert re.search(r"^step 4/4 .*image_caption [\d.]+", done.out, re.M), done.out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["evaluation"]["retrieval"]["values"]["en"]
    # Other negatives are other data: the run does not go on with them.
    done = tools.run(tmp_path, "mine_negatives.py", *flags, "--languages=en", "--range_min=2")
    assert done.code == 2 and "range_min was 1, is now 2" in done.err and "--overwrite" in done.err
