"""`uc2`: texts in several languages, as JSONL or in UC2's databases, joined with images."""

import io
import json
import sys

import pytest
from helpers.crawl_files import (
    BLUE,
    GREEN,
    RED,
    failed_row,
    members,
    row,
    url,
    write_shard,
    write_tar,
)
from helpers.datasets import convert, read_items

from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets.crawl import uc2
from tf_mural.errors import UserError

NOT_LISTED = "image of no row of the list"


def read(raw, split="train", **options):
    return read_items(uc2, raw, split, **options)


def write_images(raw, *rows):
    write_tar(raw / "images" / "00000.tar", members(rows))


def write_jsonl(raw, *rows, name="cc3m_multilingual.jsonl"):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (raw / name).write_text("".join(f"{line}\n" for line in lines))


# The captions next to the images must not be used.
A = row("000000000", RED, "not this", "a")
B = row("000000001", GREEN, "nor this", "b")


def test_jsonl_lines_are_joined_by_url(tmp_path):
    rows = [
        {"url": url("a"), "caption": {"en": "a dog", "de": " ein Hund ", "zh": "狗"}},
        {"image_url": url("b"), "id": 7, "captions": {"en": ["one", "two"], "fr": "", "cs": None}},
        {"url": url("c"), "caption": {"en": "gone"}},
    ]
    write_jsonl(tmp_path, *rows)
    written = (tmp_path / "cc3m_multilingual.jsonl").read_bytes()
    offset = written.index(b'{"url": "%b' % url("c").encode())
    write_images(tmp_path, A, B, row("000000002", BLUE, "stranger", "d"))
    assert read(tmp_path) == [
        Skipped("image was not downloaded", f"{url('c')}, at byte {offset} of the list"),
        Record(
            "images/00000:000000000", (RED,), (("en", "a dog"), ("de", "ein Hund"), ("zh", "狗"))
        ),
        Record("images/00000:000000001", (GREEN,), (("en", "one"), ("en", "two"))),
        Skipped(NOT_LISTED, f"images/00000:000000002, {url('d')}"),
    ]


@pytest.mark.parametrize("key", ["image_id", "img_id", "id", "key", "image", "img_fname"])
def test_jsonl_lines_without_url_are_joined_by_id(tmp_path, key):
    names = {"a": "gcc/train_12.npz", "b": 13}
    write_jsonl(tmp_path, *({key: name, "caption": {"en": text}} for text, name in names.items()))
    write_tar(tmp_path / "x.tar", [("train_12.jpg", RED), ("sub/13.jpg", GREEN)])
    assert read(tmp_path) == [
        Record("x:train_12", (RED,), (("en", "a"),)),
        Record("x:sub/13", (GREEN,), (("en", "b"),)),
    ]


def test_only_chosen_languages_are_kept_and_missing_ones_are_counted(tmp_path):
    write_jsonl(
        tmp_path,
        {"url": url("a"), "caption": {"en": "a dog", "de": "ein Hund", "zh_cn": "狗"}},
        {"url": url("b"), "caption": {"en": "a cat"}},
    )
    write_images(tmp_path, A, B)
    first, second = "images/00000:000000000", "images/00000:000000001"
    assert read(tmp_path, languages=("de", "zh-cn")) == [
        Record(first, (RED,), (("de", "ein Hund"), ("zh", "狗"))),
        Skipped("no caption", f"{second}, {url('b')}"),
    ]
    assert read(tmp_path, languages=("en", "de"))[1:] == [
        Record(second, (GREEN,), (("en", "a cat"),)),
        Skipped("no text in the language", f"{second}, de", text_only=True),
    ]


