"""Records and files in S3 and GCS: faults of the network, and bad input."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from helpers import hub_server, indexes
from helpers.faulty_proxy import HANG_SECONDS

from tf_mural import conversion, file_io, remote_files, remote_requests
from tf_mural.data import records
from tf_mural.data.range_fetcher import RangeFetcher
from tf_mural.data.records import RecordSet, remote_shards
from tf_mural.datasets import scenes
from tf_mural.errors import StorageError, StorageUnavailable, UserError

PROTOCOLS = pytest.mark.parametrize("protocol", ["s3", "gs"])
STORAGES = pytest.mark.parametrize("protocol", ["s3", "gs", "az"])


def make_records(count, size=2000):
    rng = np.random.default_rng(0)
    return [records.Record(str(i), (rng.bytes(size),), (("en", f"{i}"),)) for i in range(count)]


@pytest.fixture
def single_records(monkeypatch):
    """Records are requested one by one, and no set is read into memory."""
    monkeypatch.setattr(remote_shards, "MAX_MEMORY_BYTES", 0)
    monkeypatch.setattr("tf_mural.data.range_fetcher._GAP", -1)


def write(path, content):
    with file_io.atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


@STORAGES
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_remote_set_has_the_bytes_and_the_digest_of_a_local_one(
    protocol, in_memory, storage, tmp_path, monkeypatch
):
    storage(protocol)
    monkeypatch.setattr(remote_shards, "MAX_MEMORY_BYTES", (1 << 29) * in_memory)
    monkeypatch.setattr(remote_shards, "_CHUNK_BYTES", 3000)  # a record is in several chunks
    folder, examples = f"{protocol}://bucket/{tmp_path.name}", make_records(30)
    records.write(folder, examples, shards=3)
    records.write(str(tmp_path), examples, shards=3)
    remote, local = RecordSet.open(folder), RecordSet.open(str(tmp_path))
    order = np.random.default_rng(1).permutation(30)
    assert remote.digest == local.digest
    assert list(remote.read(order, verify=True)) == list(local.read(order, verify=True))
    assert [record.id for record in remote] == [record.id for record in local]


@pytest.mark.parametrize("protocol, faults", [("s3", 60), ("gs", 60)])
def test_faults_lose_and_double_no_record(protocol, faults, proxied, tmp_path, single_records):
    inject(protocol, faults, proxied, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("protocol, faults", [("s3", 500), ("gs", 500)])
def test_a_thousand_faults_lose_and_double_no_record(
    protocol, faults, proxied, tmp_path, single_records
):
    inject(protocol, faults, proxied, tmp_path)


def inject(protocol, faults, proxied, tmp_path):
    """Writes and reads a set and small files through a proxy, until `faults` faults happened."""
    proxy, examples = proxied(protocol), make_records(120)
    proxy.reset(rate=0.2, limit=faults)
    folder = f"{protocol}://bucket/{tmp_path.name}"
    records.write(folder, examples, shards=3)
    record_set, epoch = RecordSet.open(folder), 0
    while sum(proxy.injected.values()) < faults:
        order = np.random.default_rng(epoch).permutation(120)
        serialized = record_set.read(order, verify=True)
        assert [records.deserialize(data) for data in serialized] == [examples[i] for i in order]
        path, epoch = f"{folder}/state-{epoch}.json", epoch + 1
        file_io.write_json(path, {"epoch": epoch})
        assert file_io.read_json(path) == {"epoch": epoch}
    assert set(proxy.injected) == {"reset", "half", "503", "404"}
    states = [name for name in file_io.listdir(folder) if name.startswith("state-")]
    assert len(states) == epoch


@PROTOCOLS
def test_a_storage_that_does_not_answer_ends_with_one_line(
    protocol, proxied, tmp_path, monkeypatch
):
    proxy, folder = proxied(protocol), f"{protocol}://bucket/{tmp_path.name}"
    records.write(folder, make_records(2))
    record_set = RecordSet.open(folder)
    monkeypatch.setenv(remote_requests.DEADLINE_VARIABLE, "0.3")
    proxy.down = "503"
    calls = [
        lambda: record_set.read([0]),
        lambda: RecordSet.open(folder),
        lambda: write(f"{folder}/x", b""),
        lambda: file_io.listdir(folder),
    ]
    for call in calls:
        with pytest.raises(StorageUnavailable, match="the storage did not answer for") as caught:
            call()
        message = str(caught.value)
        assert caught.value.exit_code == 75 and "\n" not in message
        assert message.startswith(folder) and "127.0.0.1" not in message


def test_after_a_failure_the_next_requests_are_given_up_soon(proxied, monkeypatch):
    proxy = proxied("s3")
    write("s3://bucket/x", b"data")
    monkeypatch.setenv(remote_requests.DEADLINE_VARIABLE, "0.6")
    monkeypatch.setattr(remote_requests, "_AFTER_FAILURE_SECONDS", 0.05)
    proxy.down, start = "503", time.monotonic()
    with pytest.raises(StorageUnavailable):
        file_io.read_bytes("s3://bucket/x")
    assert time.monotonic() - start > 0.6 and remote_requests.deadline() == 0.05
    proxy.down = None
    assert file_io.read_bytes("s3://bucket/x") == b"data" and remote_requests.deadline() == 0.6


@PROTOCOLS
def test_a_request_without_an_answer_is_repeated(protocol, proxied, monkeypatch):
    proxy, path = proxied(protocol), f"{protocol}://bucket/x"
    write(path, b"data")
    monkeypatch.setattr(remote_files, "_READ_SECONDS", 0.2)
    remote_files.forget_connections()
    proxy.reset(rate=1.0, limit=1, faults=("hang",))
    start = time.monotonic()
    assert file_io.read_range(path, 0, 4) == b"data" and proxy.injected["hang"] == 1
    assert time.monotonic() - start < HANG_SECONDS


@STORAGES
def test_a_bucket_that_does_not_exist_is_named(protocol, storage, tmp_path):
    storage(protocol)
    path = f"{protocol}://no-such-bucket/x"
    for call in (file_io.exists, file_io.listdir, RecordSet.open, lambda path: write(path, b"")):
        with pytest.raises(StorageError, match=f"{path}.*bucket.* does not exist") as caught:
            call(path)
        assert caught.value.exit_code == 2


@PROTOCOLS
def test_missing_permission_is_one_line_without_a_repetition(protocol, proxied):
    proxy, path = proxied(protocol), f"{protocol}://bucket/x"
    write(path, b"")
    proxy.down = "403"
    for call in (file_io.read_bytes, file_io.size, RecordSet.open, lambda path: write(path, b"")):
        start = proxy.requests
        with pytest.raises(StorageError, match=f"^{path}.*: permission denied .*credentials"):
            call(path)
        assert proxy.requests - start <= 3


def test_missing_credentials_are_named(storage, monkeypatch):
    storage("s3")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/none")
    with pytest.raises(StorageError, match="s3://bucket/x: there are no credentials"):
        file_io.read_bytes("s3://bucket/x")


def test_another_region_is_named(proxied):
    proxied("s3").down = "301"
    with pytest.raises(StorageError, match="s3://bucket/x: the bucket is in .*region.*AWS_REGION"):
        file_io.read_bytes("s3://bucket/x")


@STORAGES
def test_a_shard_that_changes_while_it_is_read_is_an_error(
    protocol, storage, tmp_path, single_records
):
    storage(protocol)
    folder, examples = f"{protocol}://bucket/{tmp_path.name}", make_records(4)
    records.write(folder, examples)
    record_set = RecordSet.open(folder)
    records.write(folder, examples[::-1])  # the same sizes and checksums that match
    with pytest.raises(StorageError, match="records-00000-of-00001.tfrecord was changed while"):
        record_set.read([0])
    file_io.remove(f"{folder}/{records.shard_name(0, 1)}")
    # Azure answers for a missing object that its condition is not met.
    with pytest.raises(StorageError, match="00000-of-00001.tfrecord was (removed|changed) while"):
        record_set.read([0])


@PROTOCOLS
def test_a_late_listing_hides_no_shard_and_a_missing_shard_is_named(protocol, proxied, tmp_path):
    proxy, folder = proxied(protocol), f"{protocol}://bucket/{tmp_path.name}"
    proxy.reset(hidden_seconds=60)
    records.write(folder, make_records(4), shards=2)
    assert file_io.listdir(folder) == []
    assert len(RecordSet.open(folder)) == 4
    proxy.reset()
    file_io.remove(f"{folder}/{records.shard_name(1, 2)}")
    with pytest.raises(UserError, match="00001-of-00002.tfrecord.*the shard is missing, but"):
        RecordSet.open(folder)


def test_https_is_read_and_not_written(storage, tmp_path, monkeypatch):
    url = f"{storage('gs')}/download/storage/v1/b/bucket/o/{tmp_path.name}"
    examples = make_records(4)
    records.write(f"gs://bucket/{tmp_path.name}", examples, shards=2)
    monkeypatch.setenv(remote_requests.DEADLINE_VARIABLE, "0.2")
    assert list(RecordSet.open(url)) == examples
    with pytest.raises(UserError, match="http:// paths can only be read"):
        write(f"{url}/x", b"")
    with pytest.raises(StorageError) as caught:
        file_io.read_bytes("http://user:secret@127.0.0.1:9/x?signature=hidden")
    assert "secret" not in str(caught.value) and "hidden" not in str(caught.value)


# The hub reads HF_ENDPOINT when huggingface_hub is imported, so the records are read in a process.
HUB = """
from tf_mural import file_io
from tf_mural.data.records import RecordSet
folder = "hf://datasets/user/name/set"
print([record.id for record in RecordSet.open(folder)], file_io.exists(folder + "/none"))
"""


def test_records_on_the_hub_are_read_by_ranges(tmp_path):
    records.write(str(tmp_path / "set"), make_records(4), shards=2)
    with hub_server.hub_server(tmp_path) as (url, requests):
        environment = {**os.environ, "HF_ENDPOINT": url, remote_requests.DEADLINE_VARIABLE: "1"}
        command, options = [sys.executable, "-c", HUB], dict(capture_output=True, text=True)
        done = subprocess.run(command, env=environment, cwd=ROOT, **options)
    assert done.stdout == "['0', '1', '2', '3'] False\n", done.stderr
    assert any(path.endswith("-00001-of-00002.tfrecord") and part for _, path, part in requests)


@pytest.mark.parametrize("kind", ["none", "flat"])
def test_an_index_in_s3_finds_the_rows_of_a_local_index(kind, storage, tmp_path):
    storage("s3")
    vectors = indexes.unit_rows(300, 8)
    remote = indexes.make_vector_index(f"s3://bucket/{tmp_path.name}", vectors, kind)
    local = indexes.make_vector_index(tmp_path / "index", vectors, kind)
    rows = [indexes.hit_rows(index.search(vectors[:5], 3)) for index in (remote, local)]
    assert rows[0] == rows[1] and rows[0][4][0] == 4


def test_requests_read_ahead_within_the_limit_of_bytes(proxied, tmp_path):
    proxy, path = proxied("s3"), f"s3://bucket/{tmp_path.name}"
    write(path, bytes(range(200)) * 10)
    proxy.reset(delay=0.05)
    ranges = [(path, start, 10) for start in range(0, 400, 10)]
    assert [data[0] for data in RangeFetcher().fetch(ranges)] == [s % 200 for _, s, _ in ranges]
    assert proxy.most_at_once > 10
    first = RangeFetcher(max_bytes=50).fetch(ranges)
    next(first)
    time.sleep(0.3)
    assert proxy.requests - len(ranges) <= 6


def test_neighbouring_ranges_are_read_with_one_request(proxied, tmp_path):
    proxy, path = proxied("s3"), f"s3://bucket/{tmp_path.name}"
    write(path, bytes(range(250)))
    proxy.reset()
    ranges = [(path, 100, 20), (path, 0, 10), (path, 110, 5), (path, 20, 3)]
    expected = [bytes(range(start, start + size)) for _, start, size in ranges]
    assert RangeFetcher().fetch_merged(ranges) == expected and proxy.requests == 1


def test_at_most_64_local_files_are_open(tmp_path):
    examples = make_records(200, 10)
    records.write(str(tmp_path), examples, shards=100)
    record_set, before = RecordSet.open(str(tmp_path)), len(os.listdir("/dev/fd"))
    assert list(record_set) == examples
    assert len(os.listdir("/dev/fd")) - before <= 64


@pytest.mark.parametrize(
    "raw_dir, out_dir", [(None, "s3://bucket/out"), ("gs://bucket/raw", "out")]
)
def test_a_conversion_refuses_remote_folders(raw_dir, out_dir):
    with pytest.raises(UserError, match="//bucket/.* is not on this machine: conversions"):
        conversion.convert(scenes, "scenes", raw_dir, out_dir, "test")


def test_a_missing_package_is_named_and_gs_uses_tensorflow(monkeypatch):
    remote_files.forget_connections()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="s3fs: pip install -r requirements-remote.txt"):
        file_io.read_bytes("s3://bucket/x")
    assert isinstance(remote_files.files_of("gs://bucket/x"), remote_files.TensorFlowFiles)
    remote_files.forget_connections()


def test_importing_imports_no_package_of_remote_storage():
    code = (
        "import sys, tf_mural.data.records; print({'fsspec', 's3fs', 'gcsfs'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stderr
