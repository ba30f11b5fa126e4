"""The cache of remote records on a local disk: checksums, size, several processes, a full disk."""

import multiprocessing
import os
import resource
import signal
import time

import pytest

from tf_mural import file_io
from tf_mural.data import chunk_cache, records
from tf_mural.data.chunk_cache import ChunkCache
from tf_mural.data.records import RecordSet, remote_shards
from tf_mural.errors import UserError


def files_of(folder):
    return [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]


def test_a_damaged_chunk_counts_as_missing(tmp_path):
    cache = ChunkCache(str(tmp_path), 1000)
    assert cache.get("a", 1) is None
    cache.put(b"data", "a", 1)
    assert cache.get("a", 1) == b"data" and cache.get("a", 2) is None
    (path,) = files_of(tmp_path)
    for damaged in (b"datA" + file_io.read_bytes(path)[4:], b"da", b""):
        with open(path, "wb") as file:
            file.write(damaged)
        assert cache.get("a", 1) is None and not os.path.exists(path)
        cache.put(b"data", "a", 1)
        assert cache.get("a", 1) == b"data"


def test_the_chunks_that_were_not_used_for_the_longest_time_are_removed(tmp_path):
    cache = ChunkCache(str(tmp_path), 10 * 104)
    for number in range(10):
        cache.put(bytes(100), number)
        os.utime(cache._path((number,)), (number, number))
    assert cache.get(0) is not None  # now 0 was used last
    cache.put(bytes(100), 10)
    kept = [number for number in range(11) if cache.get(number) is not None]
    assert 0 in kept and 10 in kept and 1 not in kept
    assert sum(map(os.path.getsize, files_of(tmp_path))) <= 10 * 104
    # A cache that is opened again knows the size of its files.
    again = ChunkCache(str(tmp_path), 10 * 104)
    for number in range(20, 40):
        again.put(bytes(100), number)
    assert sum(map(os.path.getsize, files_of(tmp_path))) <= 10 * 104


def _write_forever(folder, seed):
    cache = ChunkCache(folder, 50_000)
    for number in range(10**9):
        key = (number * (seed + 1)) % 97
        assert cache.get(key) in (None, bytes([key]) * 1000)
        cache.put(bytes([key]) * 1000, key)


def test_two_processes_and_a_kill_leave_only_intact_chunks(tmp_path):
    context = multiprocessing.get_context("fork")
    for seed in range(2):
        workers = [context.Process(target=_write_forever, args=(str(tmp_path), i)) for i in (1, 2)]
        for worker in workers:
            worker.start()
        time.sleep(0.4)
        for worker in workers:
            assert worker.is_alive()
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
        cache = ChunkCache(str(tmp_path), 50_000)
        stored = [cache.get(key) for key in range(97)]
        assert set(stored) <= {None, *(bytes([key]) * 1000 for key in range(97))}
        assert any(stored), seed


def test_a_full_disk_is_one_line_and_reading_continues(tmp_path):
    lines = []
    cache = ChunkCache(str(tmp_path), 100_000, lines.append)
    cache.put(b"1", 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses to write more than 100 bytes to a file, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        cache.put(bytes(1000), 2)
        cache.put(bytes(1000), 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert cache.get(1) == b"1" and cache.get(2) is None
    (line,) = lines
    assert str(tmp_path) in line and "cannot be written (File too large)" in line
    assert all(".tmp" not in path for path in files_of(tmp_path))


def test_records_are_read_from_the_cache(proxied, tmp_path, monkeypatch):
    proxy, folder = proxied("s3"), f"s3://bucket/{tmp_path.name}"
    examples = [records.Record(str(i), (bytes([i]) * 900,)) for i in range(20)]
    records.write(folder, examples, shards=2)
    monkeypatch.setattr(remote_shards, "MAX_MEMORY_BYTES", 0)
    monkeypatch.setattr(remote_shards, "_CACHED_CHUNK_BYTES", 2000)
    monkeypatch.setenv(chunk_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    record_set = RecordSet.open(folder)
    assert list(record_set) == examples
    start = proxy.requests
    assert list(record_set) == examples and list(record_set.read(range(20), verify=True))
    assert proxy.requests == start
    for path in files_of(tmp_path / "cache"):  # all chunks are damaged
        with open(path, "r+b") as file:
            file.write(b"\xff")
    assert list(RecordSet.open(folder)) == examples
    records.write(folder, examples[::-1], shards=2)  # a new version has other chunks
    assert list(RecordSet.open(folder)) == examples[::-1]


def test_wrong_settings_of_the_cache_are_named(tmp_path, monkeypatch):
    assert chunk_cache.open_cache() is None
    (tmp_path / "file").touch()
    monkeypatch.setenv(chunk_cache.FOLDER_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot be created .*choose another `cache_dir`"):
        chunk_cache.open_cache()
    monkeypatch.setenv(chunk_cache.SIZE_VARIABLE, "-1")
    with pytest.raises(UserError, match="TF_MURAL_CACHE_GB is '-1', expected a positive number"):
        chunk_cache.open_cache()
