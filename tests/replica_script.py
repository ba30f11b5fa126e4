"""Run by test_distribute in a process of its own: python replicas.py REPLICAS OUT

One process holds one MirroredStrategy. Writes the reduced gradients of one global batch in both
precisions and, of two replicas, with each of `MUTATIONS`; the logs, the dropout masks of each
replica, and the weights and moving averages after the loop has run over records, with a stop and a
resume in between.
"""

import contextlib
import functools
import io
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image  # noqa: E402

from tf_mural import models, optimizers
from tf_mural.backends import tensorflow as tf_backend
from tf_mural.backends.tensorflow import trainer as training
from tf_mural.data import input_pipeline, records, sampling, tokenizers
from tf_mural.objective import Term  # noqa: E402
from tf_mural.training import checkpoints, loop, metric_writer

# Towers that trace quickly and whose batch norms see many values: what is compared is exact.
models.EFFICIENTNETS["test"] = {
    "stackwise_kernel_sizes": [3, 3],
    "stackwise_num_repeats": [2, 1],
    "stackwise_input_filters": [8, 8],
    "stackwise_output_filters": [8, 16],
    "stackwise_expansion_ratios": [1, 2],
    "stackwise_strides": [1, 2],
    "stackwise_squeeze_and_excite_ratios": [0.25, 0.25],
    "stackwise_block_types": ["v1", "v1"],
    "stackwise_width_coefficients": [1.0, 1.0],
    "stackwise_depth_coefficients": [1.0, 1.0],
}
models.BERTS["test"] = (1, 16, 2)

ROWS, LANGUAGES = 8, ("de", "en")
STAGES = {
    "mural": (
        {"image": "image", "caption": "text", "source": "text", "target": "text"},
        [("image", "caption", 1 / 2), ("source", "target", 1 / 2)],
    ),
    "etcl": (
        {"image": "image", "text_a": "text", "text_b": "text"},
        [("image", "text_a", 1 / 3), ("text_a", "text_b", 1 / 3), ("text_b", "image", 1 / 3)],
    ),
}


def global_batch(kinds):
    rng = np.random.default_rng(0)
    batch = {}
    for field, kind in kinds.items():
        batch[field] = {"id": rng.integers(0, 6, ROWS)}
        if kind == "image":
            batch[field]["pixels"] = rng.integers(0, 256, (ROWS, 32, 32, 3)).astype(np.uint8)
        else:
            tokens = rng.integers(5, 50, (ROWS, 6))
            tokens[:, 4:] = 0
            batch[field]["tokens"] = tokens.astype(np.int32)
            batch[field]["language"] = rng.integers(0, 2, ROWS).astype(np.int32)
    return batch


def trainer_of(
    stage, dropout=0.0, group=2, mean=tf_backend.mean, precision=None, unused=(), **options
):
    keras.utils.set_random_seed(0)
    kinds, terms = STAGES[stage]
    encoder = models.dual_encoder(
        dict(name="test", image_size=32, stochastic_depth=dropout, virtual_batch_size=group),
        dict(name="test", vocabulary_size=50, max_tokens=6, dropout=dropout),
        embedding_dim=16,
        temperatures={"shared": 0.2, **dict.fromkeys(unused, 0.1)},
        all_reduce_mean=mean,
        precision=precision,
    )
    terms = [
        Term(f"{x}_{y}", x, y, weight, margin=0.3, label_smoothing=0.1, mask_duplicates=True)
        for x, y, weight in terms
    ]
    trainer = training.Trainer(encoder, terms, kinds, LANGUAGES, seed=5, **options)
    optimizer = optimizers.LAMB(1e-2, weight_decay=1e-2)
    optimizer.build(encoder.trainable_variables)
    trainer.compile(optimizer=optimizer)
    return trainer, kinds


def make_strategy(replicas):
    if replicas == 1:
        return tf_backend.make_strategy("one")
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
    )
    return tf_backend.make_strategy("mirrored")


def shares(strategy, batch):
    """The global batch, a share a replica."""
    rows = ROWS // strategy.num_replicas_in_sync

    def share(context):
        i = context.replica_id_in_sync_group
        return tf.nest.map_structure(lambda x: tf.constant(x[i * rows : (i + 1) * rows]), batch)

    return strategy.experimental_distribute_values_from_function(share)


def masks(strategy, trainer, step):
    """Dropout masks of each replica at a step."""
    generator = trainer.generators[0]

    @tf.function
    def draw():
        def one():
            tf_backend.set_seeds(trainer.generators, trainer.seed, step)
            return keras.random.dropout(tf.ones((64,)), 0.5, seed=generator)

        return strategy.run(one)

    return np.stack([x.numpy() for x in strategy.experimental_local_results(draw())])


@contextlib.contextmanager
def patched(module, name, value):
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def _gather_without_gradient(x, gather=tf_backend.gather):
    return tf.stop_gradient(gather(x))


def scattered_and_summed(x):
    """The gather of SimCLR on TPUs: each replica's rows at their place among zeros, and a sum."""
    context = tf.distribute.get_replica_context()
    count, own = context.num_replicas_in_sync, context.replica_id_in_sync_group
    rows = tf.scatter_nd([[own]], x[tf.newaxis], (count, *x.shape))
    rows = context.all_reduce(tf.distribute.ReduceOp.SUM, rows)
    return tf.reshape(rows, (count * x.shape[0], *x.shape[1:]))


