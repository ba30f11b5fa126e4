"""Measures how many of the nearest images an approximate index finds for text queries.

The embeddings of texts and images are in different regions of the space (the modality gap), but
the graph of the index links only images. A search for a text therefore finds fewer of its nearest
images than a search for an image, and only the recall of text queries is measured.
"""

import os

import numpy as np

from tf_mural import file_io
from tf_mural.errors import UserError
from tf_mural.search.index import MANIFEST, Index

RECALL = "text_recall"  # Key of the manifest.
MIN_RECALL = 0.95  # Recall below which tools/index.py warns.
MAX_QUERIES = 1000
_QUERIES_PER_SEARCH = 100

# Queries for images whose texts are unknown: common subjects of photographs, in several languages.
DEFAULT_QUERIES = tuple(
    """
a dog on the beach|two people in a kitchen|a red car in the street|a bowl of fruit|snowy mountains
ein Hund am Strand|zwei Menschen in einer Küche|ein rotes Auto|eine Schale Obst|verschneite Berge
un chien sur la plage|deux personnes dans une cuisine|une voiture rouge|des fruits|une montagne
un perro en la playa|dos personas en una cocina|un coche rojo|un plato de fruta|montañas nevadas
um cão na praia|duas pessoas na cozinha|um carro vermelho|uma tigela de frutas|montanhas com neve
un cane sulla spiaggia|due persone in cucina|una macchina rossa|un piatto di frutta|montagne
собака на пляже|два человека на кухне|красная машина|миска с фруктами|снежные горы
pies na plaży|dwie osoby w kuchni|czerwony samochód|miska owoców|ośnieżone góry
kumsalda bir köpek|mutfakta iki kişi|kırmızı bir araba|bir kase meyve|karlı dağlar
كلب على الشاطئ|شخصان في المطبخ|سيارة حمراء|وعاء من الفاكهة|جبال مغطاة بالثلج
समुद्र तट पर एक कुत्ता|रसोई में दो लोग|एक लाल कार|फलों का कटोरा|बर्फीले पहाड़
海滩上的狗|厨房里的两个人|一辆红色的汽车|一碗水果|雪山
浜辺の犬|台所の二人|赤い車|果物のボウル|雪の山
해변의 개|부엌에 있는 두 사람|빨간 자동차|과일 한 그릇|눈 덮인 산
chó trên bãi biển|hai người trong bếp|xe ô tô màu đỏ|bát trái cây|núi tuyết
seekor anjing di pantai|dua orang di dapur|mobil merah|semangkuk buah|gunung bersalju
""".strip()
    .replace("\n", "|")
    .split("|")
)


def read_queries(path):
    """Returns the queries in a UTF-8 text file, one per line; empty lines are ignored.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or contains no query.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            queries = [line.strip() for line in file if line.strip()]
    except OSError as error:
        raise UserError(f"the queries {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: save the queries as UTF-8, one per line") from error
    if not queries:
        raise UserError(f"{path} contains no query: expected one per line")
    return queries


def texts_of_index(index):
    """Returns up to 1000 texts of the record set of an index, evenly spaced; may be empty."""
    texts = [text for row in range(len(index)) for _, text in index.item(row).get("texts", [])]
    if len(texts) <= MAX_QUERIES:
        return texts
    positions = np.linspace(0, len(texts) - 1, MAX_QUERIES).round().astype(np.int64)
    return [texts[position] for position in positions]


def measure_recall(index, queries, k=10):
    """Returns the mean recall at k of the searches in an index, compared with exact searches.

    An image that is not among the k best of the exact search counts as found if its score equals
    that of the k-th image.

    Args:
        index: `Index`.
        queries: float32 (q, width), unit-norm embeddings of texts, q at least 1.
        k: number of results per query; the number of images if the index has fewer.
    """
    k, recalls = min(k, len(index)), []
    for start in range(0, len(queries), _QUERIES_PER_SEARCH):
        batch = queries[start : start + _QUERIES_PER_SEARCH]
        pairs = zip(index.search(batch, k), index.search(batch, k, exact=True), strict=True)
        for hits, exact_hits in pairs:
            recalls.append(sum(hit.score >= exact_hits[-1].score for hit in hits) / k)
    return float(np.mean(recalls))


def add_recall(folder, queries, source):
    """Measures the recall at 10 of an index, and writes it to the manifest of the index.

    Args:
        folder: folder of the index.
        queries: see `measure_recall`.
        source: origin of the queries, for the manifest.

    Returns:
        {"recall@10": a number from 0 to 1, "queries": number of queries, "source": source}; the
        entry "text_recall" of the manifest.
    """
    index = Index(folder)
    result = {"recall@10": measure_recall(index, queries), "queries": len(queries)}
    result["source"] = source
    file_io.write_json(os.path.join(folder, MANIFEST), {**index.manifest, RECALL: result})
    return result
