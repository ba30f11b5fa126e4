import pytest

from tf_mural.errors import UserError, lookup, suggest
from tf_mural.evaluation.results import Result


def test_pick_gives_the_entry():
    assert lookup({"a": 1, "b": 2}, "b", "loss") == 2


def test_pick_refuses_and_names_the_nearest():
    with pytest.raises(UserError) as caught:
        lookup({"contrastive": 1, "mlm": 2}, "contrastve", "loss")
    assert str(caught.value) == (
        "unknown loss 'contrastve'; known: contrastive, mlm; did you mean 'contrastive'?"
    )


@pytest.mark.parametrize("name", ["zzz", None, 3, ["contrastive"]])
def test_pick_suggests_nothing_that_is_far(name):
    with pytest.raises(UserError) as caught:
        lookup({"contrastive": 1}, name, "loss")
    assert "known: contrastive" in str(caught.value)
    assert ("did you mean" in str(caught.value)) == (name == ["contrastive"])


def test_pick_from_nothing():
    with pytest.raises(UserError, match=r"known: \(none\)"):
        lookup({}, "a", "loss")


def test_suggest():
    assert suggest("flp", ("crop", "flip")) == "; did you mean 'flip'?"
    assert suggest("rotate", ("crop", "flip")) == ""


def test_results_do_not_share_intervals():
    one, two = Result("t", "t/v1", {}, {}), Result("t", "t/v1", {}, {})
    one.intervals["x"] = (0, 1)
    assert two.intervals == {}
