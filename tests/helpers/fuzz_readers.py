"""Checks of random tables, tars, JSON values and Parquet files; see `fuzzing`."""

import csv
import io
import json
import os
import shutil
import tarfile

from helpers import fuzz_inputs
from helpers.datasets import convert
from helpers.images import plain_image
from tf_mural.conversion.ledger import Ledger, format_summary
from tf_mural.data.records import RecordSet, serialize
from tf_mural.datasets import crawl, table
from tf_mural.datasets.coco import captions_by_id, karpathy, source_files
from tf_mural.datasets.table import rows
from tf_mural.errors import UserError

JPEG = plain_image("red")


def read(dataset, raw_dir, **options):
    """Returns (records, `Ledger`) of a folder, or (None, error) if it is refused."""
    ledger, records = Ledger(), []
    try:
        for unit in dataset.plan(str(raw_dir), "train", **options):
            for record in ledger.filter(dataset.read(unit)):
                serialize(record)
                records.append(record)
    except UserError as error:
        assert str(error)
        return None, error
    ledger.close(len(records))
    json.dumps(vars(ledger), ensure_ascii=False).encode()  # as in the manifest
    return records, ledger


def _words(records):
    """Returns the first words of all texts of records."""
    return {text.split()[0].strip(",") for record in records for _, text in record.texts}


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)
    return path


# --- tables ---------------------------------------------------------------------------------------


def check_valid_table(rng, folder):
    """A valid table loses no word, row or column."""
    format, data, words, count, invalid, columns = fuzz_inputs.valid_table(rng)
    path = write(os.path.join(folder, f"t{rng.getrandbits(48)}.{format}"), data)
    try:
        records, ledger = read(table, path, image_dir="images")
    finally:
        os.remove(path)
    assert records is not None, ledger
    assert _words(records) == words
    assert ledger.parts["rows"]["read"] == count
    assert sum(ledger.parts["rows"]["ignored"].values()) == invalid
    assert ledger.parts["columns"]["read"] == columns
    return 1, 0


def check_hostile_table(rng, folder):
    """Any table is refused, or all of its lines are counted."""
    format, data = fuzz_inputs.hostile_table(rng)
    options = {"image_dir": "images"} if rng.random() < 0.8 else {}
    options |= fuzz_inputs.table_options(rng)
    path = write(os.path.join(folder, f"t{rng.getrandbits(48)}.{format}"), data)
    try:
        records, ledger = read(table, path, **options)
        if records is None:
            return 1, 1
        if format == "jsonl" or options.get("quoting") == "none":
            lines = data.count(b"\n") + (not data.endswith(b"\n")) - (format != "jsonl")
        else:
            opened = rows.Table.open(path)
            text = data.decode(opened.encoding).removeprefix("\ufeff")
            lines = csv.reader(io.StringIO(text, newline="\n"), delimiter=opened.delimiter)
            lines = sum(1 for _ in lines) - 1
        assert ledger.parts.get("rows", {"read": 0})["read"] == lines
    finally:
        os.remove(path)
    return 1, 0


# --- tars -----------------------------------------------------------------------------------------


def check_valid_tar(rng, folder):
    """A valid tar loses no caption and no member, whatever the form of its JSON captions."""
    members, words, unused, inputs = [], set(), 0, rng.randint(2, 6)
    for number in range(inputs):
        stem = rng.choice(("s{}", "img.v{}", "d/{}", "é{}", "Track 2.0 {}")).format(number)
        captions, new, skipped = fuzz_inputs.valid_captions(rng, f"w{number}")
        files = [(f"{stem}.jpg", JPEG)]
        if rng.random() < 0.6:
            text = json.dumps(captions, ensure_ascii=rng.random() < 0.5)
            files.append((f"{stem}.json", text.encode()))
            words, unused = words | set(new), unused + skipped
        else:
            code = rng.choice(("", ".de", ".zh_CN", ".French"))
            files.append((f"{stem}{code}.{rng.choice(('txt', 'TXT'))}", b"w%dtxt" % number))
            words.add(f"w{number}txt")
        rng.shuffle(files)
        members += files
        if rng.random() < 0.2:
            members.append((f"{stem}.cls", b"3"))
    path = write(os.path.join(folder, "tars.tar"), fuzz_inputs.tar_bytes(rng, members))
    raw = os.path.join(folder, "raw")
    os.makedirs(raw, exist_ok=True)
    os.replace(path, os.path.join(raw, "t.tar"))
    records, ledger = read(crawl, raw)
    assert records is not None, ledger
    assert _words(records) == words
    assert ledger.parts["members"]["read"] == len(members)
    assert ledger.read == inputs and sum(ledger.dropped_texts.values()) == unused
    return inputs, 0


