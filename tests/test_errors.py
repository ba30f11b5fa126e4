"""Lookup of names in tables."""

import pytest

from tf_mural.errors import UserError, lookup, suggest


def test_lookup_returns_the_value():
    assert lookup({"a": 1, "b": 2}, "b", "loss") == 2


def test_lookup_of_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError) as error:
        lookup({"contrastive": 1, "mlm": 2}, "contrastve", "loss")
    assert str(error.value) == (
        "unknown loss 'contrastve'; known: contrastive, mlm; did you mean 'contrastive'?"
    )


@pytest.mark.parametrize("name", ["zzz", None, 3, ["contrastive"]])
def test_lookup_suggests_only_similar_names(name):
    with pytest.raises(UserError) as error:
        lookup({"contrastive": 1}, name, "loss")
    assert "known: contrastive" in str(error.value)
    assert ("did you mean" in str(error.value)) == (name == ["contrastive"])


def test_lookup_in_an_empty_table_is_refused():
    with pytest.raises(UserError, match=r"known: \(none\)"):
        lookup({}, "a", "loss")


def test_suggest_returns_the_nearest_name_or_nothing():
    assert suggest("flp", ("crop", "flip")) == "; did you mean 'flip'?"
    assert suggest("rotate", ("crop", "flip")) == ""
