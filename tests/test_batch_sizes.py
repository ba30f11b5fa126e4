"""Tests which sizes of batches, micro-batches, loss chunks and virtual batches are valid."""

import random
import re

import pytest

from configs import etcl, mural
from tf_mural import experiment, models
from tf_mural.backends import tensorflow as tf_backend
from tf_mural.errors import UserError


def make_config(virtual_batch_size=None, **changes):
    config = etcl.get_config("tiny")
    config.model.image.virtual_batch_size = virtual_batch_size
    config.update(changes)
    return config


@pytest.mark.parametrize(
    "changes, replicas, message",
    [
        (dict(batch_size=32_768, microbatch=256, loss_chunk=64), 4, None),
        (
            dict(batch_size=1000),
            3,
            r"batch_size is 1000, but 3 .*`config.batch_size=999` or `config.batch_size=1002`$",
        ),
        (dict(batch_size=1), 4, r"`config.batch_size=4`$"),
        (dict(batch_size=1), 1, r"batch_size is 1, but each row needs a negative: .*=2`$"),
        (
            dict(batch_size=1000, microbatch=64),
            2,
            r"1000, but 2 replicas share it evenly and it is divided into micro-batches of 64 "
            r"rows: set `config.batch_size=896` or `config.batch_size=1024`, or "
            r"`config.microbatch=50` or `config.microbatch=100`$",
        ),
        (
            dict(batch_size=64, microbatch=128),
            1,
            r"is 64, but it is divided .* of 128 rows: .*=128`, or `config.microbatch=64`$",
        ),
        (
            dict(batch_size=128, microbatch=8, virtual_batch_size=16),
            1,
            r"is 16, which does not divide the 8 rows of a micro-batch: .*`config.microbatch=16`$",
        ),
        (
            dict(batch_size=128, loss_chunk=48),
            2,
            r"loss_chunk is 48, .* the 64 rows of a replica: "
            r"set `config.loss_chunk=32` or `config.loss_chunk=64`$",
        ),
        (dict(microbatch=-1), 1, "microbatch is -1, expected a number from 1 or none"),
        (dict(loss_chunk=-2), 1, "loss_chunk is -2, expected a number from 1 or none"),
        (dict(virtual_batch_size=-1), 4, None),
        (dict(microbatch=64, virtual_batch_size=-1), 1, None),
        (
            dict(microbatch=16, virtual_batch_size=-1),
            2,
            r"batch_size is -1, but replicas cannot share .* set `config.microbatch=none`, or",
        ),
        (
            dict(virtual_batch_size=-2),
            1,
            "virtual_batch_size is -2, expected a number of images, none for all images of a rep",
        ),
    ],
)
def test_invalid_sizes_are_refused_with_the_nearest_valid_ones(changes, replicas, message):
    config = make_config(**changes)
    if message is None:
        experiment.check_config(config, replicas)
        return
    with pytest.raises(UserError, match=message):
        experiment.check_config(config, replicas)


def test_the_proposed_sizes_are_valid():
    rng, num_proposals = random.Random(0), 0
    for _ in range(300):
        sizes = dict(
            batch_size=rng.randint(2, 1200),
            microbatch=rng.choice([None, 8, 20, 64, 96]),
            loss_chunk=rng.choice([None, None, 16, 24]),
            virtual_batch_size=rng.choice([None, None, 16]),
        )
        replicas = rng.choice([1, 2, 3, 8])
        for changed, message in proposals(sizes, replicas):
            num_proposals += 1
            # A proposed micro-batch may be valid only with another batch size. In this case, the
            # next message proposes batch sizes, and these batch sizes must be valid.
            again = proposals(changed, replicas) if "rows of a micro-batch" in message else []
            remaining = [refusal(sizes, replicas) for sizes, _ in again]
            remaining = remaining or [refusal(changed, replicas)]
            assert not any(remaining), (sizes, message, changed, remaining)
    assert num_proposals > 400


def proposals(sizes, replicas):
    """Returns the proposals of the message with which `check_config` refuses `sizes`.

    Returns:
        List of tuples (`sizes` with one value replaced by a proposal, message), one per proposal.
    """
    message = refusal(sizes, replicas)
    values = re.findall(r"`config\.(\w+)=(\d+)`", message)
    return [({**sizes, name: int(value)}, message) for name, value in values]


def refusal(sizes, replicas):
    """Returns the message with which `check_config` refuses `sizes`; "" if they are valid."""
    try:
        experiment.check_config(make_config(**sizes), replicas)
    except UserError as error:
        return str(error)
    return ""


def test_the_sizes_of_a_config_reach_the_step(data_dir):
    config = make_config(
        batch_size=16, microbatch=4, loss_chunk=8, evaluation={}, virtual_batch_size=-1
    )
    run = experiment.build(config, str(data_dir), tf_backend.make_strategy("one"))
    core = run.trainer.core
    assert (core.microbatch, core.loss_chunk) == (4, 8)
    layers = core.encoder._flatten_layers()
    norms = [x for x in layers if isinstance(x, models.GhostBatchNormalization)]
    assert norms and {x.virtual_batch_size for x in norms} == {models.ALL_REPLICAS}
    assert {x._all_reduce_mean for x in norms} == {tf_backend.all_reduce_mean}
    assert not any(term.mask_duplicates for term in core.terms)


def test_duplicates_are_masked_in_all_terms_or_in_one():
    terms = experiment.make_terms(make_config(mask_duplicates=True))
    assert all(term.duplicate_fields == ("image", "text_a", "text_b") for term in terms)
    config = make_config()
    config.terms.image_text_a.mask_duplicates = True
    masks = [bool(term.duplicate_fields) for term in experiment.make_terms(config)]
    assert masks == [True, False, False]
    # The two terms of MURAL have different examples, and each masks only its own duplicates.
    config = mural.get_config("tiny")
    config.mask_duplicates = True
    fields = {term.name: term.duplicate_fields for term in experiment.make_terms(config)}
    assert fields["image_caption"] == ("caption", "image")
    assert fields["source_target"] == ("source", "target")
