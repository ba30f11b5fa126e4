"""The command inspect_data, and the records that it draws for its web pages."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from helpers.images import encode, plain_image
from PIL import Image

from tf_mural.cli import inspect_data
from tf_mural.data import records, tokenizers
from tf_mural.data.records import Record, RecordSet
from tf_mural.errors import UserError
from tf_mural.reports import sample_records

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cir", "##cle", "##s"]


def image(width=4, height=4, image_format="PNG", color="black"):
    return plain_image(color, image_format, size=(width, height))


@pytest.fixture
def shapes(tmp_path):
    """Writes two splits and a vocabulary; one image and one text are in both splits."""
    first, second, third = (image(8 * (i + 1), 8, color=(i, 0, 0)) for i in range(3))
    folder = tmp_path / "shapes"
    train = [
        Record("1", (first,), (("en", "a red circle"), ("en", "a circle"))),
        Record("2", (second, third), (("en", "a red circle"), ("de", "rot"))),
    ]
    test = [Record("3", (third,), (("de", "rot"),)), Record("4", (image(8, 8, "JPEG"),))]
    records.write(folder / "train", train, "shapes", "train")
    records.write(folder / "test", test, "shapes", "test")
    tokenizers.save_vocabulary(folder / "vocab.txt", PIECES)
    return folder


@pytest.fixture
def inspect(tmp_path, monkeypatch, capsys):
    """Returns a function that runs the command in `tmp_path` and returns its output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        inspect_data.main(arguments)
        return capsys.readouterr().out

    return run


def lines_of(text):
    """Returns the lines of a text with single spaces."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_all_splits_of_a_folder_are_inspected(tools, shapes, tmp_path):
    arguments = (f"--records={shapes}", "--out_dir=seen", "--max_tokens=5")
    done = tools.run(tmp_path, "inspect_data.py", *arguments)
    assert done.code == 0 and done.err == "", done.err
    lines = lines_of(done.out)
    assert f"{shapes}/train (shapes, train): 2 records, 3 images, 4 texts" in lines
    assert "en 2 3 3 8 12 12 12 2 3 3 3" in lines
    # "a red circle" has 4 tokens, 3 words and 10 letters; "a circle" has 3 tokens, 2 words and 7
    # letters. --max_tokens=5 leaves room for 3 tokens of a text.
    assert "en 3 4 4 4 1.38 0.41 0.00 66.67" in lines
    assert "de 1 1 1 1 1.00 0.33 100.00 0.00" in lines
    assert "width px 8 8 8 16 24 24 24 16" in lines
    assert "formats: PNG RGB 3" in lines and "images per record: 1 to 2, mean 1.50" in lines
    assert "texts 3 2 100.00" in lines, "both records of train have the same text"
    assert "shapes-train shapes-test 1 1" in lines and "shapes-test shapes-train 1 1" in lines
    content = json.loads((tmp_path / "seen" / "inspection.json").read_text(encoding="utf-8"))
    assert list(content["sets"]) == ["shapes-test", "shapes-train"]
    english = content["sets"]["shapes-train"]["languages"]["en"]
    assert english["characters"]["median"] == 12 and english["cut_percent"] == 66.666667
    assert content["shared"][0]["images"] == 1
    kinds = ("languages", "lengths", "tokens", "images")
    names = [f"shapes-{split}-{kind}.png" for split in ("train", "test") for kind in kinds]
    pages = [f"shapes-{split}-sheet.html" for split in ("train", "test")]
    assert sorted(os.listdir(tmp_path / "seen")) == sorted(["inspection.json", *names, *pages])
    for name in names:
        with Image.open(tmp_path / "seen" / name) as chart:
            assert chart.format == "PNG" and np.asarray(chart.convert("L")).min() < 200, name
    page = (tmp_path / "seen" / pages[0]).read_text(encoding="utf-8")
    assert page.count("<figure>") == 2 and page.count('src="data:image/png;base64,') == 2
    # Both records have the text "a red circle" with 4 tokens, of which --max_tokens=5 cuts one.
    assert page.count("(cut: 4 tokens)") == 2


def test_without_an_output_folder_nothing_is_written(inspect, shapes, tmp_path):
    before = sorted(os.listdir(tmp_path))
    lines = lines_of(inspect(f"--records={shapes}/train", "--vocab="))
    assert "tokens: not counted without a vocabulary" in lines
    assert not any(line.startswith("records of") for line in lines), "there is only one set"
    assert sorted(os.listdir(tmp_path)) == before


def test_a_vocabulary_and_a_set_in_the_data_folder_can_be_named(inspect, shapes, tmp_path):
    tokenizers.save_vocabulary(tmp_path / "other.txt", [*PIECES, "circle"])
    out = inspect("--records=shapes/train", f"--data_dir={tmp_path}", "--vocab=other.txt")
    assert "en 2 3 3 3 1.00 0.30 0.00 0.00" in lines_of(out)


def test_sets_without_texts_or_images_and_with_labels_or_scores_are_inspected(inspect, tmp_path):
    photos = [Record(str(i), (image(),), label=int(i > 0)) for i in range(4)]
    pairs = [Record(str(i), (), (("en", "a"), ("en", "b")), score=i / 2) for i in range(5)]
    records.write(tmp_path / "data" / "photos", photos, "photos", "val")
    records.write(tmp_path / "data" / "pairs", pairs, "pairs", "test")
    records.write(tmp_path / "data" / "none", [], "none", "train")
    lines = lines_of(inspect("--records=data", "--out_dir=seen"))
    assert "It has no images." in lines and lines.count("It has no texts.") == 2
    assert "2 classes, 4 labelled records" in lines
    assert "smallest 0 - 1" in lines and "largest 1 - 3" in lines
    assert "min 0.00, mean 1.00, median 1.00, max 2.00" in lines
    assert any(line.startswith("0.00 to 0.10 1 ####") for line in lines)
    written = set(os.listdir(tmp_path / "seen"))
    assert written == {
        "inspection.json",
        *(f"data-pairs-{kind}.png" for kind in ("languages", "lengths", "scores")),
        *(f"data-photos-{kind}.png" for kind in ("images", "labels")),
        "data-photos-sheet.html",
    }


def test_the_size_of_a_sample_is_printed(inspect, shapes):
    lines = lines_of(inspect(f"--records={shapes}/train", "--limit=1", "--vocab="))
    assert (
        "records, images and texts of a language: of the whole set; "
        "other numbers: of 1 records drawn at random"
    ) in lines
    assert any(line.startswith("en 2 3 3 ") for line in lines)


_INTERRUPTED_COMMAND = """
import sys
sys.path.insert(0, {root!r})
from tf_mural import cli
from tf_mural.reports import dataset_stats
dataset_stats._MAX_BATCH = 2
calls, add = [], dataset_stats.DatasetStats.add
def interrupt(self, indices):
    calls.append(1)
    if len(calls) > {num_batches}:
        raise KeyboardInterrupt
    add(self, indices)
