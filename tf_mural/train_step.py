"""One training step, the same on every backend.

A step encodes the batch, computes the loss and the gradients at the embeddings, and propagates
these gradients back through the towers. The step then sums the gradients over replicas, clips them,
checks them, and updates the variables. `TrainStep` depends on the backend only through the
`backend_functions.BackendFunctions` that it is created with.
"""

import math

import keras
from keras import ops

from tf_mural.backend_functions import EncoderVariables
from tf_mural.losses import SCALARS
from tf_mural.modalities import MODALITIES
from tf_mural.models import at_least_float32, unit_rows
from tf_mural.nonfinite import BadStepPolicy, LossScale, clip_gradients, scalar_variable
from tf_mural.objective import embedding_keys, gather_candidates, objective_for_rows, unnormalized

# Prefixes of the names of logs that describe a state. `combine_logs` returns the last value of such
# a log instead of a mean. The learned scalars, such as "temperature/shared", are also states.
_STATES = ("learning_rate", "loss_scale", "skipped_", *(f"{kind}/" for kind in SCALARS))


class TrainStep:
    """A training step of a dual encoder with the loss terms of a stage.

    Args:
        backend: `backend_functions.BackendFunctions`.
        encoder: `models.DualEncoder`.
        terms: sequence of `objective.Term`.
        fields: {field: tower} of the fields that the terms use.
        languages: sequence of language codes. The language ids in a batch are positions in this
            sequence.
        seed: seed of dropout.
        microbatch: number of local examples that are encoded at a time; None: all. With any value,
            the gradients are those of the whole batch (GradCache), but batch norm computes its
            statistics per micro-batch, or per virtual batch inside a micro-batch.
        loss_chunk: number of local examples whose logits are computed at a time; None: all.
        loss_scale: initial loss scale, see `nonfinite.LossScale`; None: no scaling.
        bad_step_policy: `nonfinite.BadStepPolicy`; None: `BadStepPolicy()`.
        compute_objective: callable that replaces the method `compute_objective`, with the same
            arguments and results; None: the method is used.

    Attributes:
        step: variable (int32), the number of steps so far, including skipped ones.
        consecutive_skips: variable (int32), the number of steps that were skipped since the last
            step that was not skipped. Checkpoints do not contain this number: a resumed run starts
            to count from 0.
        loss_scale: `nonfinite.LossScale` or None.
        generators: the `keras.random.SeedGenerator` of every layer that draws random numbers.
    """

    def __init__(
        self,
        backend,
        encoder,
        terms,
        fields,
        languages=(),
        seed=0,
        microbatch=None,
        loss_chunk=None,
        loss_scale=None,
        bad_step_policy=None,
        compute_objective=None,
    ):
        self._objective = compute_objective or self.compute_objective
        self.backend, self.encoder, self.terms = backend, encoder, tuple(terms)
        keys = set(embedding_keys(self.terms))
        self.unnormalized_fields = [field for field in fields if unnormalized(field) in keys]
        self.fields, self.languages, self.seed = dict(fields), tuple(languages), seed
        self.microbatch, self.loss_chunk = microbatch, loss_chunk
        self.bad_step_policy = bad_step_policy or BadStepPolicy()
        self.loss_scale = LossScale(loss_scale) if loss_scale else None
        self.step = scalar_variable("step", "int32")
        self.consecutive_skips = scalar_variable("skipped_in_a_row", "int32")
        self.generators = _seed_generators(encoder)

    @property
    def moving_averages(self):
        """Batch norm's running statistics, without those of frozen layers, which do not change."""
        frozen = {
            id(variable)
            for layer in self.encoder._flatten_layers()
            if not layer.trainable
            for variable in layer._non_trainable_variables
        }
        variables = self.encoder.non_trainable_variables
        return [v for v in variables if "/moving_" in v.path and id(v) not in frozen]

    def __call__(self, batch, optimizer):
        """Runs one step.

        A skipped step changes neither the weights nor the optimizer's slots nor the moving
        averages. The variable `step` includes skipped steps, but the optimizer's counter does not
        include them.

        Args:
            batch: {field: {"pixels" | "tokens", "id", "language"}}, see `data.input_pipeline`. On
                TensorFlow, `batch` is the local batch of this replica, on JAX the global batch.
            optimizer: built `keras.optimizers.Optimizer`. If the optimizer has an attribute
                `clip_after_reduction`, gradients with a larger global norm are scaled down to the
                norm in this attribute, see `optimizers.LAMB`.

        Returns:
            Logs, {name: scalar} (float32, identical on all replicas). The names are loss,
            loss/<term>, loss_language/<code> (nan if the batch contains no text in the language),
            gradient_norm (before clipping), and learning_rate. The logs also contain the value
            <kind>/<name> of each learned scalar ("temperature/shared"), and for each kind of scalar
            that has bounds the number <kind>_clamped of clipped scalars. If steps can be skipped,
            the logs also contain skipped_steps (number of skipped steps in the whole run) and
            skipped_in_a_row. With loss scaling, the logs also contain loss_scale, the factor in
            this step.
        """
        # The schedule reads the optimizer's counter, which the update increments.
        learning_rate = ops.convert_to_tensor(optimizer.learning_rate)
        # The values are copied, because TensorFlow's conversion returns the variable itself.
        averages_before = [ops.copy(v.value) for v in self.moving_averages]
        gradients, logs = self.compute_gradients(batch)

        norm = self.backend.global_norm(gradients)
        limit = getattr(optimizer, "clip_after_reduction", None)
        gradients = clip_gradients(gradients, norm, limit)
        logs |= {"gradient_norm": norm, "learning_rate": learning_rate}

        apply_update = None  # None: the update is always applied
        if self.bad_step_policy.skip or self.loss_scale:
            apply_update = self.bad_step_policy.should_apply(logs, norm)
        self.backend.apply_gradients(
            optimizer, gradients, self.encoder.trainable_variables, apply_update
        )
        if apply_update is not None:
            for variable, before in zip(self.moving_averages, averages_before, strict=True):
                variable.assign(ops.where(apply_update, ops.copy(variable.value), before))
        self.step.assign_add(1)

        if apply_update is not None:
            logs |= self._count_skips(optimizer, norm, apply_update)
        for kind, count in self.encoder.clamp_scalars().items():
            logs[f"{kind}_clamped"] = ops.cast(count, "float32")
        for kind, variables in self.encoder.scalars.items():
            for name, variable in variables.items():
                logs[f"{kind}/{name}"] = ops.copy(variable.value)
        return logs

    def compute_gradients(self, batch):
        """Computes the gradients of the trainable variables, summed over replicas.

        Args:
            batch: see `__call__`.

        Returns:
            List with a gradient per trainable variable of the encoder, and {name: scalar}, the logs
            of the objective.
        """
        gradients, logs = self.backend.run_on_replicas(self._local_gradients, batch)
        if self.loss_scale:
            gradients = self.loss_scale.unscale(gradients)
        return gradients, self._named_logs(logs)

    def evaluate(self, batch):
        """Computes the logs of the objective in inference mode; assigns no variables.

        Args:
            batch: see `__call__`.

        Returns:
            {name: scalar}: loss, loss/<term> and loss_language/<code>, see `__call__`.
        """
        return self._named_logs(self.backend.evaluate_on_replicas(self._local_logs, batch))

    def compute_objective(self, embeddings, batch, candidates, scalars, offset):
        """Computes the loss and the logs of a part of the local batch, see `objective_for_rows`.

        Args:
            embeddings, batch, candidates, scalars, offset: see `objective.objective_for_rows`.

        Returns:
            The scalar loss, and {name: value} of the logs of the terms.
        """
        return objective_for_rows(
            embeddings, batch, candidates, self.terms, scalars, offset, len(self.languages)
        )

    def _local_logs(self, batch):
        backend = self.backend
        embeddings = self.encode(batch, training=False)
        candidates = gather_candidates(embeddings, batch, self.terms, backend.gather)
        scalars = self.encoder.scalar_values()
        offset = backend.replica_offset(local_batch_size(batch))
        _, logs = self._objective(embeddings, batch, candidates, scalars, offset)
        return backend.reduce_sum(logs)

    def _local_gradients(self, batch):
        """Computes the gradients and logs of one replica from its local batch.

        The returned gradients are still multiplied by the loss scale.
        """
        backend, encoder = self.backend, self.encoder
        variables = self._encoder_variables()
        num_examples = local_batch_size(batch)

        # 1. Encode the local batch.
        embeddings, backward = self._encode_for_backward(batch, variables)
        # 2. Compute the loss, and its gradients with respect to the embeddings and the scalars.
        logs, embedding_gradients, scalar_gradients = backend.objective_and_gradients(
            embeddings,
            batch,
            self.terms,
            encoder.scalar_values(),
            backend.gather,
            backend.replica_offset(num_examples),
            self._objective,
            self.loss_chunk,
        )
        # 3. Propagate the gradients at the embeddings back through the towers.
        if self.loss_scale:
            embedding_gradients, scalar_gradients = self.loss_scale.scale(
                (embedding_gradients, scalar_gradients)
            )
        gradients = dict(
            zip(map(id, variables.weights), backward(embedding_gradients), strict=True)
        )
        for kind, scalars in encoder.scalars.items():
            for name, variable in scalars.items():
                gradients[id(variable)] = scalar_gradients[kind][name]
        # 4. Sum over replicas. A mean would be wrong, because each replica has already divided its
        # losses by the size of the global batch.
        trainable = encoder.trainable_variables
        gradients = backend.reduce_gradients([gradients[id(v)] for v in trainable], trainable)
        logs = backend.reduce_sum(logs)
        backend.sync_moving_averages(variables.moving_averages)
        return gradients, logs

    def _encode_for_backward(self, batch, variables):
        """Encodes the local batch.

        Returns:
            A dict from field to embeddings (n, d), and the function that propagates the gradients
            at the embeddings back to the weights.
        """
        # The step is read here and not in `encode`, because the backends call `encode` inside
        # other scopes.
        step = ops.convert_to_tensor(self.step)

        def encode(part, index):
            self.backend.set_seeds(self.generators, self.seed, step, index)
            return self.encode(part)

        # Frozen towers run once, without a gradient tape.
        trained = {tower for tower, x in self.encoder.towers.items() if x.trainable_variables}
        parts = [
            {f: value for f, value in batch.items() if (self.fields[f] in trained) == is_trained}
            for is_trained in (False, True)
        ]
        rows = self.microbatch or local_batch_size(batch)
        frozen, trained = ((part, self._embedding_specs(part, rows)) for part in parts)
        constants, embeddings, backward = {}, {}, lambda gradients: []
        if parts[0]:
            constants = self.backend.encode_frozen(encode, frozen[0], variables, frozen[1])
        if parts[1] and rows == local_batch_size(batch):
            embeddings, backward = self.backend.encode_full(encode, trained[0], variables)
        elif parts[1]:
            embeddings, backward = self.backend.encode_cached(
                encode, trained[0], variables, trained[1]
            )
        return embeddings | constants, lambda gradients: backward(
            {name: gradients[name] for name in embeddings}
        )

    def _embedding_specs(self, fields, rows):
        """Returns {name: spec of the embeddings of a micro-batch} of the results of `encode`."""
        specs = {}
        for field in fields:
            output = self.encoder.towers[self.fields[field]].output
            dtype = at_least_float32(output.dtype)
            specs[field] = keras.KerasTensor((rows, output.shape[-1]), dtype)
            if field in self.unnormalized_fields:
                specs[unnormalized(field)] = specs[field]
        return specs

    def encode(self, batch, training=True):
        """Encodes the fields of a batch; returns a dict from field to embeddings (n, d).

        Each tower encodes all its fields in one pass. For the fields of a loss that takes rows
        before the normalization, the dict also maps `unnormalized(field)` to these rows.
        """
        embeddings = {}
        for tower, modality in self.encoder.stored.modalities.items():
            key = MODALITIES[modality].input_key
            fields = [
                field for field, name in self.fields.items() if name == tower and field in batch
            ]
            if not fields:
                continue
            inputs = [batch[field][key] for field in fields]
            inputs = ops.concatenate(inputs, axis=0) if len(inputs) > 1 else inputs[0]
            options = {"training": training, "stored": tower in self.encoder.stored.projections}
            if not set(fields) & set(self.unnormalized_fields):
                output = self.encoder.encode(tower, inputs, **options)
                embeddings.update(zip(fields, ops.split(output, len(fields)), strict=True))
                continue
            rows = self.encoder.encode(tower, inputs, normalize=False, **options)
            for field, part in zip(fields, ops.split(rows, len(fields)), strict=True):
                embeddings[field] = unit_rows(part)
                if field in self.unnormalized_fields:
                    embeddings[unnormalized(field)] = part
        return embeddings

    def _encoder_variables(self):
        scalars = {id(v) for v in self.encoder.scalar_variables}
        weights = [v for v in self.encoder.trainable_variables if id(v) not in scalars]
        averages = self.moving_averages
        states = [generator.state for generator in self.generators]
        others = {id(v) for v in (*weights, *averages, *states)}
        frozen = [v for v in self.encoder.variables if id(v) not in others]
        return EncoderVariables(weights, averages, frozen)

    def _count_skips(self, optimizer, norm, apply_update):
        """Updates the counter of skipped steps and the loss scale; returns the logs of both."""
        self.consecutive_skips.assign(ops.where(apply_update, 0, self.consecutive_skips + 1))
        applied = ops.cast(optimizer.iterations, "int32")
        logs = {
            "skipped_steps": self.step - applied,
            "skipped_in_a_row": self.consecutive_skips,
        }
        if self.loss_scale:
            logs["loss_scale"] = ops.copy(self.loss_scale.value.value)
            self.loss_scale.update(ops.isfinite(norm))
        return {name: ops.cast(value, "float32") for name, value in logs.items()}

    def _named_logs(self, logs):
        """Returns the logs of the objective, with a log loss_language/<code> per language."""
        mean_loss = logs.pop("language_loss") / logs.pop("language_count")
        codes = enumerate(self.languages)
        return logs | {f"loss_language/{code}": mean_loss[i] for i, code in codes}


def local_batch_size(batch):
    """Returns the number of examples of a batch as a Python int."""
    return next(iter(batch.values()))["id"].shape[0]


def combine_logs(logs):
    """Combines the logs of several steps, [{name: float}], into one {name: float}.

    The result contains the mean of the finite values of each log, the last value of a log that
    describes a state (learning rate, loss scale, skipped steps, learned scalars), and the sum of
    the numbers of clipped scalars. The loss of a language is omitted if no batch contained the
    language. Any other log without a finite value is nan.
    """
    combined = {}
    for key in logs[0]:
        values = [step[key] for step in logs if math.isfinite(step[key])]
        if key.startswith(_STATES) and values:
            combined[key] = values[-1]
        elif key.endswith("_clamped"):
            combined[key] = sum(values)
        elif values:
            combined[key] = sum(values) / len(values)
        elif not key.startswith("loss_language/"):
            combined[key] = math.nan
    return combined


def _seed_generators(model):
    """Returns the `keras.random.SeedGenerator` of every layer, in the order of the layers."""
    generators = {}
    for layer in model._flatten_layers():
        for value in vars(layer).values():
            if isinstance(value, keras.random.SeedGenerator):
                generators[id(value)] = value
    return list(generators.values())
