"""Broken records as tools/train.py meets them: counted, or one message that says what to do."""

import json
import os
import re
import shutil

import pytest
from conftest import SMALL_RUN

from tf_mural.data import records

ARGUMENTS = (
    "--stage=align",
    *SMALL_RUN[1:],
    "--config.steps=2",
    "--config.optimizer.warmup_steps=1",
    "--config.evaluate_every=0",
    "--config.evaluation.retrieval.languages=en",
    "--config.sources.captions.records=broken/train",
    "--workdir=run",
)


@pytest.fixture
def broken(data_dir, tmp_path):
    """Function that writes the small scenes to data/broken, some of their images cut short."""

    def write(bad):
        found = records.RecordSet.open(data_dir / "scenes" / "train")
        rows = []
        for i, record in enumerate(found):
            images = tuple(image[:50] for image in record.images) if i in bad else record.images
            rows.append(records.Record(record.id, images, record.texts))
        folder = tmp_path / "data" / "broken" / "train"
        records.write(folder, rows, shards=2)
        shutil.copytree(data_dir / "scenes", tmp_path / "data" / "scenes")
        return folder

    return write


def test_images_that_do_not_decode_are_skipped_counted_and_named(train, broken, tmp_path):
    broken(range(0, 96, 3))
    done = train(*ARGUMENTS, f"--data_dir={tmp_path / 'data'}", "--config.max_bad_records=1.0")
    assert done.code == 0, done.err
    assert re.search(
        r"^step 2/2 .* (\d+) records skipped \(broken/train/records-0000\d-of-00002 \d+.*\)$",
        done.out,
        re.MULTILINE,
    )
    skipped = json.loads((tmp_path / "run" / "results.json").read_text())["skipped_records"]
    assert sum(sum(reasons.values()) for reasons in skipped.values()) > 1
    assert {why for reasons in skipped.values() for why in reasons} == {"its image does not decode"}
    assert all(re.search(r"records-0000[01]-of-00002.tfrecord: record \d+ ", k) for k in skipped)
    assert os.path.exists(tmp_path / "run" / "training_images.png")


def test_too_many_of_them_stop_the_run(train, broken, tmp_path):
    broken(range(0, 96, 3))
    done = train(*ARGUMENTS, f"--data_dir={tmp_path / 'data'}", "--config.max_bad_records=0")
    message = done.error()
    assert re.match(
        r"\d+ of the \d+ records drawn so far cannot be used, above the limit of", message
    )
    assert "broken/train/records-0000" in message and "--config.max_bad_records" in message


def test_no_image_that_decodes(train, broken, tmp_path):
    broken(range(96))
    message = train(*ARGUMENTS, f"--data_dir={tmp_path / 'data'}").error()
    assert re.match(
        r"8 records in a row cannot be used, the last one .*broken/train/.*its image", message
    )


@pytest.mark.parametrize("size", [0, 1000])
def test_a_shard_that_is_empty_or_cut_short(train, broken, tmp_path, size):
    shard = broken(()) / "records-00001-of-00002.tfrecord"
    whole = os.path.getsize(shard)
    os.truncate(shard, size)
    message = train(*ARGUMENTS, f"--data_dir={tmp_path / 'data'}").error()
    assert f"{shard}: expected {whole} bytes, found {size}; it is cut short" in message
    assert "convert again" in message


def test_records_that_another_program_wrote_over(train, broken, tmp_path):
    folder = broken(())
    for shard in folder.glob("*.tfrecord"):
        shard.write_bytes(b"\xff" * os.path.getsize(shard))
    message = train(*ARGUMENTS, f"--data_dir={tmp_path / 'data'}").error()
    assert re.match(rf"8 records in a row cannot be used, the last one {folder}/.* fit;", message)


def test_weights_of_a_model_of_another_shape(train, finished):
    workdir, _ = finished
    wider = "--config.model.embedding_dim=32"
    message = train(*ARGUMENTS[:-2], wider, "--workdir=other", f"--init={workdir}").error()
    assert re.search(r"text_projection/kernel.*96, 128.*96, 32", message), message
