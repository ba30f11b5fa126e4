"""Tokenizers of public models: SentencePiece, byte-level BPE, and files of Hugging Face."""

import itertools
import json
import os
import shutil

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from helpers import public_tokenizers as public
from helpers.public_tokenizers import JSON_NAMES, MODEL_NAMES, case, golden
from helpers.wheel_files import OPEN_CLIP, installed

from benchmarks import trained_weights
from tf_mural.data import (
    BytePairTokenizer,
    KerasHubTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    as_tokenizer,
    byte_pair_files,
    load_tokenizer,
    open_tokenizer,
    save_tokenizer,
    sentencepiece_model,
    text_notes,
    text_steps,
)
from tf_mural.errors import UserError
from tf_mural.export.presets.preprocessing import MuralTokenizer

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.path.join(os.path.dirname(ROOT), "shared", "data")
# {name of a kind of tokenizer: folder in the fixture `folders`}
KINDS = ["json/siglip2", "json/metaclip2", "json/t5", "json/clip", "json/bert"]
KINDS += ["model/siglip", "model/siglip2", "model/metaclip2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders with the files of small tokenizers: json/<name> and model/<name>."""
    folder = str(tmp_path_factory.mktemp("tokenizers"))
    public.write_json_folders(os.path.join(folder, "json"))
    case.write_trained(os.path.join(folder, "model"), case.SENTENCES, case.SMALL_SIZE)
    return folder


@pytest.fixture(scope="module")
def opened(folders):
    return {kind: open_tokenizer(os.path.join(folders, kind)) for kind in KINDS}


# --- the ids of Hugging Face ----------------------------------------------------------------------


def test_training_a_model_again_gives_the_recorded_model(folders):
    assert case.model_hashes(os.path.join(folders, "model")) == golden()["models"]["small"]


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_ids_of_sentencepiece_models_equal_those_of_hugging_face(name, opened):
    tokenizer = opened[f"model/{name}"]
    assert public.rows(tokenizer, case.SENTENCES) == golden()["small"][name]


@pytest.mark.parametrize("name", JSON_NAMES)
def test_ids_of_tokenizer_json_equal_those_of_hugging_face(name, opened):
    tokenizer = opened[f"json/{name}"]
    assert public.rows(tokenizer, case.SENTENCES) == golden()["small"][name]


def test_the_fields_of_models_are_those_of_the_package_sentencepiece():
    try:
        from sentencepiece import sentencepiece_model_pb2
    except Exception as error:  # its class of errors depends on the version of protobuf
        pytest.skip(f"the package needs another version of protobuf: {error}")
    expected = sentencepiece_model_pb2.ModelProto.DESCRIPTOR
    actual = sentencepiece_model.model_class().DESCRIPTOR
    assert {f.name for f in actual.fields} == {"pieces", "trainer_spec", "normalizer_spec"}
    for part in actual.fields:
        other = expected.fields_by_name[part.name]
        assert part.number == other.number
        for field in part.message_type.fields:
            same = other.message_type.fields_by_name[field.name]
            values = (field.number, field.default_value, field.cpp_type)
            # An enum and an int32 have the same bytes.
            kind = field.CPPTYPE_INT32 if same.enum_type else same.cpp_type
            assert values == (same.number, same.default_value, kind), field.name


def test_vocab_json_and_merges_give_the_tokenizer_of_tokenizer_json(opened, tmp_path):
    clip = opened["json/clip"]
    byte_pair_files.write_vocabulary(str(tmp_path), clip.vocabulary, clip.merges)
    for path in (tmp_path, tmp_path / "vocab.json", tmp_path / "merges.txt"):
        assert open_tokenizer(path).hash == clip.hash


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Folders with XLM-R, CLIP and models that are trained from all sentences."""
    if not os.path.isdir(os.path.join(SHARED, "tatoeba")):
        pytest.skip("no ../shared/data/tatoeba")
    folder = str(tmp_path_factory.mktemp("large"))
    sentences = case.languages(SHARED)
    assert sum(map(len, sentences.values())) == 10_100 and len(case.TATOEBA) == 40
    e5 = os.path.join(installed(), trained_weights.E5_FILE)
    clip = os.path.join(installed(OPEN_CLIP), "open_clip/bpe_simple_vocab_16e6.txt.gz")
    case.write_trained(folder, sum(sentences.values(), []), case.SIZE)
    case.write_xlm_r(folder, e5)
    case.write_clip(folder, clip)
    os.makedirs(os.path.join(folder, "xlm_r_json"))
    model = os.path.join(folder, "xlm_r", "sentencepiece.bpe.model")
    os.link(model, os.path.join(folder, "xlm_r_json", "sentencepiece.bpe.model"))
    public.xlm_r_json(os.path.join(folder, "xlm_r_json"))
    os.makedirs(os.path.join(folder, "clip_file"))
    shutil.copy(clip, os.path.join(folder, "clip_file"))
    return folder, sentences


@pytest.mark.slow
def test_training_from_all_languages_gives_the_recorded_models(large):
    assert case.model_hashes(large[0]) == golden()["models"]["large"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*case.CONFIGS, "xlm_r_json", "clip_file"])
def test_ids_equal_those_of_hugging_face_on_10000_sentences_in_40_languages(name, large):
    folder, sentences = large
    tokenizer = open_tokenizer(os.path.join(folder, name))
    expected = golden()["large"][name.replace("_json", "").replace("_file", "")]
    different = [
        language
        for language, texts in sentences.items()
        if case.digest(public.rows(tokenizer, texts)) != expected[language]
    ]
    assert not different


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rows_have_a_fixed_length_and_keep_the_token_at_the_end(kind, opened, folders):
    tokenizer = open_tokenizer(os.path.join(folders, kind), 6)
    assert tokenizer.max_tokens == 6
    long, empty = tokenizer([case.SENTENCES[0], ""]).numpy().tolist()
    full = public.rows(tokenizer, [case.SENTENCES[0]])[0]
    start, end = list(tokenizer.start), list(tokenizer.end)
    assert end and long == full[: 6 - len(end)] + end
    assert empty == [*start, *end, *[tokenizer.pad_id] * (6 - len(start) - len(end))]


@pytest.mark.parametrize(
    "kind, max_tokens, start, end, pad_id",
    [
        ("model/siglip", 64, (), (1,), 1),
        ("model/siglip2", 64, (), (1,), 0),
        ("model/metaclip2", 77, (0,), (2,), 1),
        ("json/metaclip2", 77, (0,), (2,), 1),
        ("json/siglip2", 64, (), (1,), 0),
        ("json/t5", 64, (), (1,), 0),
        ("json/clip", 64, (994,), (995,), 995),
        ("json/bert", 64, (2,), (3,), 0),
    ],
)
def test_files_give_the_special_tokens(kind, max_tokens, start, end, pad_id, opened):
    tokenizer = opened[kind]
    actual = tokenizer.max_tokens, tokenizer.start, tokenizer.end, tokenizer.pad_id
    assert actual == (max_tokens, start, end, pad_id)
    assert tokenizer.size == len(tokenizer.vocabulary)
    assert tokenizer.num_special == len(start) + len(end)


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_in_a_text_is_plain_text(kind, opened):
    tokenizer = opened[kind]
    special = {*tokenizer.start, *tokenizer.end, tokenizer.pad_id}
    texts = [f"a {tokenizer.vocabulary[token]} b" for token in special]
    assert special.isdisjoint(tokenizer.pieces(texts).flat_values.numpy().tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_is_put_before_each_text(kind, folders, opened):
    plain, prefixed = opened[kind], open_tokenizer(os.path.join(folders, kind), prefix="ein Kind ")
    expected = plain.pieces(["ein Kind lacht", "ein Kind "]).to_list()
    assert prefixed.pieces(["lacht", ""]).to_list() == expected
    assert prefixed.prefix == "ein Kind " and prefixed.hash != plain.hash
    known = prefixed.has_known_tokens(prefixed(["", "lacht"])).numpy().tolist()
    assert known == [False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_only_texts_with_known_pieces_are_known(kind, opened):
    tokenizer = opened[kind]
    texts = ["", "  ", "dog"] + ([] if tokenizer.has_bytes else ["𒀀𒀁"])
    known = tokenizer.has_known_tokens(tokenizer(texts)).numpy().tolist()
    assert known == [False, False, True, *[False] * (len(texts) - 3)]


@pytest.mark.parametrize("kind", ["model/metaclip2", "json/siglip2", "json/clip"])
def test_invalid_utf8_is_dropped(kind, opened):
    tokenizer = opened[kind]
    assert tokenizer.pieces([b"a\xff dog"]).to_list() == tokenizer.pieces(["a dog"]).to_list()


@pytest.mark.parametrize("kind", ["model/metaclip2", "json/siglip2", "json/clip"])
def test_operations_are_traced_once_and_run_in_datasets(kind, folders):
    tokenizer = open_tokenizer(os.path.join(folders, kind), 8)
    expected = tokenizer(case.SENTENCES).numpy()
    dataset = tf.data.Dataset.from_tensor_slices(case.SENTENCES).batch(3).map(tokenizer)
    assert dataset.element_spec.shape.as_list() == [None, 8]
    np.testing.assert_array_equal(np.concatenate(list(dataset.as_numpy_iterator())), expected)
    assert tokenizer._traced_pieces.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("kind", ["model/metaclip2", "json/clip"])
def test_a_saved_model_contains_the_tokenizer(kind, opened, tmp_path):
    tokenizer, module = opened[kind], tf.Module()
    signature = [tf.TensorSpec((None,), tf.string)]
    module.tokenize = tf.function(lambda texts: tokenizer(texts), input_signature=signature)
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    texts = tf.constant(case.SENTENCES)
    np.testing.assert_array_equal(loaded.tokenize(texts), tokenizer(texts))


# --- normalization --------------------------------------------------------------------------------


def test_lower_case_is_that_of_unicode_for_siglip_2_and_clip(opened):
    for kind in ("json/siglip2", "model/siglip2", "json/clip"):
        upper, lower = opened[kind].pieces(["ÄÖÜ ЖЩ ΑΣ É", "äöü жщ ασ é"]).to_list()
        assert opened[kind].lower_case and upper == lower
    assert not opened["model/metaclip2"].lower_case


def test_siglip_removes_case_punctuation_and_repeated_spaces(opened):
    a, b = opened["model/siglip"].pieces([" - ΟΔΟΣ,\n(two)  Dogs!", "οδος two dogs"]).to_list()
    assert a == b


@pytest.mark.parametrize("kind", ["model/siglip2", "json/siglip2", "json/clip", "json/bert"])
def test_lower_case_can_be_switched_off(kind, opened, folders):
    tokenizer = open_tokenizer(os.path.join(folders, kind), lower_case=False)
    assert not tokenizer.lower_case and tokenizer.hash != opened[kind].hash
    a, b = tokenizer.pieces(["DOG", "dog"]).to_list()
    assert a != b


@pytest.mark.parametrize(
    "step, text, expected",
    [
        ("nfc", "e\u0301", "é"),
        ("nfd", "é", "e\u0301"),
        ("nfkc", "ﬁ½", "fi1⁄2"),
        ("nfkd", "é²", "e\u03012"),
        ("lower", "ÀΣΑΣ İ", "àσασ i̇"),
        ("lower_words", "ÀΣΑΣ", "àσας"),
        ("strip_accents", "e\u0301", "e"),
        ("strip_punctuation", "a-b_c\\d[e]^f!¿", "abcdef¿"),
        ("single_spaces", " a\u3000\t\nb\u00a0", " a b "),
        ("strip", "\n a b\u00a0", "a b"),
    ],
)
def test_steps_change_texts(step, text, expected):
    assert text_steps.apply(tf.constant([text]), [step])[0].numpy().decode() == expected


def test_an_unknown_step_is_refused():
    with pytest.raises(UserError, match="unknown normalization step 'nfx'"):
        text_steps.check_steps(["nfx"])


# --- saved tokenizers -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_gives_the_same_rows(kind, folders, tmp_path):
    tokenizer = open_tokenizer(os.path.join(folders, kind), 9, prefix="a ")
    save_tokenizer(tokenizer, str(tmp_path / "a"))
    for loaded in (load_tokenizer(str(tmp_path / "a")), open_tokenizer(tmp_path / "a")):
        assert type(loaded) is type(tokenizer)
        assert loaded.hash == tokenizer.hash and loaded.max_tokens == 9
    texts = [*case.SENTENCES, ""]
    np.testing.assert_array_equal(loaded(texts), tokenizer(texts))


@pytest.mark.parametrize("change", [{"type": "other"}, {"steps": None}])
def test_a_damaged_description_is_refused(change, opened, tmp_path):
    save_tokenizer(opened["model/siglip"], str(tmp_path))
    path = tmp_path / "tokenizer.json"
    description = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({k: v for k, v in description.items() if v is not None}))
    with pytest.raises(UserError, match="tokenizer.json describes no tokenizer that save_token"):
        open_tokenizer(tmp_path)


def test_the_hash_changes_with_everything_that_changes_ids(opened):
    base = opened["model/metaclip2"]
    proto = sentencepiece_model.parse_model(base.model)

    def changed(**options):
        defaults = {"start": base.start, "end": base.end, "pad_id": base.pad_id}
        return SentencePieceTokenizer(proto, **{**defaults, **options}).hash

    hashes = [changed(), changed(start=()), changed(end=()), changed(pad_id=2)]
    hashes += [changed(steps=["nfc"]), changed(prefix="a ")]
    proto.pieces[5].score -= 1e-3
    hashes.append(changed())
    proto.pieces[5].piece += "x"
    hashes.append(changed())
    proto.normalizer_spec.precompiled_charsmap = b""
    hashes.append(changed())
    proto.normalizer_spec.add_dummy_prefix = False
    hashes.append(changed())
    assert hashes[0] == base.hash and len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("kind", ["model/metaclip2", "json/clip", "json/bert"])
def test_a_preset_contains_the_tokenizer(kind, folders, tmp_path):
    tokenizer = open_tokenizer(os.path.join(folders, kind), 9, prefix="a ")
    saved = MuralTokenizer(tokenizer, languages=["en"])
    saved.save_assets(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(saved.file_assets)
    layer = MuralTokenizer.from_config(saved.get_config())
    layer.load_assets(str(tmp_path))
    assert layer.tokenizer.hash == tokenizer.hash and layer.languages == ["en"]
    assert as_tokenizer(layer).hash == tokenizer.hash and layer.max_tokens == 9


# --- byte-pair encodings --------------------------------------------------------------------------


def merge_slowly(word, ranks):
    """Returns the pieces of a word: the pair with the lowest rank is merged first."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while True:
        pairs = [
            (ranks.get(pair, len(ranks)), i) for i, pair in enumerate(itertools.pairwise(pieces))
        ]
        rank, i = min(pairs, default=(len(ranks), 0))
        if rank == len(ranks):
            return pieces
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


def test_pieces_of_random_words_equal_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    alphabet = byte_pair_files.byte_alphabet()
    pieces = [*alphabet, *(c + "</w>" for c in alphabet)]
    symbols = ["a", "b", "c", "a</w>", "b</w>", "c</w>"]
    merges = {}
    while len(merges) < 60:
        left, right = rng.choice(symbols, 2)
        if not left.endswith("</w>") and (left, right) not in merges:
            merges[str(left), str(right)] = len(merges)
            symbols.append(str(left + right))
    pieces = list(dict.fromkeys([*pieces, *symbols, "<s>", "</s>"]))
    tokenizer = BytePairTokenizer(pieces, list(merges), 8)
    words = ["".join(rng.choice(list("abc"), rng.integers(1, 24))) for _ in range(400)] + ["a" * 50]
    actual = tokenizer.pieces(words).to_list()
    assert [[pieces[i] for i in row] for row in actual] == [merge_slowly(w, merges) for w in words]


def test_a_very_long_word_is_split_in_parts(opened):
    tokenizer = opened["json/clip"]
    pieces = tokenizer.pieces(["狗" * 30_000, "a"])
    assert pieces.row_lengths().numpy().tolist()[0] > 30_000 / 3
    text = "".join(tokenizer.vocabulary[i] for i in pieces[0].numpy()).removesuffix("</w>")
    alphabet = {c: byte for byte, c in enumerate(byte_pair_files.byte_alphabet())}
    assert bytes(alphabet[c] for c in text).decode() == "狗" * 30_000


# --- other parts ----------------------------------------------------------------------------------


def test_notes_about_texts_use_the_special_tokens_of_the_tokenizer(folders, opened):
    for kind, num_special in (("model/siglip", 1), ("json/clip", 2), ("json/metaclip2", 2)):
        tokenizer = open_tokenizer(os.path.join(folders, kind), 12)
        texts = [case.SENTENCES[0], "a dog"]
        length = opened[kind].pieces(texts[:1]).row_lengths().numpy()[0]
        notes = text_notes.TextNotes(tokenizer, ["en"])(texts, tokenizer(texts).numpy())
        expected = f"has {length} tokens, of which the model reads the first {12 - num_special}"
        assert notes[0].endswith(expected) and notes[1] == ""


def test_only_tokenizers_without_bytes_lack_letters(opened):
    text = "ᏣᎳᎩ ꞵ"
    for kind, note in (
        ("model/metaclip2", "lacks letters"),
        ("json/siglip2", ""),
        ("json/clip", ""),
    ):
        notes = text_notes.TextNotes(opened[kind], ["tlh"])
        assert notes.language_notes([text, "a dog"]) == [notes.language_note(text), ""]
        assert (note in notes.language_note(text)) if note else not notes.language_note(text)


def test_tokenizers_of_keras_hub_are_converted(opened, folders):
    with open(os.path.join(folders, "model", "metaclip2", "sentencepiece.bpe.model"), "rb") as file:
        proto = file.read()
    texts = ["Two dogs run.", "Две собаки бегут"]
    own = opened["model/metaclip2"]
    xlm_r = keras_hub.tokenizers.XLMRobertaTokenizer(proto)
    tokenizer = as_tokenizer(xlm_r, own.max_tokens)
    assert tokenizer.hash == own.hash and tokenizer.size == xlm_r.vocabulary_size()
    np.testing.assert_array_equal(tokenizer(texts), KerasHubTokenizer(xlm_r, 77)(texts))
    meta_clip = keras_hub.tokenizers.MetaCLIP2Tokenizer(proto)  # without <mask>
    tokenizer = as_tokenizer(meta_clip, own.max_tokens)
    assert tokenizer.size == own.size - 1 == meta_clip.vocabulary_size()
    assert tokenizer.vocabulary == own.vocabulary[:-1]
    np.testing.assert_array_equal(tokenizer(texts), own(texts))


def test_siglip_and_clip_of_keras_hub_are_converted_with_lower_case_of_unicode(opened, folders):
    with open(os.path.join(folders, "model", "siglip", "spiece.model"), "rb") as file:
        siglip = as_tokenizer(keras_hub.tokenizers.SigLIPTokenizer(file.read()))
    assert siglip.hash == opened["model/siglip"].hash
    clip = opened["json/clip"]
    ids = {piece: i for i, piece in enumerate(clip.vocabulary)}
    merges = [" ".join(pair) for pair in clip.merges]
    layer = keras_hub.tokenizers.CLIPTokenizer(ids, merges, pad_with_end_token=True)
    tokenizer = as_tokenizer(layer, 77)
    assert tokenizer.hash == clip.hash and tokenizer.max_tokens == 77
    assert as_tokenizer(layer, 77, pad_id=0).pad_id == 0


def test_a_path_is_a_tokenizer(folders):
    tokenizer = as_tokenizer(os.path.join(folders, "json", "t5"), 10)
    assert isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.max_tokens == 10


# --- bad input ------------------------------------------------------------------------------------


def set_item(*path, value):
    def change(data):
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


def drop_piece(data):
    del data["model"]["vocab"]["i</w>"]


def drop_merge(data):
    data["model"]["merges"].pop(40)


def separate_merges(data):
    """Moves a merge to the end, behind others, that forms the same piece as the merge before it."""
    merges = data["model"]["merges"]
    joined = ["".join(pair) for pair in merges]
    second = next(i for i in range(1, len(joined)) if joined[i] == joined[i - 1])
    merges.append(merges.pop(second))


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("t5", set_item("model", "type", value="WordLevel"), "is WordLevel, expected WordPiece, "),
        ("t5", set_item("model", value=None), "has no model with a vocabulary"),
        ("t5", set_item("model", "unk_id", value=None), "has no token for unknown texts"),
        ("t5", set_item("model", "vocab", 5, value=3), "is not a valid tokenizer.json"),
        (
            "t5",
            set_item("normalizer", value={"type": "Nmt"}),
            "the normalizer Nmt is not supported",
        ),
        (
            "t5",
            set_item("pre_tokenizer", value={"type": "Digits", "individual_digits": True}),
            "the pre-tokenizer Digits \\(True\\) is not supported",
        ),
        ("t5", set_item("added_tokens", 0, "id", value=9), "and that of '<pad>' in added_tokens"),
        ("clip", drop_piece, "no piece has the id 328, but ids go up to 995"),
        ("clip", set_item("model", "end_of_word_suffix", value=""), "is not that of CLIP"),
        (
            "siglip2",
            drop_merge,
            "the merges lack '.*' . '.*', which a SentencePiece model contains",
        ),
        ("siglip2", separate_merges, "the merges that form '.*' do not follow each other"),
        ("bert", set_item("model", "vocab", "[SEP]", value=4), "have the same id"),
    ],
)
def test_a_tokenizer_json_that_cannot_be_used_is_refused(name, change, message, folders, tmp_path):
    source = os.path.join(folders, "json", name)
    folder = public.change_json(source, tmp_path / "a", change)
    with pytest.raises(UserError, match=message) as error:
        open_tokenizer(folder)
    assert "tokenizer.json" in str(error.value) and "\n" not in str(error.value)


