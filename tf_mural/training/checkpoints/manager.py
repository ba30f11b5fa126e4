"""Checkpoint manager: saves and restores the whole state of a run."""

import os
import threading

import tensorflow as tf

from tf_mural import file_io
from tf_mural.errors import StorageError, StorageUnavailable, UserError
from tf_mural.training.checkpoints import bundle
from tf_mural.training.checkpoints.model_files import MODEL, variables_by_path

FOLDER = "checkpoints"
BEST = "best"  # subfolder of the workdir with the best model

# Errors of a remote file system that is temporarily unavailable.
_TRANSIENT = (
    StorageUnavailable,
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
)


def has_checkpoint(workdir):
    """Returns whether the run in a workdir has a complete checkpoint."""
    return bool(bundle.complete_steps(os.path.join(workdir, FOLDER)))


class CheckpointManager:
    """Saves and restores the state of a run: the variables of model and optimizer, and the step.

    If there is a loss scale, the variables of the loss scale are also saved. A run has no other
    state, because the order of the data and the dropout depend only on the step.

    A background thread writes each checkpoint from a snapshot of the variables, made by the
    trainer's `snapshot`. At the end of a `with` block, the manager waits for the thread.

    Args:
        workdir: folder of the run; checkpoints are written to its subfolder `checkpoints`.
        trainer: compiled trainer of the backend.
        max_to_keep: number of checkpoints to keep, in addition to `pinned`.
        is_primary: whether this process writes checkpoints. All processes restore checkpoints, so
            all processes must be able to read the workdir.
        in_background: whether training continues while a checkpoint is written, which needs memory
            for a second copy of the state.
        print_fn: callable that prints a line.

    Attributes:
        pinned: step of a checkpoint that is always kept, or None.
    """

    def __init__(
        self, workdir, trainer, max_to_keep=2, is_primary=True, in_background=True, print_fn=print
    ):
        optimizer, self._is_primary, self._print = trainer.optimizer, is_primary, print_fn
        self._trainer = trainer
        self._max_to_keep, self._in_background, self.pinned = max_to_keep, in_background, None
        self._workdir, self._folder = workdir, os.path.join(workdir, FOLDER)
        # The slots of the optimizer are created here: slots that are created after a restore would
        # silently start from zero.
        optimizer.build(trainer.encoder.trainable_variables)
        encoder_variables = variables_by_path(trainer.encoder)
        self._variables = {f"model/{path}": v for path, v in encoder_variables.items()}
        # Variables of the optimizer are identified by position, because the name of an optimizer
        # contains the number of optimizers that were created before it.
        self._variables |= {f"optimizer/{i}": v for i, v in enumerate(optimizer.variables)}
        self._variables["step"] = trainer.step
        scale = trainer.loss_scale.variables if trainer.loss_scale else ()
        self._variables |= {f"loss_scale/{i}": variable for i, variable in enumerate(scale)}
        self._metadata, self._corrupt_steps = {}, set()
        self._thread = self._error = None
        self._last_step = None

    def restore(self, description, record_digests=None):
        """Restores the last intact checkpoint, if there is one.

        Args:
            description: model description of this run, whose vocabulary hash must equal that of
                the checkpoint.
            record_digests: {folder: digest} of the record sets, whose digests must equal those of
                the checkpoint.

        Returns:
            Whether a checkpoint was restored.

        Raises:
            UserError: the checkpoint has another vocabulary, other records or another model; all
                checkpoints are corrupt; or they were written by an earlier version of `tf_mural`.
        """
        digests = sorted((record_digests or {}).values())
        self._metadata = {"vocabulary_hash": description["vocabulary_hash"], "data": digests}
        complete, corrupt = bundle.complete_steps(self._folder), {}
        # Earlier versions of `tf_mural` used `tf.train.CheckpointManager`, which writes a file
        # named "checkpoint".
        if not complete and file_io.exists(os.path.join(self._folder, "checkpoint")):
            raise UserError(
                f"{self._folder} holds checkpoints of an earlier version, which this version "
                "cannot read: choose another `workdir`, or remove that folder to start from the "
                "beginning"
            )
        self._remove_incomplete(complete)
        for step in reversed(complete):
            path = bundle.prefix(self._folder, step)
            try:
                self._check_compatible(path, bundle.read_manifest(self._folder, step))
                bundle.restore(self._folder, step, self._variables)
            except bundle.CorruptFileError as reason:
                corrupt[step] = str(reason)
                self._print(f"{path} is damaged ({reason}): trying the previous checkpoint")
                continue
            self._corrupt_steps, self._last_step = set(corrupt), step
            return True
        if corrupt:
            reasons = "; ".join(f"step-{step}: {reason}" for step, reason in corrupt.items())
            raise UserError(
                f"no checkpoint in {self._folder} is intact ({reasons}): restore one from a copy, "
                "or remove that folder to start from the beginning"
            )
        if self._is_primary:
            file_io.makedirs(self._workdir)
            file_io.write_json(os.path.join(self._workdir, MODEL), description)
        return False

    def save(self, step):
        """Waits for the previous checkpoint, then starts to write the checkpoint of a step.

        Raises:
            UserError: the previous checkpoint could not be written, or the new checkpoint could not
                be written and `in_background` is False.
        """
        if not self._is_primary and not self._trainer.snapshot_is_collective:
            return
        self.wait_until_finished()
        tensors = self._trainer.snapshot(self._variables)
        if not self._is_primary:
            return
        self._thread = threading.Thread(target=self._write, args=(step, tensors), daemon=True)
        self._thread.start()
        if not self._in_background:
            self.wait_until_finished()

    def wait_until_finished(self):
        """Waits until the started checkpoint is written.

        Raises:
            UserError: a checkpoint could not be written.
        """
        if self._thread:
            self._thread.join()
        self.check_for_errors()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        """Waits for the background thread, also if the run ends with an error."""
        if kind is None:
            self.wait_until_finished()
        elif self._thread:
            self._thread.join()

    def check_for_errors(self):
        """Raises the UserError of a checkpoint that could not be written."""
        if self._error:
            raise self._error

    def _write(self, step, tensors):
        try:
            bundle.write(self._folder, step, tensors, self._metadata)
            self._corrupt_steps.discard(step)
            self._last_step = step
            self._prune()
        except (OSError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0]
            last = f"step {self._last_step}" if self._last_step is not None else "none"
            is_transient = isinstance(error, _TRANSIENT)
            advice = "Free some disk space;"
            if isinstance(error, StorageError):
                advice = "Give the storage what it needs;"
            if is_transient:
                advice = "The file system did not answer: try again later;"
            self._error = UserError(
                f"the checkpoint of step {step} cannot be written to {self._folder} ({reason}): "
                f"stopped; last intact checkpoint: {last}. {advice} the same command continues the "
                "run"
            )
            if is_transient:
                self._error.exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again
            # A storage that does not answer would not answer this request either.
            if not isinstance(error, StorageError):
                names = bundle.list_files(self._folder).get(step, [])
                if f"step-{step}.json" not in names:
                    bundle.remove_files(self._folder, names)
        except BaseException as error:
            self._error = error

    def _prune(self):
        complete = bundle.complete_steps(self._folder)
        intact = [step for step in complete if step not in self._corrupt_steps]
        kept = {*intact[-self._max_to_keep :], self.pinned}
        for step, names in bundle.list_files(self._folder).items():
            if step not in kept and step < intact[-1]:
                bundle.remove_files(self._folder, names)

    def _remove_incomplete(self, complete):
        """Removes temporary files and incomplete checkpoints; prints each incomplete checkpoint."""
        for step, names in bundle.list_files(self._folder).items():
            # A complete checkpoint has temporary files if rewriting it was interrupted.
            obsolete = [n for n in names if n.endswith(".tmp") or ".tempstate" in n]
            if step not in complete:
                obsolete = names
                path = bundle.prefix(self._folder, step)
                self._print(f"{path} is incomplete, because its writing was interrupted: ignored")
            if self._is_primary:
                bundle.remove_files(self._folder, obsolete)
        if self._is_primary:
            for folder in (self._workdir, os.path.join(self._workdir, BEST)):
                temporary = [n for n in file_io.listdir(folder) if n.endswith(".tmp")]
                bundle.remove_files(folder, temporary)

    def _check_compatible(self, path, manifest):
        """Raises UserError if a checkpoint belongs to other data or another model."""
        for name, label in (("vocabulary_hash", "vocabulary"), ("data", "records")):
            saved, current = manifest[name], self._metadata[name]
            if saved != current and saved and current:
                raise UserError(
                    f"{path} has the {label} {_listed(saved)}, this run has {_listed(current)}: "
                    f"restore the {label} of the start of the run, or choose another `workdir`"
                )
        current = {name: list(v.shape) for name, v in self._variables.items()}
        saved = manifest["tensors"]
        different = [n for n in {**current, **saved} if current.get(n) != saved.get(n)]
        if different:
            name = different[0]
            raise UserError(
                f"{path} belongs to another model: {name} has shape {saved.get(name)} in the "
                f"checkpoint and {current.get(name)} in this run (None: no such variable), "
                f"{len(different) - 1} more variables differ; choose another `workdir`"
            )


def _listed(value):
    return value if isinstance(value, str) else ", ".join(value)
