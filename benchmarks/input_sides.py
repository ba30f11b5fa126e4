"""Both sides of benchmarks/input.py: each reads the same JPEGs, in a process of its own."""

import glob
import io
import os
import time

import numpy as np

SIDE, QUALITY = 346, 95  # as benchmarks/convert.py makes them
_AHEAD = 8  # batches that lie ready after a rest, and are not timed


def prepare(photos, folder, count, shards=4):
    """Writes photographs as JPEGs of `SIDE` pixels: records for us, tars for webdataset.

    Args:
        photos: folder of JPEG files, taken in the order of their names.
        folder: where "records" and "tars" are written.
        count: images; photographs are taken again where there are fewer.

    Returns:
        Bytes of a JPEG, on average.
    """
    import tarfile

    from PIL import Image

    from tf_mural.data import records

    files = sorted(glob.glob(os.path.join(photos, "**", "*.jpg"), recursive=True))
    if not files:
        raise SystemExit(f"no JPEG files in {photos}")
    os.makedirs(os.path.join(folder, "tars"))
    rows, size = [], 0
    for number in range(count):
        out = io.BytesIO()
        with Image.open(files[number % len(files)]) as image:
            square = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            square.save(out, "JPEG", quality=QUALITY)
        caption = f"a photograph with the number {number}"
        rows.append(records.Record(str(number), (out.getvalue(),), (("en", caption),)))
        size += len(out.getvalue())
    records.write(os.path.join(folder, "records"), rows, shards=shards)
    for shard in range(shards):
        with tarfile.open(os.path.join(folder, "tars", f"{shard:05d}.tar"), "w") as tar:
            for row in rows[shard::shards]:
                for ending, data in (("jpg", row.images[0]), ("txt", row.texts[0][1].encode())):
                    about = tarfile.TarInfo(f"{int(row.id):07d}.{ending}")
                    about.size = len(data)
                    tar.addfile(about, io.BytesIO(data))
    return size / count


class _Batches:
    """Batches from an iterator, timed without those that a rest left ready."""

    batches, rows = iter(()), 0

    def run(self, count):
        """Pulls some batches; returns examples a second."""
        for _ in range(_AHEAD):
            next(self.batches)
        began = time.perf_counter()
        for _ in range(count):
            next(self.batches)
        return count * self.rows / (time.perf_counter() - began)


class Pipeline(_Batches):
    """The batches of `tools/train.py`, from records.

    Args:
        folder: of the records.
        resize, crop: pixels.
        rows: of a batch.
        texts: text fields: 1 caption, or 2 as of a triple.
    """

    def __init__(self, folder, resize, crop, rows, texts=1):
        from tf_mural import experiment
        from tf_mural.data import input_pipeline, records, sampling
        from tf_mural.data import tokenizers as text

        opened = records.RecordSet.open(folder)
        fields = {"image": "image", **{f"text_{i}": "text" for i in range(texts)}}
        stream = sampling.Stream([opened], texts, with_image=True)
        self.batches, self.rows = (
            iter(
                input_pipeline.training_dataset(
                    [input_pipeline.Source(stream, fields, flip=True)],
                    text.Tokenizer(experiment.find_vocabulary("scenes", ""), 64),
                    input_pipeline.Sizes(resize, crop),
                    stream.languages,
                    rows,
                )
            ),
            rows,
        )


class Decoding(_Batches):
    """`tf.io.decode_jpeg` alone, of bytes in memory, on all cores: the limit of our side."""

    def __init__(self, folder, rows):
        import tensorflow as tf

        from tf_mural.data import records

        opened = records.RecordSet.open(folder)
        data = [records.deserialize(one).images[0] for one in opened.read(range(len(opened)))]
        dataset = tf.data.Dataset.from_tensor_slices(data).repeat()
        cores = len(os.sched_getaffinity(0))
        dataset = dataset.map(
            lambda one: tf.size(tf.io.decode_jpeg(one, channels=3)), num_parallel_calls=cores
        )
        self.batches, self.rows = iter(dataset.batch(rows).prefetch(2)), rows


class WebDataset(_Batches):
    """webdataset and torch's DataLoader over tars: PIL decodes, crops and mirrors.

    It is spared what ours does: tokens, and a place of their own for the texts of a batch. Pixels
    stay uint8, as ours do.

    Args:
        folder: of the tars.
        resize, crop: pixels.
        rows: of a batch.
        workers: processes of the DataLoader.
    """

    def __init__(self, folder, resize, crop, rows, workers):
        import torch
        import webdataset

        torch.set_num_threads(1)  # of this process, which only collects what the workers made
        urls = sorted(glob.glob(os.path.join(folder, "*.tar")))
        dataset = webdataset.WebDataset(urls, resampled=True, shardshuffle=False)
        dataset = dataset.shuffle(256).decode("pil").to_tuple("jpg", "txt")
        dataset = dataset.map_tuple(_Augmented(resize, crop)).batched(rows, partial=False)
        loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers)
        self.batches, self.rows = iter(loader), rows


class _Augmented:
    """A PIL image to a tensor uint8 (crop, crop, 3): resized, cropped at random, mirrored."""

    def __init__(self, resize, crop):
        self._resize, self._crop = resize, crop
        self._rng = np.random.default_rng()

    def __call__(self, image):
        import torch
        from PIL import Image

        if image.size != (self._resize, self._resize):
            image = image.resize((self._resize, self._resize), Image.Resampling.BILINEAR)
        left, top = self._rng.integers(0, self._resize - self._crop + 1, 2)
        image = image.crop((left, top, left + self._crop, top + self._crop))
        if self._rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image))


class Tokens:
    """Tokenising sentences, by this package and by Hugging Face's tokenizers, all threads on.

    Args:
        sentences: list of strings.
        vocabulary: pieces to learn from them.
        max_tokens: width of a row.
        rows: strings that are tokenised at a time.
    """

    def __init__(self, sentences, vocabulary, max_tokens, rows):
        import tensorflow as tf
        from tokenizers import BertWordPieceTokenizer

        from tf_mural.data.tokenizers import Tokenizer
        from tf_mural.data.vocabulary import train_vocabulary

        pieces = train_vocabulary(sentences, vocabulary)
        self._sentences, self._rows = sentences, rows
        self._ours = Tokenizer(pieces, max_tokens)
        dataset = tf.data.Dataset.from_tensor_slices(sentences).batch(rows)
        self._dataset = dataset.map(self._ours, num_parallel_calls=len(os.sched_getaffinity(0)))
        self._theirs = BertWordPieceTokenizer(
            {piece: i for i, piece in enumerate(pieces)}, strip_accents=False, lowercase=False
        )
        self._theirs.enable_truncation(max_tokens)
        self._theirs.enable_padding(length=max_tokens)

    def ours(self):
        """All sentences; returns sentences a second and the rows."""
        return self._timed(lambda: [batch.numpy() for batch in self._dataset])

    def theirs(self):
        """Likewise."""
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        parts = range(0, len(self._sentences), self._rows)
        return self._timed(
            lambda: [
                np.array(
                    [
                        encoding.ids
                        for encoding in self._theirs.encode_batch(
                            self._sentences[start : start + self._rows]
                        )
                    ],
                    np.int32,
                )
                for start in parts
            ]
        )

    def _timed(self, tokenise):
        began = time.perf_counter()
        tokens = np.concatenate(tokenise())
        return len(tokens) / (time.perf_counter() - began), tokens
