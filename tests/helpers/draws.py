"""Draws of samplers, for tests of the order of training examples."""

import numpy as np


def draw(sampler, start, count):
    """Returns [(set index, record, languages)] of `count` draws from draw number `start` on."""
    draws = np.arange(start, start + count, dtype=np.int64)
    set_index, unit = (x.numpy() for x in sampler.sample(draws))
    record, language, _ = sampler.resolve(draws, set_index, unit)
    names = [tuple(sampler.languages[i] for i in row) for row in language]
    return list(zip(set_index.tolist(), record.tolist(), names, strict=True))


def draw_records(sampler, start, count):
    """Returns the numbers of the records of `count` draws from draw number `start` on, (count,)."""
    return np.array([record for _, record, _ in draw(sampler, start, count)])
