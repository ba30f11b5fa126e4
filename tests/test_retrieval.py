"""The cross-modal retrieval task."""

import pytest
from helpers.embedders import AxisEmbedder, rejecting_embed

from tf_mural.data.records import Record
from tf_mural.errors import UserError
from tf_mural.evaluation import TASKS, metrics, retrieval

NAMES = ["i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "average_recall", "chance"]


def record(number, **texts):
    """Returns a record of an image and its texts, for example record(3, en=["3 a", "3 b"])."""
    pairs = tuple((language, text) for language in texts for text in texts[language])
    return Record(f"r{number}", (b"%d" % number,), pairs)


def test_correct_texts_score_100_and_wrong_texts_score_0():
    # English texts match their image; German texts match the next image.
    records = [record(i, en=[f"{i} x"], de=[f"{(i + 1) % 20} x"]) for i in range(20)]
    result = TASKS["retrieval"](AxisEmbedder(), records)
    assert (result.task, result.protocol) == ("retrieval", "retrieval/v1")
    assert list(result.values) == ["de", "en"]
    assert list(result.values["en"]) == NAMES
    assert [result.values["en"][name] for name in NAMES[:7]] == [100.0] * 7
    # One wrong candidate scores higher than the correct candidate, and all other candidates tie
    # with the correct one.
    assert [result.values["de"][name] for name in NAMES[:7]] == [0.0] * 7
    assert set(result.intervals["en"]) == set(result.values["en"]) - {"chance"}
    assert set(result.intervals["en"].values()) == {(100.0, 100.0)}
    assert result.counts == {
        "images": 20,
        "candidates": {"de": 20, "en": 20},
        "texts": {"de": 20, "en": 20},
    }


def test_images_without_a_text_in_a_language_are_not_its_candidates():
    # Korean texts match images without Korean text. If these images were candidates, more than ten
    # wrong images would tie with the correct image.
    records = [record(0, en=["0"], ko=["2"]), record(1, en=["1"], ko=["3"])]
    records += [record(i, en=[f"{i}"]) for i in range(2, 14)]
    records += [Record("text only", (), (("ko", "5"),))]
    result = retrieval.run(AxisEmbedder(), records)
    assert result.counts["candidates"] == {"en": 14, "ko": 2}
    assert result.values["ko"]["t2i_r1"] == 0.0  # the two candidates tie
    assert result.values["ko"]["t2i_r5"] == 100.0
    assert result.values["ko"]["chance"] == pytest.approx(metrics.chance_average_recall(2))
    assert result.values["en"]["average_recall"] == 100.0


def test_every_image_is_embedded_once_and_in_order():
    records = [record(i, en=[f"{i}"], de=[f"{i}"], fr=[f"{i}"] * 2) for i in (4, 2, 9)]
    embedder = AxisEmbedder()
    retrieval.run(embedder, iter(records))
    assert embedder.images_seen == [b"4", b"2", b"9"]


def test_only_the_selected_languages_are_embedded():
    records = [record(0, en=["0"], de=["0"]), record(1, de=["1"]), record(2, en=["2"])]
    embedder = AxisEmbedder()
    result = retrieval.run(embedder, records, languages=["en"])
    assert list(result.values) == ["en"]
    assert embedder.images_seen == [b"0", b"2"] and result.counts["images"] == 2


def test_captions_per_image_keeps_the_first_captions_and_changes_the_protocol():
    # The first two captions are correct, the third belongs to another image.
    records = [record(i, en=[f"{i}", f"{i} b", f"{(i + 1) % 9}"]) for i in range(9)]
    two_captions = retrieval.run(AxisEmbedder(), records, captions_per_image=2)
    assert two_captions.values["en"]["t2i_r1"] == 100.0
    assert two_captions.counts["texts"] == {"en": 18}
    assert two_captions.protocol == "retrieval/v1;captions_per_image=2"
    assert two_captions.values["en"]["chance"] == pytest.approx(metrics.chance_average_recall(9, 2))
    all_captions = retrieval.run(AxisEmbedder(), records)
    assert all_captions.values["en"]["t2i_r1"] == pytest.approx(200 / 3)


def test_intervals_contain_the_value_and_are_reproducible():
    records = [record(i, en=[f"{i if i % 3 else (i + 1) % 30}"]) for i in range(30)]
    first, second = retrieval.run(AxisEmbedder(), records), retrieval.run(AxisEmbedder(), records)
    low, high = first.intervals["en"]["average_recall"]
    assert low < first.values["en"]["average_recall"] < high
    assert first.intervals == second.intervals


def test_records_that_cannot_be_scored_are_rejected():
    with pytest.raises(UserError, match="^no records: "):
        retrieval.run(AxisEmbedder(), [])
    with pytest.raises(UserError, match="none of the 2 records has an image"):
        retrieval.run(AxisEmbedder(), [Record("a", (), (("en", "0"),)), Record("b")])
    with pytest.raises(
        UserError, match="no image has a text in fr, it; languages .* records: de, en"
    ):
        retrieval.run(AxisEmbedder(), [record(0, en=["0"], de=["0"])], languages=["en", "fr", "it"])
    with pytest.raises(UserError, match="no image has a text in any language; .*: none$"):
        retrieval.run(AxisEmbedder(), [record(0)])
    with pytest.raises(UserError, match="record 'clip' has 2 images"):
        retrieval.run(AxisEmbedder(), [Record("clip", (b"0", b"1"), (("en", "0"),))])


def test_an_undecodable_image_is_named_by_its_record():
    class RejectingEmbedder(AxisEmbedder):
        embed_images = rejecting_embed(1, "image at position 1 cannot be read")

    records = [record(0, en=["0"]), record(1), record(2, en=["2"])]
    with pytest.raises(UserError, match="^record 'r2': image at position 1"):
        retrieval.run(RejectingEmbedder(), records)


# --- records of the same image, and languages of other conventions --------------------------------


def test_records_with_the_same_image_are_merged():
    """With three separate records for each image, a perfect encoder would score 0 %."""
    records = [
        Record(f"r{i}-{n}", (b"%d" % i,), (("en", f"{i} {n}"), ("de", f"{i} {n}")))
        for n in range(3)
        for i in range(20)
    ]
    result = retrieval.run(AxisEmbedder(), records)
    for language in ("en", "de"):
        assert [result.values[language][name] for name in NAMES[:7]] == [100.0] * 7
        chance = metrics.chance_average_recall(20, 3)
        assert result.values[language]["chance"] == pytest.approx(chance)
    assert result.counts["images"] == 20 and result.counts["merged_records"] == 40
    assert result.counts["texts"] == {"de": 60, "en": 60}


def test_a_merged_image_is_embedded_once_and_has_the_first_captions():
    records = [record(4, en=["4 a"]), record(2, en=["2"]), record(4, en=["9 wrong"], de=["4"])]
    embedder = AxisEmbedder()
    result = retrieval.run(embedder, records, captions_per_image=1)
    assert embedder.images_seen == [b"4", b"2"]
    assert result.values["en"]["t2i_r1"] == 100.0
    assert result.counts["texts"] == {"de": 1, "en": 2}
    consistency = TASKS["consistency"](AxisEmbedder(), records)
    assert consistency.counts["merged_records"] == 1 and consistency.counts["candidates"] == 2


def test_records_of_different_images_are_not_merged():
    result = retrieval.run(AxisEmbedder(), [record(0, en=["0"]), record(1, en=["1"])])
    assert "merged_records" not in result.counts and result.counts["images"] == 2


def test_languages_may_be_named_by_any_convention():
    records = [record(i, zh=[f"{i}"], deu=[f"{i}"], en=[f"{i}"]) for i in range(3)]
    result = retrieval.run(AxisEmbedder(), records, languages=["German", "zho_Hans", "de"])
    assert list(result.values) == ["deu", "zh"]