def test_a_special_token_that_is_not_in_the_vocabulary_is_refused(folders, tmp_path):
    change = set_item("pad_token", value="<blank>")
    source = os.path.join(folders, "json", "siglip2")
    folder = public.change_json(source, tmp_path / "a", change, "tokenizer_config.json")
    with pytest.raises(UserError, match="no piece '<blank>', which is the pad_token of"):
        open_tokenizer(folder)
    shutil.copytree(os.path.join(folders, "model", "siglip2"), tmp_path / "b")
    shutil.copy(os.path.join(folder, "tokenizer_config.json"), tmp_path / "b")
    with pytest.raises(UserError, match="no piece '<blank>', which is the pad_token of"):
        open_tokenizer(tmp_path / "b")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("spiece.model", b"not a model", "spiece.model is damaged"),
        ("spiece.model", b"", "has no pieces"),
        ("tokenizer.json", b"{", "is not JSON"),
        ("tokenizer.json", b"[]", "expected a JSON object, found a list"),
        ("vocab.json", b"{}", "has vocab.json but no merges.txt"),
        ("merges.txt", b"", "has merges.txt but no vocab.json"),
        ("bpe_simple_vocab_16e6.txt.gz", b"abc", "is damaged"),
        ("tokenizer.bin", b"", "unknown file type"),
        ("other", b"", "has no tokenizer; expected one of tokenizer.json, spiece.model"),
    ],
)
def test_a_damaged_file_is_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    path = tmp_path if name == "other" else tmp_path / name
    with pytest.raises(UserError, match=message):
        open_tokenizer(path)


