"""The callback that checks and averages the logs of `fit` and `evaluate`."""

import keras

from tf_mural.errors import UserError
from tf_mural.train_step import combine_logs


class StepMonitor(keras.callbacks.Callback):
    """Checks the logs of each step of `fit`, and replaces them by their means over the epoch.

    The callback must be the first in the list of callbacks. All other callbacks then get the means,
    and cannot save the weights of a bad step, because the check ends `fit` before they are called.

    Args:
        skipped_records: `data.skipped_records.SkippedRecords` of the dataset, or None.

    Attributes:
        test_logs: list of the logs of the batches of the last `evaluate`.
    """

    def __init__(self, skipped_records=None):
        super().__init__()
        self._skipped_records, self._train_logs, self.test_logs = skipped_records, [], []

    def on_epoch_begin(self, epoch, logs=None):
        """Stores the number of the next step, which the dataset reads."""
        self._train_logs = []
        self.model._epoch_step = int(self.model.step.numpy())

    def on_train_batch_end(self, batch, logs=None):
        """Checks the logs of a step; replaces them by the means over the epoch.

        Raises:
            UserError: see `nonfinite.BadStepPolicy.check_logs`.
        """
        step = self.model._epoch_step + batch + 1
        if message := self.model.bad_step_policy.check_logs(step, logs):
            print(f"\n{message}", flush=True)
        self._train_logs.append(dict(logs))
        _replace(logs, combine_logs(self._train_logs))

    def on_epoch_end(self, epoch, logs=None):
        """Replaces the logs by the means over the epoch; checks the number of skipped records."""
        if self._train_logs:
            validation = {k: v for k, v in logs.items() if k.startswith("val_")}
            _replace(logs, combine_logs(self._train_logs) | validation)
        if self._skipped_records:
            logs |= self._skipped_records.check()

    def on_test_begin(self, logs=None):
        """Clears the logs of the last `evaluate`."""
        self.test_logs = []

    def on_test_batch_end(self, batch, logs=None):
        """Replaces the logs by the means over the batches."""
        self.test_logs.append(dict(logs))
        _replace(logs, combine_logs(self.test_logs))

    def on_test_end(self, logs=None):
        """Replaces the logs by the means over the batches."""
        _replace(logs, combine_logs(self.test_logs))


def _replace(logs, values):
    logs.clear()
    logs.update(values)


def with_monitor(callbacks, monitor):
    """Returns the list of the given callbacks with a `StepMonitor` as the first.

    Raises:
        UserError: `callbacks` is a `CallbackList`.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        raise UserError("callbacks is a CallbackList, expected a list of callbacks")
    return [monitor, *keras.tree.flatten(callbacks or [])]


def monitor_of(callbacks):
    """Returns the `StepMonitor` in a list of callbacks, or in a `CallbackList`."""
    callbacks = getattr(callbacks, "callbacks", callbacks)
    return next(callback for callback in callbacks if isinstance(callback, StepMonitor))


def explained(skipped_records, call):
    """Calls a function, and replaces an error of the dataset by the `UserError` that caused it.

    Args:
        skipped_records: `data.skipped_records.SkippedRecords` of the dataset, or None.
        call: callable without arguments.
    """
    try:
        return call()
    except UserError:
        raise
    except Exception as error:
        if skipped_records is None:
            raise
        raise skipped_records.explain(error) from error