dataset_stats.DatasetStats.add = interrupt
cli.run("tf_mural.cli.inspect_data")
"""


@pytest.mark.parametrize("num_batches", [0, 2])
def test_an_interruption_prints_the_statistics_so_far(tmp_path, num_batches):
    set_records = [Record(str(i), (image(),), (("en", f"text {i}"),)) for i in range(9)]
    records.write(tmp_path / "a", set_records)
    code = _INTERRUPTED_COMMAND.format(root=ROOT, num_batches=num_batches)
    command = [sys.executable, "-c", code, "--records=a", "--out_dir=seen"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    if num_batches == 0:
        assert done.stdout == "" and os.listdir(tmp_path / "seen") == []
        return
    assert "of the first 4 records" in done.stdout
    content = json.loads((tmp_path / "seen" / "inspection.json").read_text())
    (stats,) = content["sets"].values()
    assert (stats["sampled_records"], stats["records"], stats["sample"]) == (4, 9, "first")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "name the records"),
        (("--records=nowhere",), "no folder 'nowhere'"),
        (("--records=empty",), "no record set in empty: manifest.json is missing"),
        (("--records=shapes/train,empty",), "no record set in empty"),
        (("--records=shapes", "--languages=fr"), "unknown language 'fr'; known: de, en"),
        (("--records=shapes", "--out_dir=file"), "--out_dir file: File exists"),
        (("--records=shapes", "--vocab=none.txt"), "vocabulary none.txt: No such file"),
        (("--records=shapes", "--limit=-1"), "limit"),
    ],
)
def test_invalid_arguments_are_rejected(shapes, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        inspect_data.main(arguments)
    assert message in str(error.value)


# --- records of a web page ------------------------------------------------------------------------


def write_set(folder, *set_records):
    records.write(folder, set_records)
    return RecordSet.open(folder)


def captions_of(samples):
    return [[(caption.language, caption.text) for caption in x.captions] for x in samples]


def pixels_of(sample):
    with Image.open(io.BytesIO(sample.image)) as decoded:
        return np.asarray(decoded)


def test_captions_alternate_between_the_languages(tmp_path):
    texts = tuple((code, f"{code} {n}") for code in ("cs", "de", "en", "fr") for n in (1, 2))
    record_set = write_set(tmp_path / "a", *(Record(str(i), (image(),), texts) for i in range(3)))
    samples = sample_records(record_set, 3, captions=2)
    assert captions_of(samples) == [
        [("cs", "cs 1"), ("de", "de 1")],
        [("en", "en 1"), ("fr", "fr 1")],
        [("cs", "cs 1"), ("de", "de 1")],
    ]
    assert samples[0].omitted == {"cs": 1, "de": 1, "en": 2, "fr": 2}
    samples = sample_records(record_set, 1, captions=3, languages=["fr", "de"])
    assert captions_of(samples) == [[("de", "de 1"), ("de", "de 2"), ("fr", "fr 1")]]


def test_each_language_of_an_image_is_shown_before_a_second_caption(tmp_path):
    english, both = (("en", "one"),), (("de", "eins"), ("de", "zwei"), ("en", "one"))
    record_set = write_set(tmp_path / "a", *(Record("", (image(),), t) for t in (english, both)))
    draws = {s: np.random.default_rng(s).choice(2, 2, replace=False)[0] for s in range(20)}
    seed = next(s for s, first in draws.items() if first == 0)  # record 0 has only English
    samples = sample_records(record_set, 2, captions=2, seed=seed)
    assert captions_of(samples) == [[("en", "one")], [("de", "eins"), ("en", "one")]]


def test_records_are_drawn_at_random_and_their_images_are_reduced(tmp_path):
    wide = image(1024, 512, "JPEG")
    set_records = [Record(str(i), (image(color=(i, 0, 0)),), label=i) for i in range(50)]
    record_set = write_set(tmp_path / "a", *set_records)
    draws = [[x.index for x in sample_records(record_set, 5, seed=s)] for s in (1, 2)]
    assert draws[0] != draws[1] and len(set(draws[0])) == 5
    samples = sample_records(record_set, 5, seed=1)
    assert [pixels_of(x)[0, 0, 0] for x in samples] == draws[0], "an image belongs to its record"
    assert [x.id for x in samples] == [str(index) for index in draws[0]]
    assert samples[0].label == f"{draws[0][0]} (no name)"
    (sample,) = sample_records(write_set(tmp_path / "b", Record("1", (wide, wide))), 5)
    assert pixels_of(sample).shape == (128, 256, 3) and sample.size == (1024, 512)
    assert sample.num_images == 2


def test_transparent_parts_become_white_and_undecodable_images_are_kept(tmp_path):
    transparent = encode(Image.new("RGBA", (4, 4), (200, 0, 0, 0)))
    truncated = image(64, 32, color="red")[:60]
    set_records = [
        Record("1", (b"no image",), (("en", "a"),)),
        Record("2", (transparent,)),
        Record("3", (), (("en", "a"),)),
        Record("4", (truncated,)),
    ]
    samples = {x.id: x for x in sample_records(write_set(tmp_path / "a", *set_records), 4)}
    assert samples.keys() == {"1", "2", "4"}, "record 3 has no image"
    assert (samples["1"].image, samples["1"].size) == (None, None)
    assert (samples["4"].image, samples["4"].size) == (None, (64, 32))
    assert (pixels_of(samples["2"]) == 255).all()


def test_records_have_the_name_of_their_label(tmp_path):
    record_set = write_set(tmp_path / "a", Record("1", (image(),), label=1))
    record_set.manifest["classes"] = ["cat", "dog"]
    (sample,) = sample_records(record_set, 1)
    assert (sample.label, sample.captions) == ("1 (dog)", [])


def test_texts_with_more_tokens_than_a_model_reads_are_marked(tmp_path):
    tokenizers.save_vocabulary(tmp_path / "vocab.txt", PIECES)
    tokenizer = tokenizers.Tokenizer(str(tmp_path / "vocab.txt"), 5)
    texts = (("en", "a red circle"), ("en", "a circle"))
    record_set = write_set(tmp_path / "a", Record("1", (image(),), texts))
    (sample,) = sample_records(record_set, 1, tokenizer=tokenizer)
    assert [(x.num_tokens, x.is_cut) for x in sample.captions] == [(4, True), (3, False)]
    (sample,) = sample_records(record_set, 1)
    assert [(x.num_tokens, x.is_cut) for x in sample.captions] == [(None, False)] * 2
