"""Trains with `fit` on one or two replicas: python keras_mirrored_script.py REPLICAS RECORDS OUT

Writes the weights and the losses after two epochs. On JAX, the replicas are the devices of the
trainer's strategy. A test compares the results of one and of two replicas.
"""

import os
import sys

REPLICAS, RECORDS, OUT = int(sys.argv[1]), sys.argv[2], sys.argv[3]
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
if os.environ.get("KERAS_BACKEND") == "jax":
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={REPLICAS}"
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests")]

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from helpers import keras_trainers, trainers  # noqa: E402

ON_JAX = keras.backend.backend() == "jax"


def make_strategy():
    if ON_JAX:
        from tf_mural.backends import backend_module

        return backend_module().make_strategy("mirrored" if REPLICAS > 1 else "one")
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
    )
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])


def main():
    strategy = make_strategy()
    with strategy.scope():
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        options = {"strategy": strategy} if ON_JAX else {}
        trainer = keras_trainers.make_trainer(optimizer, **options)
    dataset = keras_trainers.make_dataset(RECORDS, trainer)
    history = trainer.fit(dataset, steps_per_epoch=2, epochs=2, verbose=0).history
    logs = trainer.evaluate(
        keras_trainers.make_dataset(RECORDS, trainer, start_step=0),
        steps=1,
        verbose=0,
        return_dict=True,
    )
    assert trainer.next_step() == 4
    np.savez(OUT, losses=history["loss"], evaluation=logs["loss"], **trainers.weights_of(trainer))


if __name__ == "__main__":
    main()