def check_hostile_tar(rng, folder):
    """Any tar is refused, or its members are counted at most once."""
    pool = [fuzz_inputs.member_name(rng) for _ in range(rng.randint(1, 8))]
    members = [(name, member_data(rng, name)) for name in pool]
    data = fuzz_inputs.tar_bytes(rng, members, hostile=True)
    damaged = rng.random() < 0.6
    if damaged:
        change = fuzz_inputs.damage_header if rng.random() < 0.5 else fuzz_inputs.damage
        data = change(rng, data)
    raw = os.path.join(folder, "raw")
    os.makedirs(raw, exist_ok=True)
    write(os.path.join(raw, "t.tar"), data)
    records, ledger = read(crawl, raw)
    if records is not None and "tar is cut short or broken" not in ledger.dropped:
        with tarfile.open(os.path.join(raw, "t.tar")) as tar:
            count = sum(not info.isdir() for info in tar)
        assert ledger.parts.get("members", {"read": 0})["read"] == count
    return 1, records is None


def member_data(rng, name):
    if name.endswith(("jpg", "JPG", "png")) and rng.random() < 0.8:
        return JPEG
    if name.endswith("json") and rng.random() < 0.9:
        if rng.random() < 0.03:
            return b"[" * 100_000
        return json.dumps(fuzz_inputs.value(rng)).encode()
    return fuzz_inputs.text(rng).encode(errors="surrogatepass")


def check_json(rng, folder):
    """Any JSON value in a tar is one record or one dropped record."""
    inputs = 10
    members = []
    for number in range(inputs):
        data = member_data(rng, "a.json")
        data = fuzz_inputs.damage(rng, data) if rng.random() < 0.1 else data
        members += [(f"s{number}.jpg", JPEG), (f"s{number}.json", data)]
    raw = os.path.join(folder, "raw")
    os.makedirs(raw, exist_ok=True)
    write(os.path.join(raw, "t.tar"), fuzz_inputs.tar_bytes(rng, members))
    records, ledger = read(crawl, raw)
    assert records is not None, ledger
    assert ledger.read == inputs and ledger.parts["members"]["read"] == 2 * inputs
    return inputs, 0