def _mean_over_own_rows(*args, objective=training.objective):
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    loss, logs = objective(*args)
    return replicas * loss, logs


MUTATIONS = {
    "gather without gradient": (tf_backend, "gather", _gather_without_gradient),
    "no division by the replicas": (training, "objective", _mean_over_own_rows),
}


def _mean_in_the_forward_pass(tensors):
    # The backward pass asks for those of two tensors.
    return tf_backend.mean(tensors) if len(tensors) == 1 else list(tensors)


def gradients(strategy, stage, **options):
    """{name: value} of the reduced gradients and the logs of one global batch."""
    with strategy.scope():
        trainer, kinds = trainer_of(stage, **options)

    @tf.function(autograph=False)
    def step(batch):
        return strategy.run(trainer.gradients, args=(batch,))

    found, logs = step(shares(strategy, global_batch(kinds)))
    variables, out = trainer.encoder.trainable_variables, {}
    for number, (variable, gradient) in enumerate(zip(variables, found, strict=True)):
        values = [x.numpy() for x in strategy.experimental_local_results(gradient)]
        assert all((x == values[0]).all() for x in values), f"replicas differ in {variable.path}"
        out[f"gradient/{number:03d} {variable.path}"] = values[0]
    for name, value in logs.items():
        out[f"log/{name}"] = strategy.experimental_local_results(value)[-1].numpy()
    for variable in trainer.moving_averages:
        values = strategy.experimental_local_results(variable.value)
        for replica, value in enumerate(values):
            out[f"average of {replica}/{variable.path}"] = value.numpy()
    return out


def set_precision(dtype):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


def main(replicas, path):
    strategy = make_strategy(replicas)
    out = {}

    def keep(prefix, values):
        out.update({f"{prefix}/{name}": value for name, value in values.items()})

    set_precision("float64")
    for stage in STAGES:
        keep(f"float64/{stage}", gradients(strategy, stage))
    keep("together", gradients(strategy, "etcl", group=models.ALL_REPLICAS))
    if replicas == 2:
        options = dict(group=models.ALL_REPLICAS, mean=_mean_in_the_forward_pass)
        keep("together, forward only", gradients(strategy, "etcl", **options))
        with patched(tf_backend, "gather", scattered_and_summed):
            keep("scattered", gradients(strategy, "etcl"))
    set_precision("float32")
    if replicas <= 2:
        keep("float32/etcl", gradients(strategy, "etcl"))
    for name, patch in MUTATIONS.items() if replicas == 2 else ():
        with patched(*patch):
            keep(name, gradients(strategy, "etcl"))
    with strategy.scope():
        trainer, _ = trainer_of("etcl", dropout=0.5)
    out["masks"] = np.stack([masks(strategy, trainer, step) for step in (3, 4, 3)])
    if replicas <= 2:
        keep("loop", run_the_loop(strategy, path.removesuffix(".npz")))
    np.savez(path, **out)


def records_of_colours(folder):
    """16 pictures of one colour each, with a text in two languages."""
    rows = []
    for i in range(16):
        file = io.BytesIO()
        Image.fromarray(np.full((36, 36, 3), 15 * i, np.uint8)).save(file, "PNG")
        texts = (("de", f"w{i} x"), ("en", f"w{i}"))
        rows.append(records.Record(str(i), (file.getvalue(),), texts))
    if not os.path.isdir(folder):
        records.write(folder, rows, shards=2)
    return records.RecordSet.open(folder)


def run_the_loop(strategy, folder):
    """Weights after four steps of ETCL over records, the last two after a resume."""
    make_dataset = dataset_of_colours(folder, strategy.num_replicas_in_sync)
    workdir = os.path.join(folder, f"run{strategy.num_replicas_in_sync}")
    for last in (2, 4):
        with strategy.scope():
            trainer, _ = trainer_of("etcl")
            trainer.compile(optimizer=keras.optimizers.SGD(0.1))
        saved = checkpoints.CheckpointManager(workdir, trainer)
        assert saved.restore({"vocabulary_hash": "x"}) == (last == 4)
        log = metric_writer.MetricWriter(os.path.join(workdir, "tensorboard"), ROWS, print_fn=lambda line: None)
        runner = tf_backend.Runner(trainer, strategy, make_dataset)
        loop.train(trainer, runner, last, saved, log)
    return weights_of(trainer)


def weights_of(trainer):
    """{path: value} of what is saved of a model."""
    return {v.path: v.numpy() for v in trainer.encoder.variables if "seed" not in v.path}


def dataset_of_colours(folder, replicas, workers=(0, 1)):
    """Function of start_step= to ETCL's batches of the records of colours."""
    record_set = records_of_colours(os.path.join(folder, "colours"))
    sampler = sampling.IndexSampler([record_set], 2, LANGUAGES, epoch_unit="combinations")
    source = input_pipeline.Source(sampler, STAGES["etcl"][0])
    words = ["x", *(f"w{i}" for i in range(16))]
    return functools.partial(
        input_pipeline.training_dataset,
        [source],
        tokenizers.Tokenizer([*tokenizers.SPECIAL_TOKENS, *words], 6),
        input_pipeline.ImageSizes(36, 32),
        LANGUAGES,
        ROWS,
        replicas,
        workers,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
