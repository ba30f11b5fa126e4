"""Random inputs give records or a UserError; nothing that was read is lost without being counted.

To repeat the input of a failure, run the call in the message. FUZZ_SEED sets another seed.
"""

import os
import time

import pytest
from helpers import fuzzing

# Numbers of inputs of the slow test; the fast test has 1 of 50.
COUNTS = {
    "valid tables": 3000,
    "tables": 12000,
    "valid tars": 3000,
    "tars": 6000,
    "JSON captions": 6000,
    "COCO captions": 5000,
    "parquet": 600,
    "names": 5000,
    "languages": 5000,
    "images": 4000,
    "decoded images": 1000,
    "conversions": 300,
}
# Pillow warns about damaged EXIF data.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SEED = os.environ.get("FUZZ_SEED", "0")


def check(kind, count, seed):
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="Parquet is written with pyarrow")
    start = time.perf_counter()
    checked, refused = fuzzing.run(kind, count, seed)
    seconds = time.perf_counter() - start
    print(f"{kind}: {checked:,} inputs, {refused:,} refused or dropped, {seconds:.1f} seconds")
    assert checked >= count
    # Both kinds of results must be tested.
    is_valid = kind.startswith("valid") or kind == "JSON captions"
    assert refused == 0 if is_valid else refused < checked


@pytest.mark.parametrize("kind", COUNTS)
def test_random_inputs_are_converted_or_refused(kind):
    check(kind, COUNTS[kind] // 50, f"{SEED} fast")


@pytest.mark.slow
@pytest.mark.parametrize("kind", COUNTS)
def test_50_000_random_inputs_are_converted_or_refused(kind):
    check(kind, COUNTS[kind], SEED)
    assert sum(COUNTS.values()) >= 50_000
