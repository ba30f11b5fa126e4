"""Datasets without TensorFlow's tuning thread: nothing waits for it, and work is still shared."""

import os
import threading

import numpy as np
import pytest
import tensorflow as tf

from tf_mural.data.pipeline_options import untuned
from tf_mural.evaluation.batch_embedder import Embedder


def test_elements_stay_and_the_tuning_thread_goes():
    numbers = tf.data.Dataset.range(3).map(lambda x: x + 1, tf.data.AUTOTUNE).prefetch(2)
    assert list(untuned(numbers)) == [1, 2, 3]
    assert untuned(numbers).options().autotune.enabled is False


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: nothing is side by side")
def test_maps_run_side_by_side_from_the_first_element_on():
    both = threading.Barrier(2, timeout=30)

    def met(x):
        both.wait()
        return x

    numbers = tf.data.Dataset.range(2).map(
        lambda x: tf.numpy_function(met, [x], tf.int64), tf.data.AUTOTUNE
    )
    assert sorted(int(x) for x in untuned(numbers)) == [0, 1]


def test_an_embedder_reads_without_it(monkeypatch):
    seen = []
    make = tf.data.Dataset.as_numpy_iterator

    def watched(dataset):
        seen.append(dataset.options().autotune.enabled)
        return make(dataset)

    monkeypatch.setattr(tf.data.Dataset, "as_numpy_iterator", watched)
    embedder = Embedder(
        lambda rows: np.ones((len(rows), 2), np.float32),
        None,
        None,
        lambda data: tf.zeros((1, 1, 3), tf.uint8),
        width=2,
        batch_size=2,
    )
    assert embedder.images([b"a", b"b", b"c"]).shape == (3, 2)
    assert seen == [False]
