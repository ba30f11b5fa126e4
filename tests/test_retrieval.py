import numpy as np
import pytest

from tf_mural.data.records import Record
from tf_mural.errors import UserError
from tf_mural.evaluation import TASKS, metrics, retrieval

NAMES = ["i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "average_recall", "chance"]


class Axes:
    """Embeds the image b"7", and any text that begins with "7 ", as axis 7."""

    def __init__(self):
        self.images_seen = []

    def images(self, encoded):
        self.images_seen += (encoded := list(encoded))
        return self._rows(encoded)

    def texts(self, texts):
        return self._rows(text.split()[0] for text in texts)

    def _rows(self, numbers):
        return np.eye(30, dtype=np.float32)[[int(number) for number in numbers]].reshape(-1, 30)


def record(number, **texts):
    """An image and its texts: record(3, en=["3 a", "3 b"])."""
    pairs = tuple((language, text) for language in texts for text in texts[language])
    return Record(f"r{number}", (b"%d" % number,), pairs)


def test_right_texts_are_found_and_wrong_ones_not():
    # English is right throughout; German always says the axis of the next image.
    records = [record(i, en=[f"{i} x"], de=[f"{(i + 1) % 20} x"]) for i in range(20)]
    result = TASKS["retrieval"](Axes(), records)
    assert (result.task, result.protocol) == ("retrieval", "retrieval/v1")
    assert list(result.values) == ["de", "en"]
    assert list(result.values["en"]) == NAMES
    assert [result.values["en"][name] for name in NAMES[:7]] == [100.0] * 7
    # Every wrong candidate ties with the right one at 0, one is above it.
    assert [result.values["de"][name] for name in NAMES[:7]] == [0.0] * 7
    assert set(result.intervals["en"]) == set(result.values["en"]) - {"chance"}
    assert set(result.intervals["en"].values()) == {(100.0, 100.0)}
    assert result.counts == {
        "images": 20,
        "candidates": {"de": 20, "en": 20},
        "texts": {"de": 20, "en": 20},
    }


def test_images_without_text_in_a_language_are_no_candidates_for_it():
    # Korean texts say the axes of images that have no Korean text: were those candidates, more
    # than ten wrong images would tie with the right one.
    records = [record(0, en=["0"], ko=["2"]), record(1, en=["1"], ko=["3"])]
    records += [record(i, en=[f"{i}"]) for i in range(2, 14)]
    records += [Record("text only", (), (("ko", "5"),))]
    result = retrieval.run(Axes(), records)
    assert result.counts["candidates"] == {"en": 14, "ko": 2}
    assert result.values["ko"]["t2i_r1"] == 0.0  # the two left tie
    assert result.values["ko"]["t2i_r5"] == 100.0
    assert result.values["ko"]["chance"] == pytest.approx(metrics.chance_average_recall(2))
    assert result.values["en"]["average_recall"] == 100.0


def test_every_image_is_embedded_once_and_in_order():
    records = [record(i, en=[f"{i}"], de=[f"{i}"], fr=[f"{i}"] * 2) for i in (4, 2, 9)]
    embed = Axes()
    retrieval.run(embed, iter(records))
    assert embed.images_seen == [b"4", b"2", b"9"]


def test_languages_are_chosen_and_others_not_embedded():
    records = [record(0, en=["0"], de=["0"]), record(1, de=["1"]), record(2, en=["2"])]
    embed = Axes()
    result = retrieval.run(embed, records, languages=["en"])
    assert list(result.values) == ["en"]
    assert embed.images_seen == [b"0", b"2"] and result.counts["images"] == 2


def test_captions_per_image_keeps_the_first_and_names_the_protocol():
    # The first two captions are right, the third is another image's.
    records = [record(i, en=[f"{i}", f"{i} b", f"{(i + 1) % 9}"]) for i in range(9)]
    best = retrieval.run(Axes(), records, captions_per_image=2)
    assert best.values["en"]["t2i_r1"] == 100.0
    assert best.counts["texts"] == {"en": 18}
    assert best.protocol == "retrieval/v1;captions_per_image=2"
    # chance of two captions each, by its own function
    assert best.values["en"]["chance"] == pytest.approx(metrics.chance_average_recall(9, 2))
    every = retrieval.run(Axes(), records)
    assert every.values["en"]["t2i_r1"] == pytest.approx(200 / 3)


def test_interval_holds_the_value_and_repeats():
    records = [record(i, en=[f"{i if i % 3 else (i + 1) % 30}"]) for i in range(30)]
    first, second = retrieval.run(Axes(), records), retrieval.run(Axes(), records)
    low, high = first.intervals["en"]["average_recall"]
    assert low < first.values["en"]["average_recall"] < high
    assert first.intervals == second.intervals


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match="^no records: "):
        retrieval.run(Axes(), [])
    with pytest.raises(UserError, match="none of the 2 records has an image"):
        retrieval.run(Axes(), [Record("a", (), (("en", "0"),)), Record("b")])
    with pytest.raises(UserError, match="no image has a text in fr, it; the records' .*: de, en"):
        retrieval.run(Axes(), [record(0, en=["0"], de=["0"])], languages=["en", "fr", "it"])
    with pytest.raises(UserError, match="no image has a text in any language; .*: none at all"):
        retrieval.run(Axes(), [record(0)])
    with pytest.raises(UserError, match="record 'clip' has 2 images"):
        retrieval.run(Axes(), [Record("clip", (b"0", b"1"), (("en", "0"),))])


def test_an_unreadable_image_is_named_by_its_record():
    class Broken(Axes):
        def images(self, encoded):
            list(encoded)
            error = UserError("image at position 1 cannot be read")
            error.position = 1
            raise error

    records = [record(0, en=["0"]), record(1), record(2, en=["2"])]
    with pytest.raises(UserError, match="^record 'r2': image at position 1"):
        retrieval.run(Broken(), records)
