"""uc2: texts of several languages, as JSONL or in UC2's databases, joined with images."""

import io
import json
import pickle
import sys

import pytest
from crawl_files import BLUE, GREEN, RED, failed, members, row, url, write, write_tar

from tf_mural import conversion
from tf_mural.data.records import Dropped, Record, RecordSet
from tf_mural.datasets.crawl import uc2
from tf_mural.errors import UserError


def items(raw, split="train", **options):
    units = uc2.plan(str(raw), split, **options)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in uc2.read(unit)]


def images(raw, *rows):
    write_tar(raw / "images" / "00000.tar", members(rows))


def jsonl(raw, *rows, name="cc3m_multilingual.jsonl"):
    lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in rows]
    (raw / name).write_text("".join(f"{line}\n" for line in lines))


A = row("000000000", RED, "not this", "a")
B = row("000000001", GREEN, "nor this", "b")


def test_jsonl(tmp_path):
    rows = [
        {"url": url("a"), "caption": {"en": "a dog", "de": " ein Hund ", "zh": "狗"}},
        {"image_url": url("b"), "id": 7, "captions": {"en": ["one", "two"], "fr": "", "cs": None}},
        {"url": url("c"), "caption": {"en": "gone"}},
    ]
    jsonl(tmp_path, *rows)
    written = (tmp_path / "cc3m_multilingual.jsonl").read_bytes()
    place = written.index(b'{"url": "%b' % url("c").encode())
    images(tmp_path, A, B, row("000000002", BLUE, "stranger", "d"))
    assert items(tmp_path) == [
        Dropped("image was not downloaded", f"{url('c')}, at byte {place} of the list"),
        Record(
            "images/00000:000000000", (RED,), (("en", "a dog"), ("de", "ein Hund"), ("zh", "狗"))
        ),
        Record("images/00000:000000001", (GREEN,), (("en", "one"), ("en", "two"))),
        Dropped("image of no row of the list", f"images/00000:000000002, {url('d')}"),
    ]


@pytest.mark.parametrize("key", ["image_id", "img_id", "id", "key", "image", "img_fname"])
def test_images_by_their_id(tmp_path, key):
    names = {"a": "gcc/train_12.npz", "b": 13}
    jsonl(tmp_path, *({key: name, "caption": {"en": text}} for text, name in names.items()))
    write_tar(tmp_path / "x.tar", [("train_12.jpg", RED), ("sub/13.jpg", GREEN)])
    assert items(tmp_path) == [
        Record("x:train_12", (RED,), (("en", "a"),)),
        Record("x:sub/13", (GREEN,), (("en", "b"),)),
    ]


def test_languages_are_a_choice_and_their_lack_is_counted(tmp_path):
    jsonl(
        tmp_path,
        {"url": url("a"), "caption": {"en": "a dog", "de": "ein Hund", "zh_cn": "狗"}},
        {"url": url("b"), "caption": {"en": "a cat"}},
    )
    images(tmp_path, A, B)
    first, second = "images/00000:000000000", "images/00000:000000001"
    assert items(tmp_path, languages=("de", "zh-cn")) == [
        Record(first, (RED,), (("de", "ein Hund"), ("zh-cn", "狗"))),
        Dropped("no caption", f"{second}, {url('b')}"),
    ]
    assert items(tmp_path, languages=("en", "de"))[1:] == [
        Record(second, (GREEN,), (("en", "a cat"),)),
        Dropped("no text in the language", f"{second}, de", text=True),
    ]


def test_lines_that_are_no_rows(tmp_path):
    lines = ['{"url": "', "[]", '{"caption": {"en": "x"}}', '{"url": "http://x", "caption": "x"}']
    jsonl(tmp_path, {"url": url("a"), "caption": {"en": "a"}}, *lines)
    images(tmp_path, A)
    form = "row is not of the list's form"
    start = len(json.dumps({"url": url("a"), "caption": {"en": "a"}})) + 1
    places = [start + sum(len(line) + 1 for line in lines[:n]) for n in range(len(lines))]
    assert items(tmp_path) == [
        *(Dropped(form, f"byte {n}: {line!r}") for n, line in zip(places, lines, strict=True)),
        Record("images/00000:000000000", (RED,), (("en", "a"),)),
    ]