def test_invalid_lines_are_counted(tmp_path):
    lines = ['{"url": "', "[]", '{"caption": {"en": "x"}}', '{"url": "http://x", "caption": "x"}']
    write_jsonl(tmp_path, {"url": url("a"), "caption": {"en": "a"}}, *lines)
    write_images(tmp_path, A)
    invalid = "row is not of the list's form"
    start = len(json.dumps({"url": url("a"), "caption": {"en": "a"}})) + 1
    offsets = [start + sum(len(line) + 1 for line in lines[:n]) for n in range(len(lines))]
    assert read(tmp_path) == [
        *(Skipped(invalid, f"byte {n}: {line!r}") for n, line in zip(offsets, lines, strict=True)),
        Record("images/00000:000000000", (RED,), (("en", "a"),)),
    ]


def test_the_jsonl_of_a_split_is_found_by_its_name(tmp_path):
    write_images(tmp_path, A)
    for name, text in (("train.jsonl", "train"), ("val.jsonl", "val")):
        write_jsonl(tmp_path, {"url": url("a"), "caption": {"en": text}}, name=name)
    assert read(tmp_path)[0].texts == (("en", "train"),)
    assert read(tmp_path, "val")[0].texts == (("en", "val"),)
    assert uc2.splits(str(tmp_path)) == ("train", "val")
    assert uc2.splits(str(tmp_path), captions="val.jsonl") == ("val",)
    write_jsonl(tmp_path, {"url": url("a"), "caption": {"en": "mine"}}, name="mine.jsonl")
    with pytest.raises(UserError, match="has mine.jsonl, train.jsonl; name the file of the texts"):
        read(tmp_path)
    assert read(tmp_path, captions="mine.jsonl")[0].texts == (("en", "mine"),)


def test_incomplete_raw_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected raw_dir to be a folder"):
        uc2.plan(str(tmp_path / "gone"), "train")
    write_images(tmp_path, A)
    with pytest.raises(UserError, match="no texts of train in .*; expected a JSONL, or folders"):
        read(tmp_path)
    with pytest.raises(UserError, match="gone.jsonl, which the option captions names"):
        read(tmp_path, captions="gone.jsonl")
    with pytest.raises(UserError, match="unknown split of uc2 'test'"):
        read(tmp_path, "test")
    write_jsonl(tmp_path, {"caption": "x"})
    with pytest.raises(UserError, match="expected lines of .*image_id.*, got '{.caption.: .x.}'"):
        read(tmp_path)
    with pytest.raises(UserError, match="expected a language code such as en, got '1'"):
        read(tmp_path, languages=("1",))


def test_record_set_has_all_records_and_counts_the_others(tmp_path):
    raw = tmp_path / "raw"
    pytest.importorskip("pyarrow", reason="writes Parquet")
    rows = [A, failed_row("000000001", "b"), row("000000002", BLUE, "", "d")]
    write_shard(raw / "images", "parquet", rows)
    write_jsonl(
        raw,
        *({"url": url(name), "caption": {"en": name, "ja": f"{name}犬"}} for name in "abc"),
    )
    options = {"languages": ("en", "ja", "de")}
    ledger = convert("uc2", raw, tmp_path / "out", "train", **options)["ledger"]
    assert (ledger["read"], ledger["kept"]) == (4, 1)
    assert ledger["dropped"] == {
        NOT_LISTED: 1,
        "image was not downloaded": 1,
        "image was not downloaded (failed_to_download)": 1,
    }
    assert ledger["dropped_texts"] == {"no text in the language": 1}
    records = list(RecordSet.open(tmp_path / "out" / "train"))
    assert records == [Record("images/00000:000000000", (RED,), (("en", "a"), ("ja", "a犬")))]
    before = uc2.fingerprint(str(raw), "train", **options)
    write_jsonl(raw, {"url": url("a"), "caption": {"en": "new"}})
    assert uc2.fingerprint(str(raw), "train", **options) != before


# --- databases ------------------------------------------------------------------------------------


@pytest.fixture
def packages():
    for name in ("lmdb", "lz4", "msgpack"):
        pytest.importorskip(name, reason="UC2's databases are LMDB with MessagePack and LZ4")


