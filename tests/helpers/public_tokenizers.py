"""Tokenizers in the layout of Hugging Face, with the ids that its classes give."""

import functools
import json
import os
import zipfile

from golden import tokenizers_case as case

GOLDEN = os.path.dirname(case.__file__)

JSON_NAMES = ("siglip2", "metaclip2", "t5", "clip", "bert")
MODEL_NAMES = ("siglip", "siglip2", "metaclip2")


@functools.cache
def golden():
    """Returns the recorded ids and hashes."""
    with open(os.path.join(GOLDEN, "tokenizers.json"), encoding="utf-8") as file:
        return json.load(file)


def write_json_folders(folder):
    """Writes the folders `JSON_NAMES` with tokenizer.json and tokenizer_config.json."""
    charsmap = case.charsmap()
    with zipfile.ZipFile(os.path.join(GOLDEN, "tokenizers.zip")) as archive:
        for name in archive.namelist():
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(archive.read(name).decode().replace("CHARSMAP", charsmap))


def rows(tokenizer, texts):
    """Returns the ids of texts including special tokens, as lists without padding."""
    pieces = tokenizer.pieces(texts).to_list()
    return [[*tokenizer.start, *row, *tokenizer.end] for row in pieces]


def change_json(source, folder, change, name="tokenizer.json"):
    """Copies a folder with a tokenizer, and changes a JSON file. Returns the new folder.

    Args:
        source: folder with tokenizer.json.
        folder: new folder.
        change: function that changes the content of the file.
        name: the changed file.
    """
    os.makedirs(folder)
    for file_name in os.listdir(source):
        with open(os.path.join(source, file_name), encoding="utf-8") as file:
            data = json.load(file)
        if file_name == name:
            change(data)
        with open(os.path.join(folder, file_name), "w", encoding="utf-8") as file:
            json.dump(data, file)
    return str(folder)


def xlm_r_json(folder):
    """Writes tokenizer.json of XLM-R with the package tokenizers, from sentencepiece.bpe.model."""
    import tokenizers

    from tf_mural.data import sentencepiece_model

    with open(os.path.join(folder, "sentencepiece.bpe.model"), "rb") as file:
        proto = sentencepiece_model.model_class().FromString(file.read())
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [(piece, 0.0) for piece in special]
    pieces += [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    model = tokenizers.models.Unigram([*pieces, ("<mask>", 0.0)], 3)
    tokenizer = tokenizers.Tokenizer(model)
    charsmap = proto.normalizer_spec.precompiled_charsmap
    tokenizer.normalizer = tokenizers.normalizers.Precompiled(charsmap)
    split = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = split.Sequence([split.WhitespaceSplit(), split.Metaspace()])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([*special, "<mask>"])
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
