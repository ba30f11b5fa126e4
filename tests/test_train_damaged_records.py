"""Training with damaged records: the run skips and counts them, or stops with a message."""

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
    "--config.evaluate_every=none",
    "--config.evaluation.retrieval.languages=en",
    "--config.sources.captions.records=broken/train",
    "--workdir=run",
)


@pytest.fixture
def write_broken(data_dir, tmp_path):
    """Returns a function that copies the small scenes to data/broken and truncates some images."""

    def write(truncated):
        damaged = []
        for i, record in enumerate(records.RecordSet.open(data_dir / "scenes" / "train")):
            images = record.images
            if i in truncated:
                images = tuple(image[:50] for image in images)
            damaged.append(records.Record(record.id, images, record.texts))
        folder = tmp_path / "data" / "broken" / "train"
        records.write(folder, damaged, shards=2)
        shutil.copytree(data_dir / "scenes", tmp_path / "data" / "scenes")
        return folder

    return write


def test_images_that_do_not_decode_are_skipped_counted_and_named(train, write_broken, tmp_path):
    write_broken(range(0, 96, 3))
    done = train(*ARGUMENTS, f"--data_dir={tmp_path / 'data'}", "--config.max_bad_records=1.0")
    assert done.code == 0, done.err
    assert re.search(
        r"^step 2/2 .* (\d+) records skipped \(broken/train/records-0000\d-of-00002 \d+.*\)$",
        done.out,
        re.MULTILINE,
    )
    skipped = json.loads((tmp_path / "run" / "results.json").read_text())["skipped_records"]
    assert sum(sum(reasons.values()) for reasons in skipped.values()) > 1
    names = {reason for reasons in skipped.values() for reason in reasons}
    assert names == {"the image does not decode"}
    assert all(re.search(r"records-0000[01]-of-00002.tfrecord: record \d+ ", k) for k in skipped)
    assert os.path.exists(tmp_path / "run" / "training_images.png")


@pytest.mark.slow
def test_too_many_damaged_records_stop_the_run(train, write_broken, tmp_path):
    write_broken(range(0, 96, 3))
    done = train(*ARGUMENTS, f"--data_dir={tmp_path / 'data'}", "--config.max_bad_records=0")
    message = done.error()
    assert re.match(
        r"\d+ of the \d+ records drawn so far cannot be used, above the limit of", message
    )
    assert "broken/train/records-0000" in message and "--config.max_bad_records" in message


@pytest.mark.slow
def test_a_set_without_valid_images_stops_the_run(train, write_broken, tmp_path):
    write_broken(range(96))
    message = train(*ARGUMENTS, f"--data_dir={tmp_path / 'data'}").error()
    assert re.match(
        r"8 records in a row cannot be used, the last one .*broken/train/.*the image", message
    )


@pytest.mark.parametrize("size", [0, 1000])
def test_a_truncated_shard_is_refused(train, write_broken, tmp_path, size):
    shard = write_broken(()) / "records-00001-of-00002.tfrecord"
    full_size = os.path.getsize(shard)
    os.truncate(shard, size)
    message = train(*ARGUMENTS, f"--data_dir={tmp_path / 'data'}").error()
    assert f"{shard}: expected {full_size} bytes, got {size}; it is truncated" in message
    assert "convert again" in message


def test_overwritten_records_are_detected_by_their_checksums(train, write_broken, tmp_path):
    folder = write_broken(())
    for shard in folder.glob("*.tfrecord"):
        shard.write_bytes(b"\xff" * os.path.getsize(shard))
    message = train(*ARGUMENTS, f"--data_dir={tmp_path / 'data'}").error()
    assert re.match(
        rf"8 records in a row cannot be used, the last one {folder}/.*checksum", message
    )


def test_weights_of_another_shape_are_refused(train, finished):
    workdir, _ = finished
    wider = "--config.model.embedding_dim=32"
    message = train(*ARGUMENTS[:-2], wider, "--workdir=other", f"--init={workdir}").error()
    assert re.search(r"text_projection/kernel.*96, 128.*96, 32", message), message