def test_which_jsonl(tmp_path):
    images(tmp_path, A)
    for name, text in (("train.jsonl", "train"), ("val.jsonl", "val")):
        jsonl(tmp_path, {"url": url("a"), "caption": {"en": text}}, name=name)
    assert items(tmp_path)[0].texts == (("en", "train"),)
    assert items(tmp_path, "val")[0].texts == (("en", "val"),)
    assert uc2.splits(str(tmp_path)) == ("train", "val")
    assert uc2.splits(str(tmp_path), captions="val.jsonl") == ("val",)
    jsonl(tmp_path, {"url": url("a"), "caption": {"en": "mine"}}, name="mine.jsonl")
    with pytest.raises(UserError, match="has mine.jsonl, train.jsonl; say with the option"):
        items(tmp_path)
    assert items(tmp_path, captions="mine.jsonl")[0].texts == (("en", "mine"),)


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected raw_dir to be a folder"):
        uc2.plan(str(tmp_path / "gone"), "train")
    images(tmp_path, A)
    with pytest.raises(UserError, match="no texts of train in .*; expected a JSONL, or folders"):
        items(tmp_path)
    with pytest.raises(UserError, match="gone.jsonl, which the option captions asks for"):
        items(tmp_path, captions="gone.jsonl")
    with pytest.raises(UserError, match="unknown split of uc2 'test'"):
        items(tmp_path, "test")
    jsonl(tmp_path, {"caption": "x"})
    with pytest.raises(UserError, match="expected lines of .*image_id.*, got '{.caption.: .x.}'"):
        items(tmp_path)
    with pytest.raises(UserError, match="expected language codes such as en, got '1'"):
        items(tmp_path, languages=("1",))


def test_a_record_set(tmp_path):
    raw = tmp_path / "raw"
    pytest.importorskip("pyarrow", reason="img2dataset tells of dead links in Parquet")
    write(raw / "images", "parquet", [A, failed("000000001", "b"), row("000000002", BLUE, "", "d")])
    jsonl(
        raw,
        *({"url": url(name), "caption": {"en": name, "ja": f"{name}犬"}} for name in "abc"),
    )
    options = {"languages": ("en", "ja", "de")}
    made = conversion.convert(
        uc2, "uc2", str(raw), tmp_path / "out", "train", options, processes=1, progress=str
    )
    ledger = made["ledger"]
    assert (ledger["read"], ledger["kept"]) == (4, 1)
    assert ledger["dropped"] == {
        "image of no row of the list": 1,
        "image was not downloaded": 1,
        "image was not downloaded (failed_to_download)": 1,
    }
    assert ledger["dropped_texts"] == {"no text in the language": 1}
    found = list(RecordSet.open(tmp_path / "out" / "train"))
    assert found == [Record("images/00000:000000000", (RED,), (("en", "a"), ("ja", "a犬")))]
    before = uc2.fingerprint(str(raw), "train", **options)
    jsonl(raw, {"url": url("a"), "caption": {"en": "new"}})
    assert uc2.fingerprint(str(raw), "train", **options) != before


# --- databases ------------------------------------------------------------------------------------


@pytest.fixture
def packages():
    for name in ("lmdb", "lz4", "msgpack"):
        pytest.importorskip(name, reason="UC2's databases are LMDB of MessagePack packed by LZ4")


def database(raw, name, entries, txt2img=None):
    """A folder as UC2 writes it: entries by key, and which text is of which image."""
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


def with_text(image, text):
    return {"img_fname": f"gcc_{image}.npz", "input_ids": [5], "caption": text}


def test_databases_with_texts(tmp_path, packages):
    """German lacks an image, Chinese has another order, another key and a name spelled wrong."""
    texts = {n: with_text(n, f"en {n}") for n in ("0", "1", "2")}
    database(tmp_path, "conceptual_caption_en_train.db", texts)
    database(tmp_path, "conceptual_caption_de_train.db", {"0": with_text("0", {"de": "de 0"})})
    zh = {"3": "zh 3", "1": "zh 1", "0": "零", "2": "zh 2"}
    chinese = {f"x{n}": with_text(n, text) for n, text in zh.items()}
    database(tmp_path, "conceptual_caption_zh_trian.db", chinese)
    database(tmp_path, "conceptual_caption_ende_train.db", texts)  # pairs: the same texts again
    database(tmp_path, "conceptual_caption_en_val.db", {"0": with_text("1", "en val")})
    write_tar(tmp_path / "x.tar", [("gcc_1.jpg", GREEN), ("gcc_0.jpg", RED), ("gcc_9.jpg", BLUE)])
    assert items(tmp_path) == [
        Dropped("image was not downloaded", "that of en 2"),
        Dropped("image was not downloaded", "that of zh x3"),
        Record("x:gcc_1", (GREEN,), (("en", "en 1"), ("zh", "zh 1"))),
        Dropped("no text in the language", "x:gcc_1, de", text=True),
        Record("x:gcc_0", (RED,), (("de", "de 0"), ("en", "en 0"), ("zh", "零"))),
        Dropped("image of no row of the list", "x:gcc_9"),
    ]
    assert items(tmp_path, languages=("zh",))[2:4] == [
        Record("x:gcc_1", (GREEN,), (("zh", "zh 1"),)),
        Record("x:gcc_0", (RED,), (("zh", "零"),)),
    ]
    assert items(tmp_path, "val")[0].texts == (("en", "en val"),)
    assert uc2.splits(str(tmp_path)) == ("train", "val")
    with pytest.raises(UserError, match="unknown language of uc2 'fr'; known: de, en, zh"):
        items(tmp_path, languages=("fr",))


