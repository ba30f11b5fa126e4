"""The weights that a run ends with: its own, their average, or a mixture with those before it."""

import numpy as np
from keras import ops

from tf_mural.errors import UserError
from tf_mural.experiment.initialization import PUBLIC
from tf_mural.training import checkpoints


def end_weights(trainer, average=0.0, interpolate=1.0, init=None):
    """Gives the encoder of a trained run the weights that it is to end with. All processes call it.

    Args:
        trainer: of the backend's room.
        average: whether they are the moving average that `optimizers.Lamb` kept.
        interpolate: share a of the run's weights in a w + (1 - a) w_0, where w_0 are those of
            `init`; batch norm's statistics are mixed alike. Wortsman et al. 2022
            (https://arxiv.org/abs/2109.01903).
        init: workdir of the run that this one started from.

    Raises:
        UserError: there is nothing to mix with.
    """
    variables = checkpoints.by_path(trainer.encoder)
    if average:
        pairs = zip(trainer.encoder.trainable_variables, trainer.optimizer.averages, strict=True)
        sources = {variable.path: kept for variable, kept in pairs}
        for path, array in trainer.snapshot(sources).items():
            variables[path].assign(ops.convert_to_tensor(np.asarray(array)))
    if interpolate < 1:
        check_interpolation(interpolate, init)
        before = checkpoints.read_weights(init)
        for path, array in trainer.snapshot(variables).items():
            mixed = interpolate * np.asarray(array) + (1 - interpolate) * before[path]
            variables[path].assign(ops.convert_to_tensor(mixed.astype(before[path].dtype)))


def check_interpolation(interpolate, init):
    """Raises UserError where a run that starts from `init` will have nothing to mix with."""
    if interpolate == 1:
        return
    if not init or init.startswith(PUBLIC):
        raise UserError(
            f"interpolate mixes with the weights of --init, which is {init or 'not given'}: "
            "expected the workdir of a finished run"
        )
    checkpoints.read_model(init)