def check_coco(rng, folder):
    """Any JSON, JSONL or TSV of captions by image id is read or refused."""
    keys = ("image_id", "caption", "text", "id", "annotations", "images", "cocoid", "sentences")

    def item(depth=2):
        if depth == 0 or rng.random() < 0.2:
            return rng.choice((5, "7", "COCO_val2014_000000391895.jpg", fuzz_inputs.value(rng)))
        if rng.random() < 0.4:
            return [item(depth - 1) for _ in range(rng.randint(0, 3))]
        return {rng.choice(keys): item(depth - 1) for _ in range(rng.randint(0, 4))}

    name = rng.choice(("c.json", "c.jsonl", "c.tsv", karpathy.LIST))
    caption = fuzz_inputs.text(rng) if rng.random() < 0.7 else item(1)
    content = item(3) if rng.random() < 0.2 else [{"image_id": 5, "caption": caption}]
    if name == "c.json" and rng.random() < 0.5:
        images = rng.choice(([{"id": 5, "file_name": "a.jpg"}], [item(1)], item(1)))
        content = rng.choice(({"annotations": content, "images": images}, {"5": caption}))
    if name == "c.jsonl" and isinstance(content, list) and content:
        content = content[0]
    if name == karpathy.LIST and rng.random() < 0.9:
        entry = {"cocoid": 5, "filename": "a.jpg", "filepath": "val2014", "split": "val"}
        entry["sentences"] = [{"raw": caption}]
        content = {"images": content if rng.random() < 0.3 else [entry]}
    data = json.dumps(content, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
    if name == "c.tsv":
        data = f"5\t{fuzz_inputs.text(rng)}\n{fuzz_inputs.text(rng)}".encode(errors="replace")
    if rng.random() < 0.3:
        data = fuzz_inputs.damage(rng, data) if rng.random() < 0.8 else b"[" * 100_000 + data
    raw = os.path.join(folder, "coco-raw")
    os.makedirs(raw, exist_ok=True)
    # The readers keep a file by its name, size and time.
    file_name = name if name == karpathy.LIST else f"{rng.getrandbits(48)}{name}"
    path = write(os.path.join(raw, file_name), data)
    try:
        if name == karpathy.LIST:
            karpathy.load_images(raw)
        else:
            if name == "c.json":
                read(table, path, image_dir="../images", language="en")
            pairs = list(captions_by_id.iter_captions(source_files.SourceFile(path)))
            assert all(isinstance(id, int) and isinstance(text, str) for id, text in pairs)
    except UserError:
        return 1, 1
    finally:
        os.remove(path)
    return 1, 0


def check_parquet(rng, folder):
    """Any Parquet file is one record or one dropped record for each row, or is refused."""
    import pyarrow as pa
    import pyarrow.parquet

    rows = rng.randint(0, 6)
    binary, text = pa.array([JPEG] * rows, pa.binary()), [f"w{n}" for n in range(rows)]
    columns = {
        "jpg": (binary, binary, text, [{"bytes": JPEG}] * rows, [[JPEG]] * rows, [None] * rows),
        "txt": (text, text, [None] * rows, [b"\xff"] * rows, [[word, word] for word in text]),
        "caption": (text, [{"en": word} for word in text], list(range(rows)), [1.5] * rows),
        "key": (text, list(range(rows)), [b"k"] * rows),
        "url": (text, pa.array(range(rows), pa.timestamp("ns")), [["a"]] * rows),
        "status": (["success"] * rows, ["failed"] * rows, [None] * rows, [0] * rows),
    }
    names = ["jpg", *rng.sample(sorted(set(columns) - {"jpg"}), rng.randint(0, 5))]
    arrays = [pa.array(rng.choice(columns[name])) for name in names]
    if rng.random() < 0.1:
        names, arrays = [*names, names[-1]], [*arrays, arrays[-1]]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(arrays, names), file)
    data = file.getvalue()
    is_damaged = rng.random() < 0.3
    data = fuzz_inputs.damage(rng, data) if is_damaged else data
    raw = os.path.join(folder, "parquet-raw")
    os.makedirs(raw, exist_ok=True)
    path = os.path.join(raw, f"{rng.choice(('00000', 'train'))}.parquet")
    write(path, data)
    try:
        records, ledger = read(crawl, raw)
    finally:
        os.remove(path)
    path = os.path.join(folder, f"t{rng.getrandbits(48)}.parquet")
    try:
        read(table, write(path, data), image_column="jpg", language="en", text_column="txt")
    finally:
        os.remove(path)
    if records is not None and not is_damaged and len(set(names)) == len(names):
        assert ledger.read == rows
    return 1, records is None


# --- whole conversions ----------------------------------------------------------------------------


def check_conversion(rng, folder):
    """A conversion gives a complete record set whose ledger balances, or leaves nothing."""
    raw, out = os.path.join(folder, "convert"), os.path.join(folder, "out")
    os.makedirs(raw)
    name, options = rng.choice(("table", "crawl")), {}
    try:
        if name == "table":
            valid = rng.random() < 0.5
            make = fuzz_inputs.valid_table if valid else fuzz_inputs.hostile_table
            format, data = make(rng)[:2]
            write(os.path.join(raw, f"t.{format}"), data)
            options = {"image_dir": "../images"}
            options |= {} if valid else fuzz_inputs.table_options(rng)
        else:
            names = [fuzz_inputs.member_name(rng) for _ in range(4)]
            names += ["a.jpg", "a.txt"] if rng.random() < 0.8 else []
            members = [(member, member_data(rng, member)) for member in names]
            data = fuzz_inputs.tar_bytes(rng, members, hostile=True)
            data = fuzz_inputs.damage(rng, data) if rng.random() < 0.3 else data
            write(os.path.join(raw, "t\udcff.tar" if rng.random() < 0.1 else "t.tar"), data)
        try:
            manifest = convert(name, raw, out, "train", **options)
        except UserError:
            left = [entry for entry in os.listdir(out)] if os.path.isdir(out) else []
            assert all(entry.endswith(".lock") for entry in left), left
            return 1, 1
        ledger = manifest["ledger"]
        assert ledger["kept"] + sum(ledger["dropped"].values()) == ledger["read"]
        for counts in ledger["parts"].values():
            assert counts["used"] + sum(counts["ignored"].values()) == counts["read"]
        assert len(list(RecordSet.open(os.path.join(out, "train")))) == ledger["kept"]
        format_summary([manifest]).encode()
        assert sorted(e for e in os.listdir(out) if not e.endswith(".lock")) == ["train"]
        return 1, 0
    finally:
        shutil.rmtree(raw)
        shutil.rmtree(out, ignore_errors=True)