def test_images_by_the_list_of_links(tmp_path, packages):
    database(tmp_path, "conceptual_caption_en_train.db", {"t": with_text("5", "five")})
    ids = f"gcc_4\t{url('a')}\tx\tsuccess\ngcc_5\t{url('b')}\tx\tsuccess\n"
    (tmp_path / "train_imageId2Ann.tsv").write_text(ids)
    images(tmp_path, A, B)
    assert items(tmp_path) == [
        Dropped("image of no row of the list", f"images/00000:000000000, {url('a')}"),
        Record("images/00000:000000001", (GREEN,), (("en", "five"),)),
    ]


@pytest.fixture
def sentencepiece(tmp_path):
    """(path of a small model, function from text to XLM-R's ids)."""
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
    # fairseq: <s> 0, <pad> 1, </s> 2, <unk> 3; what SentencePiece numbers from 3 comes one later.
    return path, lambda text: [i + 1 if i else 3 for i in model.encode(text)], len(model)


def test_tokens_are_decoded(tmp_path, packages, sentencepiece):
    path, ids, size = sentencepiece
    tokens = {
        "0": [0, *ids("ein Hund im Park"), 2],
        "1": [*ids("公園の犬"), 1, size + 1],  # padding and the mask, which is the last of all
        "2": ids("a dog Ω"),
    }
    entries = {k: {"img_fname": f"{k}.npz", "input_ids": some} for k, some in tokens.items()}
    database(tmp_path, "conceptual_caption_de_train.db", entries)
    write_tar(tmp_path / "x.tar", [(f"{n}.jpg", RED) for n in range(3)])
    found = items(tmp_path, sentencepiece=path.name)
    assert [item.texts for item in found] == [
        (("de", "ein Hund im Park"),),
        (("de", "公園の犬"),),
        (("de", "a dog  ⁇"),),
    ]
    with pytest.raises(UserError, match="holds tokens .img_fname, input_ids. and no texts; to dec"):
        items(tmp_path)
    (tmp_path / "other.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="other.model is no SentencePiece model"):
        items(tmp_path, sentencepiece="other.model")
    with pytest.raises(UserError, match="gone.model, which an option asks for, is no file"):
        items(tmp_path, sentencepiece="gone.model")


def test_broken_databases(tmp_path, packages, monkeypatch):
    images(tmp_path, A)
    name = "conceptual_caption_en_train.db"
    folder = database(tmp_path, name, {"0": with_text("0", "en")}, txt2img={"gone": "gcc_0.npz"})
    assert items(tmp_path) == [
        Dropped("image was not downloaded", "that of en gone"),
        Dropped("image of no row of the list", f"images/00000:000000000, {url('a')}"),
    ]
    for data, message in (("{}", "txt2img.json names no texts"), ("[", "expected an object from")):
        (folder / "txt2img.json").write_text(data)
        with pytest.raises(UserError, match=message):
            items(tmp_path)
    (folder / "txt2img.json").unlink()
    with pytest.raises(UserError, match="txt2img.json is missing; it says of which image"):
        items(tmp_path)
    (folder / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="en_train.db is no LMDB .*; download it again"):
        items(tmp_path)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match="needs lmdb: pip install lmdb lz4 msgpack sentencepiece"):
        items(tmp_path)


def test_an_entry_that_does_not_unpack(tmp_path, packages):
    import lmdb

    images(tmp_path, A)
    folder = database(tmp_path, "conceptual_caption_en_train.db", {"0": with_text("0", "en")})
    with lmdb.open(str(folder), map_size=1 << 20) as env, env.begin(write=True) as transaction:
        transaction.put(b"0", b"not packed")
    with pytest.raises(UserError, match="en_train.db: the entry 0 does not unpack .*; download"):
        items(tmp_path)
