"""Base class of the trainers of both backends: a Keras model around a training step."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tf_mural.backends.step_monitor import StepMonitor, explained, monitor_of, with_monitor
from tf_mural.errors import UserError, lookup
from tf_mural.models import exclude_adapters, exclude_norms, norm_variables
from tf_mural.nonfinite import LOSS_SCALES, BadStepPolicy
from tf_mural.objective import Term, check_terms
from tf_mural.train_step import TrainStep, combine_logs

# Value of `loss_scale` (selects by the precision) and `jit_compile` (selects by the backend).
AUTO = "auto"


class BaseTrainer(keras.Model):
    """Trains a dual encoder with loss terms; the trainers of both backends extend this class.

    Args:
        model: `models.DualEncoder`.
        terms: sequence of `objective.Term`.
        fields: {field: name of a tower}, the fields that the terms use.
        languages: codes of the languages of the training texts. The language ids in a batch are
            positions in this sequence. If the sequence is empty, the logs contain no losses of
            languages.
        seed: seed of dropout, and of the order of the examples of `data.training_dataset`.
        microbatch, loss_chunk, bad_step_policy: see `train_step.TrainStep`.
        loss_scale: initial loss scale, see `nonfinite.LossScale`; None: no scaling; "auto": 2**15
            if a tower computes in float16, else None.
        remat: whether the blocks of the towers store only their inputs, and recompute their
            activations in the backward pass.
        strategy, shard_optimizer, shard_embeddings: see the trainer of the backend.
        sources: {name of a source: sequence of fields}, the fields that are read from the same
            records. Defaults to a single source "records" with all fields.
        name: name of the Keras model.

    Attributes:
        encoder: the model.
        core: the `train_step.TrainStep` that computes a training step.
        step: variable `step` of `core`, the number of steps so far.
        loss_scale: `nonfinite.LossScale` of `core`, or None.
        sources: {name of a source: tuple of fields}.

    Raises:
        UserError: a term uses an unknown field or learned scalar, a field has an unknown tower, or
            a field does not belong to exactly one source.
    """

    def __init__(
        self,
        model: keras.Model,
        terms: Sequence[Term],
        fields: Mapping[str, str],
        languages: Sequence[str] = (),
        seed: int = 0,
        microbatch: int | None = None,
        loss_chunk: int | None = None,
        loss_scale: float | str | None = AUTO,
        bad_step_policy: BadStepPolicy | None = None,
        remat: bool = False,
        strategy: Any = None,
        shard_optimizer: bool = False,
        shard_embeddings: bool = False,
        sources: Mapping[str, Sequence[str]] | None = None,
        name: str = "trainer",
    ):
        super().__init__(name=name)
        self._set_devices(strategy, shard_optimizer, shard_embeddings)
        if loss_scale == AUTO:
            loss_scale = _default_loss_scale(model)
        self._check_loss_scale(loss_scale)
        self.sources = _complete_sources(sources, fields)
        _check_terms(terms, fields, self.sources, model)
        self.encoder = model
        self.core = TrainStep(
            self._backend_functions(),
            model,
            terms,
            fields,
            languages,
            seed,
            microbatch,
            loss_chunk,
            loss_scale,
            bad_step_policy,
            self.compute_objective,
        )
        # These variables are attributes of the trainer, because Keras saves only those.
        self.step, self.consecutive_skips = self.core.step, self.core.consecutive_skips
        self.loss_scale = self.core.loss_scale
        self.loss_scale_variables = self.loss_scale.variables if self.loss_scale else []
        self._remat, self._epoch_step = remat, None
        if remat:
            for block in model.remat_blocks:
                self._remat_block(block)
        self.built = True

    # --- the step -------------------------------------------------------------------------------

    def compute_objective(self, embeddings, batch, candidates, scalars, offset):
        """Computes the loss and the logs of n local examples; a subclass may override this method.

        The loss is a sum over the n examples, divided by the size N of the global batch. The sum of
        the losses of all replicas and chunks is therefore the mean over the global batch.

        Args:
            embeddings: {field: (n, d)}, unit vectors.
            batch: {field: {"id": (n,), "language": (n,)}}, see `objective.objective`.
            candidates: the embeddings and ids of the global batch, see
                `objective.gather_candidates`.
            scalars: {kind: {name: scalar}}, the learned scalars of the model.
            offset: scalar int, position of the first of the n examples in the global batch.

        Returns:
            The scalar loss, and {name: value} of the logs, which are summed over chunks and
            replicas. An override must return all logs of this method; "loss" is the scalar loss.
        """
        return self.core.compute_objective(embeddings, batch, candidates, scalars, offset)

    def call(self, batch, training=False):
        """Encodes the fields of a batch; returns {field: embeddings (n, d)}.

        Args:
            batch: {field: {"pixels" or "tokens": (n, ...)}}; fields may be missing.
            training: whether dropout is active, and batch norm computes statistics of the batch.
        """
        return self.core.encode(batch, training=training)

    @property
    def bad_step_policy(self) -> BadStepPolicy:
        """The `nonfinite.BadStepPolicy` of `core`."""
        return self.core.bad_step_policy

    @property
    def skipped_steps(self) -> int:
        """Number of steps skipped so far. A compiled step cannot read this property."""
        return int(self.step.numpy()) - int(self.optimizer.iterations.numpy())

    def next_step(self) -> int:
        """Returns the number of the next step; during `fit`, that of the first step of the epoch.

        A dataset reads this number when an iterator starts. At this time, the variable `step` is
        not reliable: on TensorFlow, a compiled step may already increment it, and on JAX, the
        variables have no values during an epoch of `fit`.
        """
        return int(self.step.numpy()) if self._epoch_step is None else self._epoch_step

    # --- compile, fit, evaluate -----------------------------------------------------------------

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer,
        jit_compile: bool | str = AUTO,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        **kwargs: Any,
    ) -> None:
        """Sets the optimizer, and creates its slot variables.

        Unless the optimizer is built already, the learned scalars and all normalization layers are
        excluded from its weight decay, and batch norms from the layer adaptation of
        `optimizers.LAMB`.

        Args:
            optimizer: a Keras optimizer or its name.
            jit_compile: whether XLA compiles the step on TensorFlow; "auto": False. JAX always uses
                XLA, unless `run_eagerly` is true.
            run_eagerly, steps_per_execution: see `keras.Model.compile`.
            **kwargs: further arguments of `keras.Model.compile`, which must be None.

        Raises:
            UserError: a loss or metrics are given. The terms define the loss.
        """
        unused = {name: value for name, value in kwargs.items() if value is not None}
        if unused:
            raise UserError(
                f"compile: {', '.join(sorted(unused))} would have no effect, because the terms of "
                "the trainer define the loss and the logs: give only optimizer, jit_compile, "
                "run_eagerly and steps_per_execution; evaluate retrieval with tf_mural.evaluate"
            )
        optimizer = keras.optimizers.get(optimizer)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise UserError(
                "compile: optimizer is a LossScaleOptimizer, but the trainer scales the loss: give "
                "its inner optimizer, and the argument loss_scale of the trainer"
            )
        with self._scope():
            if not optimizer.built:
                _exclude_from_weight_decay(optimizer, self.encoder)
            optimizer.build(self.encoder.trainable_variables)
            super().compile(
                optimizer=optimizer,
                jit_compile=self._jit_compile_option(jit_compile, run_eagerly),
                run_eagerly=run_eagerly,
                steps_per_execution=steps_per_execution,
                auto_scale_loss=False,
            )
        # The trainer has no metrics: `StepMonitor` averages the logs of the steps.
        self._loss_tracker = None

    def get_compile_config(self):
        """Returns the arguments of `compile`, serialized."""
        config = super().get_compile_config()
        names = ("optimizer", "jit_compile", "run_eagerly", "steps_per_execution")
        return {name: config[name] for name in names} if config else {}

    def compile_from_config(self, config):
        """Compiles the trainer with the result of `get_compile_config`."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def fit(
        self,
        x: Any = None,
        *,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        validation_data: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains with `keras.Model.fit`, on one host.

        The logs of an epoch are the means over its steps, except for states such as the learning
        rate. A bad step ends the training, or is skipped, as `bad_step_policy` defines.

        Args:
            x: `tf.data.Dataset` of batches, see `data.training_dataset`.
            callbacks: list of Keras callbacks.
            validation_data: dataset of batches for `evaluate`.
            **kwargs: see `keras.Model.fit`. Targets, sample weights and class weights are not
                supported. `steps_per_epoch` is required if the dataset is infinite.

        Returns:
            `keras.callbacks.History`.

        Raises:
            UserError: an argument is not supported, `steps_per_epoch` is missing, a loss or
                gradient is not finite, or too many records cannot be used.
        """
        unused = ("y", "sample_weight", "class_weight", "validation_split")
        _refuse("fit", {name: kwargs[name] for name in unused if name in kwargs})
        if kwargs.get("steps_per_epoch") is None and _is_infinite(x):
            raise UserError("fit: the dataset is infinite: give steps_per_epoch")
        if validation_data is not None and kwargs.get("validation_steps") is None:
            if _is_infinite(validation_data):
                raise UserError("fit: validation_data is infinite: give validation_steps")
        skipped_records = getattr(x, "skipped_records", None)
        callbacks = with_monitor(callbacks, StepMonitor(skipped_records))
        # Otherwise, Keras would start at the epoch that `BackupAndRestore` set in an earlier call.
        self._initial_epoch = None
        if hasattr(x, "element_spec"):  # Keras would warn that it does not shuffle a dataset.
            kwargs.setdefault("shuffle", False)
        data = {"x": self._prepare_data(x), "validation_data": self._prepare_data(validation_data)}
        try:
            return explained(
                skipped_records,
                lambda: super(BaseTrainer, self).fit(**data, callbacks=callbacks, **kwargs),
            )
        finally:
            self._epoch_step = None  # see `StepMonitor`

    def evaluate(
        self,
        x: Any = None,
        *,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> float | list[float] | dict[str, float]:
        """Computes the loss in inference mode with `keras.Model.evaluate`; updates no variables.

        Args:
            x: `tf.data.Dataset` of batches, see `data.training_dataset`.
            callbacks: list of Keras callbacks.
            return_dict: whether to return a dict instead of a list.
            **kwargs: see `keras.Model.evaluate`. `steps` is required if the dataset is infinite.

        Returns:
            The means of loss, loss/<term> and loss_language/<code> over the batches.

        Raises:
            UserError: an argument is not supported, or `steps` is missing.
        """
        # `fit` of Keras calls this method with a prepared dataset, the callbacks of `fit`, and
        # further arguments that are None.
        _refuse("evaluate", {k: kwargs[k] for k in ("y", "sample_weight") if k in kwargs})
        in_fit = kwargs.get("_use_cached_eval_dataset")
        if not in_fit and kwargs.get("steps") is None and _is_infinite(x):
            raise UserError("evaluate: the dataset is infinite: give steps")
        skipped_records = getattr(x, "skipped_records", None)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = with_monitor(callbacks, StepMonitor(skipped_records))
        x = x if in_fit else self._prepare_data(x)
        monitor = monitor_of(callbacks)
        explained(
            skipped_records,
            lambda: super(BaseTrainer, self).evaluate(
                x, callbacks=callbacks, return_dict=True, **kwargs
            ),
        )
        logs = combine_logs(monitor.test_logs)
        return logs if return_dict else self._flatten_metrics_in_order(logs)

    def train_on_batch(self, x: Any, **kwargs: Any) -> Any:
        """Runs one step on a batch, see `keras.Model.train_on_batch`."""
        return super().train_on_batch(self._prepare_data(x), **kwargs)

    def test_on_batch(self, x: Any, **kwargs: Any) -> Any:
        """Computes the loss of a batch in inference mode, see `keras.Model.test_on_batch`."""
        return super().test_on_batch(self._prepare_data(x), **kwargs)

    # --- saving ---------------------------------------------------------------------------------

    def get_config(self):
        """Returns the arguments of the constructor, without devices and their options."""
        core = self.core
        return {
            "model": keras.saving.serialize_keras_object(self.encoder),
            "terms": [dataclasses.asdict(term) for term in core.terms],
            "fields": dict(core.fields),
            "languages": list(core.languages),
            "seed": core.seed,
            "microbatch": core.microbatch,
            "loss_chunk": core.loss_chunk,
            "loss_scale": self.loss_scale and self.loss_scale.initial,
            "bad_step_policy": dataclasses.asdict(core.bad_step_policy),
            "remat": self._remat,
            "sources": {name: list(fields) for name, fields in self.sources.items()},
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        """Returns a trainer with the arguments that `get_config` returned."""
        config = dict(config)
        config["model"] = keras.saving.deserialize_keras_object(config["model"])
        if "terms" in config:
            config["terms"] = [
                Term(**{**term, "sibling_fields": tuple(term["sibling_fields"])})
                for term in config["terms"]
            ]
        config["bad_step_policy"] = BadStepPolicy(**config["bad_step_policy"])
        return cls(**config)


def _refuse(method, arguments):
    for name, value in arguments.items():
        if value is not None and (name != "validation_split" or value):
            raise UserError(
                f"{method}: {name} would have no effect, because a batch contains no targets: give "
                "a dataset of batches {field: {...}}, see tf_mural.data.training_dataset"
            )


def _is_infinite(data):
    cardinality = getattr(data, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1


def _default_loss_scale(model):
    dtypes = {layer.compute_dtype for tower in model.towers.values() for layer in tower.layers}
    return LOSS_SCALES["mixed_float16"] if "float16" in dtypes else None


def _complete_sources(sources, fields):
    sources = {"records": tuple(fields)} if sources is None else sources
    sources = {name: tuple(source_fields) for name, source_fields in sources.items()}
    listed = sorted(field for source_fields in sources.values() for field in source_fields)
    if listed != sorted(fields):
        raise UserError(
            f"sources contain the fields {', '.join(listed)}, expected each of the fields "
            f"{', '.join(sorted(fields))} once"
        )
    return sources


def _check_terms(terms, fields, sources, model):
    for field, tower in fields.items():
        lookup(model.towers, tower, f"tower (of the field {field!r})")
    widths = {field: model.towers[tower].output.shape[-1] for field, tower in fields.items()}
    check_terms(terms, sources, widths, model.scalars)


def _exclude_from_weight_decay(optimizer, model):
    if hasattr(optimizer, "exclude_from_layer_adaptation"):
        optimizer.exclude_from_weight_decay(model.scalar_variables)
        exclude_norms(optimizer, model)
        exclude_adapters(optimizer, model)
        return
    # `exclude_from_weight_decay` of Keras discards the variables of earlier calls.
    variables = getattr(optimizer, "_exclude_from_weight_decay", set())
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    optimizer.exclude_from_weight_decay([*model.scalar_variables, *norm_variables(model)])
    optimizer._exclude_from_weight_decay |= variables
    optimizer._exclude_from_weight_decay_pattern = pattern
