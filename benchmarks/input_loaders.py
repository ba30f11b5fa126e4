"""The loaders that benchmarks/input.py compares; each runs in a process of its own."""

import glob
import io
import os
import time

import numpy as np

SIDE, QUALITY = 346, 95  # Side in pixels and JPEG quality are the same as in convert.py.
_PREFETCHED = 8  # This number of batches, which an idle loader prepares, is not timed.


def prepare(photos, folder, count, shards=4):
    """Writes photographs as JPEGs of `SIDE` pixels to records and to tars for webdataset.

    Args:
        photos: folder of JPEG files, read in the order of their names.
        folder: folder in which "records" and "tars" are written.
        count: number of images; photographs are repeated if there are fewer.
        shards: number of files of each format.

    Returns:
        Mean number of bytes of a JPEG.
    """
    import tarfile

    from PIL import Image

    from tf_mural.data import records

    files = sorted(glob.glob(os.path.join(photos, "**", "*.jpg"), recursive=True))
    if not files:
        raise SystemExit(f"no JPEG files in {photos}")
    os.makedirs(os.path.join(folder, "tars"))
    examples, size = [], 0
    for number in range(count):
        jpeg = io.BytesIO()
        with Image.open(files[number % len(files)]) as image:
            square = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            square.save(jpeg, "JPEG", quality=QUALITY)
        caption = f"a photograph with the number {number}"
        examples.append(records.Record(str(number), (jpeg.getvalue(),), (("en", caption),)))
        size += len(jpeg.getvalue())
    records.write(os.path.join(folder, "records"), examples, shards=shards)
    for shard in range(shards):
        with tarfile.open(os.path.join(folder, "tars", f"{shard:05d}.tar"), "w") as tar:
            for example in examples[shard::shards]:
                members = {"jpg": example.images[0], "txt": example.texts[0][1].encode()}
                for extension, data in members.items():
                    member = tarfile.TarInfo(f"{int(example.id):07d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return size / count


class _Loader:
    """Times the batches of an iterator.

    Attributes:
        batches: iterator.
        batch_size: examples per batch.
    """

    batches, batch_size = iter(()), 0

    def run(self, count):
        """Reads `count` batches; returns examples per second."""
        for _ in range(_PREFETCHED):
            next(self.batches)
        began = time.perf_counter()
        for _ in range(count):
            next(self.batches)
        return count * self.batch_size / (time.perf_counter() - began)


class Pipeline(_Loader):
    """The input pipeline of `tools/train.py`.

    Args:
        folder: folder of the records.
        resize: height and width after resizing.
        crop: height and width of the crop.
        batch_size: examples per batch.
        texts: number of text fields: 1, or 2 for triples.
        memory_bytes: size up to which a remote set is read into memory; None: the default.
        cache: folder of the cache of remote records, or None.

    If `resize` is None, the examples have no images.
    """

    def __init__(self, folder, resize, crop, batch_size, texts=1, memory_bytes=None, cache=None):
        from tf_mural import experiment
        from tf_mural.data import input_pipeline, records, sampling
        from tf_mural.data.chunk_cache import FOLDER_VARIABLE
        from tf_mural.data.preprocessing import Preprocessing
        from tf_mural.data.records import remote_shards
        from tf_mural.data.tokenizers import Tokenizer

        if memory_bytes is not None:
            remote_shards.MAX_MEMORY_BYTES = memory_bytes
        if cache:
            os.environ[FOLDER_VARIABLE] = cache
        record_set = records.RecordSet.open(folder)
        fields = {"image": "image"} if resize else {}
        fields |= {f"text_{i}": "text" for i in range(texts)}
        sampler = sampling.IndexSampler([record_set], texts, with_image=resize is not None)
        dataset = input_pipeline.training_dataset(
            [input_pipeline.Source(sampler, fields, flip=True)],
            Tokenizer(experiment.find_vocabulary("scenes", None), 64),
            Preprocessing(resize, crop) if resize else None,
            sampler.languages,
            batch_size,
        )
        self.batches, self.batch_size = iter(dataset), batch_size
        self.record_set = record_set


class FirstBatch:
    """The time until the first batch of the texts of a record set."""

    def __init__(self, folder, batch_size):
        import tensorflow as tf  # noqa: F401  The import is not timed.

        import tf_mural.data.input_pipeline  # noqa: F401

        self._folder, self._batch_size = folder, batch_size

    def run(self):
        """Returns {"seconds", "shards", "open_files": files that the process opened}."""
        before, began = len(os.listdir("/dev/fd")), time.perf_counter()
        pipeline = Pipeline(self._folder, None, None, self._batch_size, texts=2)
        next(pipeline.batches)
        seconds = time.perf_counter() - began
        shards = len(pipeline.record_set.manifest["shards"])
        open_files = len(os.listdir("/dev/fd")) - before
        return {"seconds": seconds, "shards": shards, "open_files": open_files}


class Decoding(_Loader):
    """Only decodes JPEGs in memory, on all cores; no input pipeline can be faster."""

    def __init__(self, folder, batch_size):
        import tensorflow as tf

        from tf_mural.data import records

        record_set = records.RecordSet.open(folder)
        examples = record_set.read(range(len(record_set)))
        data = [records.deserialize(example).images[0] for example in examples]
        dataset = tf.data.Dataset.from_tensor_slices(data).repeat()
        cores = len(os.sched_getaffinity(0))
        dataset = dataset.map(
            lambda jpeg: tf.size(tf.io.decode_jpeg(jpeg, channels=3)), num_parallel_calls=cores
        )
        self.batches = iter(dataset.batch(batch_size).prefetch(2))
        self.batch_size = batch_size


class WebDataset(_Loader):
    """webdataset and PyTorch's DataLoader over tars; PIL decodes, crops and flips.

    Unlike `Pipeline`, this loader does not tokenize texts. Both loaders return uint8 pixels.

    Args:
        folder: folder of the tars.
        urls: addresses of the tars, in the place of `folder`.
        resize: height and width after resizing.
        crop: height and width of the crop.
        batch_size: examples per batch.
        workers: processes of the DataLoader.
    """

    def __init__(self, resize, crop, batch_size, workers, folder=None, urls=None):
        import torch
        import webdataset

        torch.set_num_threads(1)  # this process only collects the batches of the workers
        urls = urls or sorted(glob.glob(os.path.join(folder, "*.tar")))
        dataset = webdataset.WebDataset(urls, resampled=True, shardshuffle=False)
        dataset = dataset.shuffle(256).decode("pil").to_tuple("jpg", "txt")
        dataset = dataset.map_tuple(_Augmentation(resize, crop)).batched(batch_size, partial=False)
        loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers)
        self.batches, self.batch_size = iter(loader), batch_size


