"""The sides of PyTorch in `benchmarks.embedding_speed`, in an environment of their own.

    python benchmarks/embedding_peer.py SETTINGS.json

`worker.ScriptWorker` starts the script, and describes the lines that it reads and prints.
"""

import io
import json
import os
import sys
import time

_PREFIX = "query: "  # E5 puts it before each text
_MAX_TOKENS = 64


class Sides:
    """A BERT of sentence-transformers and a Lite0 of timm with random weights.

    Args:
        settings: see `embedding_sides.Sides`.
    """

    def __init__(self, settings):
        self._settings, self._models, self._matrix = settings, {}, None

    def embed(self, part, side, batch_size, count):
        """Embeds the texts, the images, or the folder of images; returns the number of rows."""
        if part == "texts":
            texts = [_PREFIX + text for text in self._settings["texts"][:count]]
            model, rows = self._sentence_transformer(), 0
            groups = [[text] for text in texts] if batch_size == 1 else [texts]
            for group in groups:
                rows += len(model.encode(group, batch_size=batch_size, show_progress_bar=False))
            return rows
        names = sorted(os.listdir(self._settings["photos"]))[:count]
        paths = [os.path.join(self._settings["photos"], name) for name in names]
        if part == "folder":
            return self._embed_folder(paths, side, batch_size)
        return self._embed_images(paths, side, batch_size)

    def matmul(self, size):
        """Multiplies two float32 matrices of `size` x `size`."""
        import torch

        if self._matrix is None or len(self._matrix) != size:
            self._matrix = torch.randn(size, size)
        return float((self._matrix @ self._matrix)[0, 0])

    def _sentence_transformer(self):
        if "text" not in self._models:
            self._models["text"] = make_sentence_transformer(self._settings["folder"])
        return self._models["text"]

    def _image_model(self, side):
        """Returns a function from pixels (n, 3, 224, 224) to unit rows."""
        import timm
        import torch

        if side not in self._models:
            model = timm.create_model("tf_efficientnet_lite0", num_classes=384).eval()
            channels_last = torch.channels_last if side != "eager" else torch.contiguous_format
            model = model.to(memory_format=channels_last)
            run = torch.compile(model) if side == "compiled" else model

            def embed(pixels):
                with torch.inference_mode():
                    rows = run(pixels.contiguous(memory_format=channels_last))
                    return torch.nn.functional.normalize(rows, dim=-1).numpy()

            self._models[side] = embed
        return self._models[side]

    def _transform(self):
        from open_clip.transform import image_transform

        return image_transform(
            224, is_train=False, mean=(0.498,) * 3, std=(0.502,) * 3, resize_mode="shortest"
        )

    def _embed_images(self, paths, side, batch_size):
        import torch
        from PIL import Image

        transform, embed, rows = self._transform(), self._image_model(side), 0
        if "files" not in self._models:
            self._models["files"] = {}
        files = self._models["files"]
        for path in paths:
            if path not in files:
                with open(path, "rb") as file:
                    files[path] = file.read()
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            pixels = [transform(Image.open(io.BytesIO(files[path]))) for path in batch]
            rows += len(embed(torch.stack(pixels)))
        return rows

    def _embed_folder(self, paths, side, batch_size):
        import numpy as np
        from torch.utils.data import DataLoader

        embed = self._image_model(side)
        data = _Images(paths, self._transform())
        loader = DataLoader(data, batch_size=batch_size, num_workers=2)
        rows = np.concatenate([embed(pixels) for pixels in loader])
        np.save(os.path.join(self._settings["folder"], "peer.npy"), rows)
        return len(rows)


class _Images:
    """A data set of image files."""

    def __init__(self, paths, transform):
        self._paths, self._transform = paths, transform

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, index):
        from PIL import Image

        return self._transform(Image.open(self._paths[index]))


def make_sentence_transformer(folder):
    """Returns a `SentenceTransformer` of the size of multilingual-e5-small, with random weights."""
    from sentence_transformers import SentenceTransformer, models
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers import models as token_models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    with open(os.path.join(folder, "pieces.json"), encoding="utf-8") as file:
        pieces = json.load(file)
    names = [name for name, _ in pieces]
    unknown = names.index("<unk>")
    tokenizer = Tokenizer(token_models.Unigram([tuple(pair) for pair in pieces], unk_id=unknown))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    ends = [(name, names.index(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=ends
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<unk>",
        unk_token="<unk>",
        model_max_length=_MAX_TOKENS,
    )
    path = os.path.join(folder, "sentence_transformer")
    config = BertConfig(
        vocab_size=len(names) + 8,
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
    )
    BertModel(config).save_pretrained(path)
    fast.save_pretrained(path)
    transformer = models.Transformer(path, max_seq_length=_MAX_TOKENS)
    parts = [transformer, models.Pooling(384, "mean"), models.Normalize()]
    return SentenceTransformer(modules=parts, device="cpu")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        sides = Sides(json.load(file))
    for line in sys.stdin:
        method, arguments = json.loads(line)
        began = time.perf_counter()
        try:
            getattr(sides, method)(*arguments)
            answer = {"seconds": time.perf_counter() - began}
        except Exception as error:  # The other sides continue.
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
