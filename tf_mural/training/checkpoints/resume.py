"""Resume: the whole state of a run, saved and restored."""

import os
import threading

import tensorflow as tf

from tf_mural import file_io
from tf_mural.errors import UserError
from tf_mural.training.checkpoints import bundle
from tf_mural.training.checkpoints.checksummed_json import Damaged
from tf_mural.training.checkpoints.model_files import MODEL, by_path

FOLDER = "checkpoints"
# What a remote file system says when it cannot be reached.
_TRANSIENT = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError)
BEST = "best"  # folder of the best model, in the workdir


def started(workdir):
    """Whether the run has a checkpoint."""
    return bool(bundle.finished(os.path.join(workdir, FOLDER)))


class Checkpoints:
    """The checkpoints of one run: all variables of model and optimizer, and the step.

    Nothing else is state: the order of data and the dropout are functions of the step.

    A checkpoint is written by a thread of its own, of values that the variables had (the trainer's
    `snapshot`). `with` waits for it in the end.

    Args:
        workdir: folder of the run; they go to its `checkpoints/`.
        trainer: of the backend's room, compiled.
        keep: how many of the last ones stay; that of `pinned` stays as well.
        writes: whether this process does; of several, the first alone. All of them restore, so all
            must see the folder.
        in_background: whether training goes on meanwhile, which takes memory for a second state.
        say: function of a line.

    Attributes:
        pinned: step of a checkpoint that stays, or None.
    """

    def __init__(self, workdir, trainer, keep=2, writes=True, in_background=True, say=print):
        optimizer, self._writes, self._say = trainer.optimizer, writes, say
        self._trainer = trainer
        self._keep, self._in_background, self.pinned = keep, in_background, None
        self._workdir, self._folder = workdir, os.path.join(workdir, FOLDER)
        # Before a restore: slots made afterwards would start from zero, silently.
        optimizer.build(trainer.encoder.trainable_variables)
        self._variables = {f"model/{path}": v for path, v in by_path(trainer.encoder).items()}
        # By position: the name of an optimizer depends on how many the process has made.
        self._variables |= {f"optimizer/{i}": v for i, v in enumerate(optimizer.variables)}
        self._variables["step"] = trainer.step
        scale = trainer.loss_scale.variables if trainer.loss_scale else ()
        self._variables |= {f"loss_scale/{i}": variable for i, variable in enumerate(scale)}
        self._about, self._damaged = {}, set()
        self._thread = self._error = None
        self._last = None

    def restore(self, description, data=None):
        """Restores the last whole checkpoint, if there is one; returns whether there was.

        Args:
            description: that of this run; the checkpoint must be of the same vocabulary.
            data: {folder: digest} of the records; the checkpoint must be of the same ones.

        Raises:
            UserError: another vocabulary, other records, another model; none is whole; or they are
                of an earlier version.
        """
        digests = sorted((data or {}).values())
        self._about = {"vocabulary_hash": description["vocabulary_hash"], "data": digests}
        finished, wrong = bundle.finished(self._folder), {}
        # The file that `tf.train.CheckpointManager` keeps, which earlier versions wrote with.
        if not finished and file_io.exists(os.path.join(self._folder, "checkpoint")):
            raise UserError(
                f"{self._folder} holds checkpoints of an earlier version, which this one cannot "
                "read: choose another --workdir, or remove that folder to start from the beginning"
            )
        self._clear(finished)
        for step in reversed(finished):
            path = bundle.prefix(self._folder, step)
            try:
                self._check(path, bundle.manifest(self._folder, step))
                bundle.restore(self._folder, step, self._variables)
            except Damaged as reason:
                wrong[step] = str(reason)
                self._say(f"{path} is damaged ({reason}): taking the one before it")
                continue
            self._damaged, self._last = set(wrong), step
            return True
        if wrong:
            reasons = "; ".join(f"step-{step}: {reason}" for step, reason in wrong.items())
            raise UserError(
                f"no checkpoint in {self._folder} is whole ({reasons}): put one back from a copy, "
                "or remove that folder to start from the beginning"
            )
        if self._writes:
            file_io.make_folder(self._workdir)
            file_io.write_json(os.path.join(self._workdir, MODEL), description)
        return False

    def save(self, step):
        """Begins to write the checkpoint of a step; waits for the one before it to be written.

        Raises:
            UserError: that one, or this, could not be written.
        """
        if not self._writes and not self._trainer.collective:
            return
        self.wait()
        tensors = self._trainer.snapshot(self._variables)
        if not self._writes:
            return
        self._thread = threading.Thread(target=self._write, args=(step, tensors), daemon=True)
        self._thread.start()
        if not self._in_background:
            self.wait()

    def wait(self):
        """Returns once everything is written.

        Raises:
            UserError: it could not be.
        """
        if self._thread:
            self._thread.join()
        self.check()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        """Whatever ends the run, what was begun is written."""
        if kind is None:
            self.wait()
        elif self._thread:
            self._thread.join()

    def check(self):
        """Raises the UserError of a checkpoint that could not be written."""
        if self._error:
            raise self._error

    def _write(self, step, tensors):
        try:
            bundle.write(self._folder, step, tensors, self._about)
            self._damaged.discard(step)
            self._last = step
            self._prune()
        except (OSError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0]
            last = f"that of step {self._last}" if self._last is not None else "none"
            gone = isinstance(error, _TRANSIENT)
            advice = "Its file system did not answer: later" if gone else "Make room, and"
            self._error = UserError(
                f"the checkpoint of step {step} cannot be written to {self._folder} ({reason}): "
                f"stopped; the last whole one is {last}. {advice} the same command goes on"
            )
            if gone:
                self._error.exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again
            unfinished = bundle.steps(self._folder).get(step, [])
            if f"step-{step}.json" not in unfinished:
                bundle.remove(self._folder, unfinished)
        except BaseException as error:
            self._error = error

    def _prune(self):
        found = bundle.steps(self._folder)
        whole = [s for s in bundle.finished(self._folder) if s not in self._damaged]
        stay = {*whole[-self._keep :], self.pinned}
        for step, names in found.items():
            if step not in stay and step < whole[-1]:
                bundle.remove(self._folder, names)

    def _clear(self, finished):
        """Removes what was cut short, and says so."""
        for step, names in bundle.steps(self._folder).items():
            # Remnants of a whole one: it was being written again, or its manifest was.
            left = [n for n in names if n.endswith(".tmp") or ".tempstate" in n]
            if step not in finished:
                left = names
                path = bundle.prefix(self._folder, step)
                self._say(f"{path} was cut short while it was written: not used")
            if self._writes:
                bundle.remove(self._folder, left)
        for folder in (self._workdir, os.path.join(self._workdir, BEST)) if self._writes else ():
            bundle.remove(folder, [n for n in file_io.names(folder) if n.endswith(".tmp")])

    def _check(self, path, manifest):
        """Raises UserError for a checkpoint of something else."""
        for name, what in (("vocabulary_hash", "vocabulary"), ("data", "records")):
            theirs, ours = manifest[name], self._about[name]
            if theirs != ours and theirs and ours:
                raise UserError(
                    f"{path} is of {what} {_listed(theirs)}, this run has {_listed(ours)}: put "
                    "back what the run was started with, or choose another --workdir"
                )
        ours = {name: list(v.shape) for name, v in self._variables.items()}
        theirs = manifest["tensors"]
        wrong = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
        if wrong:
            raise UserError(
                f"{path} is of another model: {wrong[0]} has shape {theirs.get(wrong[0])} there "
                f"and {ours.get(wrong[0])} here (None: no such variable), {len(wrong) - 1} more "
                "differ; choose another --workdir"
            )


def _listed(value):
    return value if isinstance(value, str) else ", ".join(value)
