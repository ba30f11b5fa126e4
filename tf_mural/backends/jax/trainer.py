"""The JAX step that serves every stage."""

import jax
import jax.numpy as jnp
import keras
from jax.sharding import PartitionSpec as P
from keras import ops

from tf_mural.backends import jax as distribute
from tf_mural.backends.jax.chunked_loss import objective_and_gradients
from tf_mural.backends.jax.grad_cache import at_once, in_microbatches
from tf_mural.backends.jax.remat import rematerialise
from tf_mural.errors import UserError
from tf_mural.train_step import Step

__all__ = ["Trainer"]


class Trainer(Step):
    """The step of `step.Step` in JAX, over all devices of a `distribute_jax.Devices`.

    A step is a pure function of the values of `variables` and of global arrays of a batch. Towers
    and objective run under `jax.shard_map`, where a replica is a device; norm, guard and optimizer
    see arrays of all.

    Args:
        encoder, terms, kinds, **options: see `step.Step`.
        strategy: `distribute_jax.Devices`.
        shard_optimizer: whether each device holds a part of the optimizer's slots, and updates that
            part of the weights, instead of all (ZeRO-1, Rajbhandari et al. 2020).
        shard_embeddings: whether each device holds a part of the token embeddings between steps.
    """

    def __init__(
        self,
        encoder,
        terms,
        kinds,
        *positional,
        strategy,
        shard_optimizer=False,
        shard_embeddings=False,
        **options,
    ):
        self._set_up(encoder, terms, kinds, *positional, **options)
        self._devices = strategy
        if self.loss_scale and strategy.mesh.devices.flat[0].platform == "cpu":
            raise UserError(
                "mixed_float16 on JAX wants a GPU or a TPU, XLA for CPUs has no products of such "
                "matrices: --config.precision=mixed_bfloat16"
            )
        self._shard_optimizer, self._shard_embeddings = shard_optimizer, shard_embeddings
        if self.rematerialised:
            for block in encoder.remat_blocks:
                rematerialise(block)

    def snapshot(self, variables):
        """See `distribute_jax.snapshot`."""
        return distribute.snapshot(variables)

    def compile(self, optimizer, jit_compile=None):
        """Takes the optimizer; everything is compiled in any case."""
        self.optimizer, self.jit_compile = optimizer, True

    # --- the state ------------------------------------------------------------------------------

    @property
    def variables(self):
        """All that a step changes. The states of random generators are set in each."""
        weights = [v for v in self.encoder.variables if "seed_generator" not in v.path]
        scale = self.loss_scale.variables if self.loss_scale else ()
        return [*weights, *self.optimizer.variables, self.step, self.in_a_row, *scale]

    @property
    def specs(self):
        """A `PartitionSpec` a variable of `variables`."""
        slots = {id(v) for v in self.optimizer.variables}

        def is_parted(variable):
            return id(variable) in slots and self._shard_optimizer or self._is_table(variable)

        return [self._spec(v, is_parted(v)) for v in self.variables]

    @property
    def collective(self):
        """Whether reading the state takes all processes."""
        return self._shard_optimizer or self._shard_embeddings

    def _is_table(self, variable):
        return self._shard_embeddings and variable.path.endswith("token_embedding/embeddings")

    def stateless_step(self, values, batch):
        """A step as a pure function.

        Args:
            values: list of arrays, one a variable of `variables`.
            batch: nest of global arrays, see `Step.train_step`.

        Returns:
            The values after the step, and its logs.
        """
        variables = self.variables
        with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
            logs = self.train_step(batch)
            return [scope.get_current_value(v) for v in variables], logs

    def compiled_step(self):
        """`stateless_step`, compiled; its first argument is used up."""
        state = [self._devices.over(spec) for spec in self.specs]
        return jax.jit(
            self.stateless_step,
            in_shardings=(state, self._devices.over(P(distribute.AXIS))),
            out_shardings=(state, self._devices.over(P())),
            donate_argnums=0,
        )

    def traced_step(self, batch):
        """`compiled_step` traced by shapes alone, inside a `keras.StatelessScope`.

        Args:
            batch: nest of (shape, dtype) of global arrays.

        Returns:
            `jax.stages.Traced`.
        """
        shapes = {
            field: {key: jax.ShapeDtypeStruct(*of) for key, of in parts.items()}
            for field, parts in batch.items()
        }
        values = [jax.ShapeDtypeStruct(tuple(v.shape), v.dtype) for v in self.variables]
        return self.compiled_step().trace(values, shapes)

    def _update(self, gradients, wanted=None):
        variables = self.encoder.trainable_variables
        changed = [*variables, *self.optimizer.variables]
        before = [ops.convert_to_tensor(v) for v in changed]
        self.optimizer.apply(gradients, variables)
        if wanted is not None:
            for variable, old in zip(changed, before, strict=True):
                variable.assign(ops.where(wanted, ops.convert_to_tensor(variable), old))

    # --- the gradients --------------------------------------------------------------------------

    def gradients(self, batch):
        """Gradients of the encoder's trainable variables, reduced over replicas, and the logs."""
        variables, averages = self.encoder.trainable_variables, self.moving_averages
        drawn = [generator.state for generator in self.generators]
        changed = {id(v) for v in (*variables, *averages, *drawn)}
        frozen = [v for v in self.encoder.variables if id(v) not in changed]
        groups = (variables, averages, frozen)
        values = [[ops.convert_to_tensor(v) for v in group] for group in groups]
        scale = ops.convert_to_tensor(self.loss_scale.value) if self.loss_scale else jnp.ones(())
        parted = [self._spec(v, self._shard_optimizer or self._is_table(v)) for v in variables]
        tables = [self._spec(v, self._is_table(v)) for v in variables]

        def of_replica(values, step, scale, batch):
            whole = [_whole(x, spec) for x, spec in zip(values[0], tables, strict=True)]
            found, logs, after = self._of_replica(groups, [whole, *values[1:]], step, scale, batch)
            found = [_summed(g, spec) for g, spec in zip(found, parted, strict=True)]
            return found, distribute.reduce_sum(logs), distribute.mean(after) if after else []

        gradients, logs, after = jax.shard_map(
            of_replica,
            mesh=self._devices.mesh,
            in_specs=([tables, P(), P()], P(), P(), P(distribute.AXIS)),
            out_specs=(parted, P(), P()),
            check_vma=False,
        )(values, ops.convert_to_tensor(self.step), scale, batch)
        for variable, value in zip(averages, after, strict=True):
            variable.assign(value)
        if self.loss_scale:
            gradients = self.loss_scale.unscaled(gradients)
        return gradients, self._told(logs)

    def _of_replica(self, groups, values, step, scale, batch):
        """Gradients, logs and moving averages of one replica's share."""
        variables, averages, _ = groups
        sigmas = {id(v): name for name, v in self.encoder.temperatures.items()}
        weights = [(v, x) for v, x in zip(variables, values[0], strict=True) if id(v) not in sigmas]
        temperatures = {
            sigmas[id(v)]: x
            for group, of in zip(groups, values, strict=True)
            for v, x in zip(group, of, strict=True)
            if id(v) in sigmas
        }
        fixed = [*zip(averages, values[1], strict=True), *zip(groups[2], values[2], strict=True)]
        fixed += [(v, temperatures[name]) for name, v in self.encoder.temperatures.items()]

        def encode(learnt, part, number):
            mapping = [*zip([v for v, _ in weights], learnt, strict=True), *fixed]
            with keras.StatelessScope(mapping) as scope:
                distribute.set_seeds(self.generators, self.seed, step, number)
                embeddings = self.encode(part)
                return embeddings, [scope.get_current_value(v) for v in averages]

        learnt = [x for _, x in weights]
        if self.microbatch in (None, _rows_of(batch)):
            embeddings, back, after = at_once(encode, learnt, batch)
        else:
            embeddings, back, after = in_microbatches(encode, learnt, batch, self.microbatch)
        logs, at_embeddings, at_temperatures = objective_and_gradients(
            embeddings,
            temperatures,
            batch,
            self.terms,
            len(self.languages),
            self.loss_chunk or _rows_of(batch),
        )
        if self.loss_scale:
            both = (at_embeddings, at_temperatures)
            at_embeddings, at_temperatures = jax.tree.map(lambda g: g * scale.astype(g.dtype), both)
        found = dict(zip([id(v) for v, _ in weights], back(at_embeddings), strict=True))
        found |= {id(v): at_temperatures[name] for name, v in self.encoder.temperatures.items()}
        return [found[id(v)] for v in variables], logs, after

    def _spec(self, variable, parted):
        return self._devices.parted(variable.shape) if parted else P()


def _rows_of(batch):
    return next(iter(batch.values()))["id"].shape[0]


def _whole(value, spec):
    """A replica's part of an array as the whole of it."""
    if spec == P():
        return value
    return jax.lax.all_gather(value, distribute.AXIS, axis=len(spec) - 1, tiled=True)


def _summed(gradient, spec):
    """A replica's gradient summed over replicas: all of it, or the part that it holds."""
    if spec == P():
        return distribute.reduce_sum(gradient)
    axis = len(spec) - 1
    return jax.lax.psum_scatter(gradient, distribute.AXIS, scatter_dimension=axis, tiled=True)