def write_database(raw, name, entries, txt2img=None):
    """Writes a folder in UC2's format and returns it.

    Args:
        raw: raw folder.
        name: name of the folder.
        entries: {key in the database: content of the entry as a dict}.
        txt2img: contents of txt2img.json, {key of an entry: image file}. None: the image file that
            each entry names.
    """
    import lmdb
    import lz4.frame
    import msgpack

    folder = raw / name
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 20) as env, env.begin(write=True) as transaction:
        for key, entry in entries.items():
            packed = lz4.frame.compress(msgpack.dumps(entry, use_bin_type=True))
            transaction.put(key.encode(), packed)
    if txt2img is None:
        txt2img = {key: entry["img_fname"] for key, entry in entries.items()}
    (folder / "txt2img.json").write_text(json.dumps(txt2img))
    (folder / "meta.json").write_text(json.dumps({"CLS": 0, "SEP": 2, "MASK": 250001}))
    return folder


def entry_with_text(image, text):
    return {"img_fname": f"gcc_{image}.npz", "input_ids": [5], "caption": text}


def test_databases_of_several_languages_are_joined(tmp_path, packages):
    """German lacks two images; Chinese has other keys, another order and a misspelled folder."""
    texts = {n: entry_with_text(n, f"en {n}") for n in ("0", "1", "2")}
    write_database(tmp_path, "conceptual_caption_en_train.db", texts)
    write_database(
        tmp_path, "conceptual_caption_de_train.db", {"0": entry_with_text("0", {"de": "de 0"})}
    )
    zh = {"3": "zh 3", "1": "zh 1", "0": "零", "2": "zh 2"}
    chinese = {f"x{n}": entry_with_text(n, text) for n, text in zh.items()}
    write_database(tmp_path, "conceptual_caption_zh_trian.db", chinese)
    # The folder ende, which contains pairs of the same texts, must be ignored.
    write_database(tmp_path, "conceptual_caption_ende_train.db", texts)
    write_database(tmp_path, "conceptual_caption_en_val.db", {"0": entry_with_text("1", "en val")})
    write_tar(tmp_path / "x.tar", [("gcc_1.jpg", GREEN), ("gcc_0.jpg", RED), ("gcc_9.jpg", BLUE)])
    assert read(tmp_path) == [
        Skipped("image was not downloaded", "that of en 2"),
        Skipped("image was not downloaded", "that of zh x3"),
        Record("x:gcc_1", (GREEN,), (("en", "en 1"), ("zh", "zh 1"))),
        Skipped("no text in the language", "x:gcc_1, de", text_only=True),
        Record("x:gcc_0", (RED,), (("de", "de 0"), ("en", "en 0"), ("zh", "零"))),
        Skipped(NOT_LISTED, "x:gcc_9"),
    ]
    assert read(tmp_path, languages=("zh",))[2:4] == [
        Record("x:gcc_1", (GREEN,), (("zh", "zh 1"),)),
        Record("x:gcc_0", (RED,), (("zh", "零"),)),
    ]
    assert read(tmp_path, "val")[0].texts == (("en", "en val"),)
    assert uc2.splits(str(tmp_path)) == ("train", "val")
    with pytest.raises(UserError, match="unknown language of uc2 'fr'; known: de, en, zh"):
        read(tmp_path, languages=("fr",))


def test_databases_are_joined_by_the_list_of_links(tmp_path, packages):
    write_database(tmp_path, "conceptual_caption_en_train.db", {"t": entry_with_text("5", "five")})
    ids = f"gcc_4\t{url('a')}\tx\tsuccess\ngcc_5\t{url('b')}\tx\tsuccess\n"
    (tmp_path / "train_imageId2Ann.tsv").write_text(ids)
    write_images(tmp_path, A, B)
    assert read(tmp_path) == [
        Skipped(NOT_LISTED, f"images/00000:000000000, {url('a')}"),
        Record("images/00000:000000001", (GREEN,), (("en", "five"),)),
    ]


