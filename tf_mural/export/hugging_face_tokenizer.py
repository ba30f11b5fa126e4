"""The tokenizer of a model as the file tokenizer.json of Hugging Face's package `tokenizers`.

Programs without TensorFlow, in Python, Rust, Node.js and other languages, can read this file:

    tokenizer = tokenizers.Tokenizer.from_file("exported/tokenizer.json")
    tokens = np.array([e.ids for e in tokenizer.encode_batch(texts)], np.int32)

The rows equal those of `data.tokenizers.Tokenizer` for usual texts. Two rules of `Tokenizer` cannot
be expressed in the file. First, unknown characters make a word of more than 100 characters unknown.
Second, zero-width spaces are removed and never separate words.
"""

# `tokenizers` maps longer words to [UNK]. This number exceeds the length of all texts.
_MAX_WORD_CHARACTERS = 2**31 - 1


def write_tokenizer(path, tokenizer):
    """Writes a tokenizer to a file that `tokenizers.Tokenizer.from_file` reads.

    The file pads and truncates each row to `tokenizer.max_tokens`, adds [CLS] and [SEP], and treats
    special tokens in a text as plain text.

    Args:
        path: file to write, usually tokenizer.json.
        tokenizer: `data.tokenizers.Tokenizer`.
    """
    hugging_face_tokenizer(tokenizer).save(str(path))


def hugging_face_tokenizer(tokenizer):
    """Returns a `tokenizers.Tokenizer` with the rows of a `data.tokenizers.Tokenizer`.

    Args:
        tokenizer: `data.tokenizers.Tokenizer`.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {piece: i for i, piece in enumerate(tokenizer.vocabulary)}
    word_piece = models.WordPiece(
        ids, unk_token="[UNK]", max_input_chars_per_word=_MAX_WORD_CHARACTERS
    )
    result = Tokenizer(word_piece)
    is_lower = tokenizer.lower_case
    bert = normalizers.BertNormalizer(strip_accents=is_lower, lowercase=is_lower)
    result.normalizer = normalizers.Sequence([normalizers.NFC(), bert])
    result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    result.post_processor = processors.BertProcessing(
        ("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])
    )
    result.enable_truncation(tokenizer.max_tokens)
    result.enable_padding(length=tokenizer.max_tokens, pad_id=tokenizer.pad_id, pad_token="[PAD]")
    return result
