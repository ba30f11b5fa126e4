"""The interface between a training step and its backend.

`train_step.TrainStep` calls only the functions in `BackendFunctions`. The trainers of both backends
create this class with functions of the same signatures, see `backends`.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class BackendFunctions:
    """The functions of a backend that a training step calls.

    A step first calls `run_on_replicas`, whose argument `function` calls the functions from
    `encode_full` to `set_seeds` on every replica. The step then calls `global_norm` and
    `apply_gradients` with the gradients, which are summed over replicas.

    Attributes:
        run_on_replicas: (function, batch) -> (gradients, logs). Calls `function` on every replica
            with the local batch of the replica. The results of `function`, and the moving averages
            that `function` assigns, are identical on all replicas.
        evaluate_on_replicas: (function, batch) -> logs. Calls `function`, which assigns no
            variables, on every replica with the local batch of the replica.
        encode_full, encode_cached, encode_frozen: see the module `grad_cache` of a backend.
        objective_and_gradients: see the module `chunked_loss` of a backend.
        gather, replica_offset, reduce_sum, sync_moving_averages, set_seeds: see the module
            `collectives` of a backend.
        reduce_gradients: (gradients, variables) -> dense gradients, summed over replicas.
        global_norm, apply_gradients: see the module `collectives` of a backend.
    """

    run_on_replicas: Callable
    evaluate_on_replicas: Callable
    encode_full: Callable
    encode_cached: Callable
    encode_frozen: Callable
    objective_and_gradients: Callable
    gather: Callable
    replica_offset: Callable
    reduce_gradients: Callable
    reduce_sum: Callable
    sync_moving_averages: Callable
    set_seeds: Callable
    global_norm: Callable
    apply_gradients: Callable


class EncoderVariables(NamedTuple):
    """The variables of an encoder by their role in a step.

    Attributes:
        weights: list of the trainable variables, without the learned scalars of the losses.
        moving_averages: list of batch norm's running statistics, which a forward pass updates.
        frozen: list of all other variables, without the states of random generators.
    """

    weights: list
    moving_averages: list
    frozen: list