@pytest.fixture
def sentencepiece(tmp_path):
    """Returns (path of a small model, callable from text to XLM-R's ids, number of pieces)."""
    package = pytest.importorskip("sentencepiece", reason="decodes the tokens of UC2's databases")
    lines = ["a dog in the park", "ein Hund im Park", "公園の犬", "un chien dans le parc"] * 20
    stream = io.BytesIO()
    package.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=stream,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path = tmp_path / "sentencepiece.bpe.model"
    path.write_bytes(stream.getvalue())
    model = package.SentencePieceProcessor(model_proto=stream.getvalue())
    # The ids 0 to 3 of fairseq are <s>, <pad>, </s> and <unk>. The ids of other pieces are larger
    # by 1 in fairseq than in SentencePiece.
    return path, lambda text: [i + 1 if i else 3 for i in model.encode(text)], len(model)


def test_tokens_are_decoded_by_the_sentencepiece_model(tmp_path, packages, sentencepiece):
    path, ids, size = sentencepiece
    tokens = {
        "0": [0, *ids("ein Hund im Park"), 2],
        "1": [*ids("公園の犬"), 1, size + 1],  # 1 is <pad>; the last id is <mask>
        "2": ids("a dog Ω"),
    }
    entries = {k: {"img_fname": f"{k}.npz", "input_ids": ids} for k, ids in tokens.items()}
    write_database(tmp_path, "conceptual_caption_de_train.db", entries)
    write_tar(tmp_path / "x.tar", [(f"{n}.jpg", RED) for n in range(3)])
    records = read(tmp_path, sentencepiece=path.name)
    assert [record.texts for record in records] == [
        (("de", "ein Hund im Park"),),
        (("de", "公園の犬"),),
        (("de", "a dog  ⁇"),),
    ]
    with pytest.raises(UserError, match="holds tokens .img_fname, input_ids. and no texts; to dec"):
        read(tmp_path)
    (tmp_path / "other.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="other.model is no SentencePiece model"):
        read(tmp_path, sentencepiece="other.model")
    with pytest.raises(UserError, match="gone.model, which an option names, is no file"):
        read(tmp_path, sentencepiece="gone.model")


def test_damaged_databases_are_refused(tmp_path, packages, monkeypatch):
    write_images(tmp_path, A)
    name = "conceptual_caption_en_train.db"
    folder = write_database(
        tmp_path, name, {"0": entry_with_text("0", "en")}, txt2img={"gone": "gcc_0.npz"}
    )
    assert read(tmp_path) == [
        Skipped("image was not downloaded", "that of en gone"),
        Skipped(NOT_LISTED, f"images/00000:000000000, {url('a')}"),
    ]
    for data, message in (("{}", "txt2img.json names no texts"), ("[", "expected an object from")):
        (folder / "txt2img.json").write_text(data)
        with pytest.raises(UserError, match=message):
            read(tmp_path)
    (folder / "txt2img.json").unlink()
    with pytest.raises(UserError, match="txt2img.json is missing; it maps each text to its image"):
        read(tmp_path)
    (folder / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="en_train.db is no LMDB .*; download it again"):
        read(tmp_path)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match="needs lmdb: pip install lmdb lz4 msgpack sentencepiece"):
        read(tmp_path)


def test_a_damaged_entry_is_refused(tmp_path, packages):
    import lmdb

    write_images(tmp_path, A)
    folder = write_database(
        tmp_path, "conceptual_caption_en_train.db", {"0": entry_with_text("0", "en")}
    )
    with lmdb.open(str(folder), map_size=1 << 20) as env, env.begin(write=True) as transaction:
        transaction.put(b"0", b"not packed")
    with pytest.raises(UserError, match="en_train.db: the entry 0 does not unpack .*; download"):
        read(tmp_path)