class _Augmentation:
    """Resizes a PIL image, crops and flips it at random, and returns uint8 (crop, crop, 3)."""

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
    """Tokenization by this package and by Hugging Face's tokenizers, both with all threads.

    Args:
        sentences: list of strings.
        vocabulary: number of pieces of the vocabulary, which is trained on the sentences.
        max_tokens: tokens per sentence, with padding.
        batch_size: sentences per batch.
    """

    def __init__(self, sentences, vocabulary, max_tokens, batch_size):
        import tensorflow as tf
        from tokenizers import BertWordPieceTokenizer

        from tf_mural.data.tokenizers import Tokenizer, train_vocabulary

        pieces = train_vocabulary(sentences, vocabulary)
        self._sentences, self._batch_size = sentences, batch_size
        cores = len(os.sched_getaffinity(0))
        dataset = tf.data.Dataset.from_tensor_slices(sentences).batch(batch_size)
        self._dataset = dataset.map(Tokenizer(pieces, max_tokens), num_parallel_calls=cores)
        self._reference = BertWordPieceTokenizer(
            {piece: i for i, piece in enumerate(pieces)}, strip_accents=False, lowercase=False
        )
        self._reference.enable_truncation(max_tokens)
        self._reference.enable_padding(length=max_tokens)

    def tf_mural(self):
        """Tokenizes all sentences with this package; returns (sentences per second, tokens)."""
        return self._time(lambda: [batch.numpy() for batch in self._dataset])

    def tokenizers(self):
        """Tokenizes all sentences with Hugging Face's tokenizers; see `tf_mural` for the result."""
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        starts = range(0, len(self._sentences), self._batch_size)

        def encode(start):
            batch = self._sentences[start : start + self._batch_size]
            return np.array([e.ids for e in self._reference.encode_batch(batch)], np.int32)

        return self._time(lambda: [encode(start) for start in starts])

    def _time(self, tokenize):
        began = time.perf_counter()
        tokens = np.concatenate(tokenize())
        return len(tokens) / (time.perf_counter() - began), tokens