def test_files_that_do_not_belong_together_are_refused(opened, folders, tmp_path):
    clip = opened["json/clip"]
    byte_pair_files.write_vocabulary(str(tmp_path), clip.vocabulary, clip.merges)
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8")
    (tmp_path / "merges.txt").write_text(lines + "a b c\n", encoding="utf-8")
    with pytest.raises(UserError, match="line .*: expected two pieces, found 'a b c'"):
        open_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text(lines + "zq zq\n", encoding="utf-8")
    with pytest.raises(UserError, match="merge .* but the vocabulary has no 'zq'"):
        open_tokenizer(tmp_path)
    ids = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    (tmp_path / "vocab.json").write_text(json.dumps({**ids, "i": 5000}), encoding="utf-8")
    with pytest.raises(UserError, match="expected the ids 0 to 995 of 996 pieces"):
        open_tokenizer(tmp_path)
    with open(os.path.join(folders, "model", "siglip", "spiece.model"), "rb") as file:
        (tmp_path / "sentencepiece.bpe.model").write_bytes(file.read())
    with pytest.raises(UserError, match="starts with the pieces <pad> </s> <unk>"):
        open_tokenizer(tmp_path / "sentencepiece.bpe.model")


def test_a_path_without_a_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such file or folder"):
        open_tokenizer(tmp_path / "a")


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_tokens_are_refused(kind, folders, opened):
    needed = opened[kind].num_special + 1
    open_tokenizer(os.path.join(folders, kind), needed)
    with pytest.raises(UserError, match=f"max_tokens is {needed - 1}, but .* set {needed} or more"):
        open_tokenizer(os.path.join(folders, kind), needed - 1)


def test_a_word_piece_vocabulary_is_opened_with_the_settings_of_its_folder(tmp_path):
    pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] a dog".split()
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    assert not open_tokenizer(tmp_path).lower_case
    settings = {"do_lower_case": True, "model_max_length": 16}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = open_tokenizer(tmp_path / "vocab.txt")
    assert isinstance(tokenizer, Tokenizer) and tokenizer.lower_case
    assert (
        tokenizer.max_tokens == 16 and open_tokenizer(tmp_path, lower_case=False).max_tokens == 16
    )
    with pytest.raises(UserError, match="unknown|is not JSON"):
        (tmp_path / "tokenizer_config.json").write_text("{")
        open_tokenizer(tmp_path)
