"""Trains a stage: python tools/train.py --stage=etcl

A stage reads configs/<stage>.py; any value of it is overridden by --config.name=value, such as
--config.optimizer.learning_rate=1e-4. A run that was stopped goes on where it stood when the same
command is given again. At size tiny a stage trains the stages that it starts from first, where
those runs are not finished; at other sizes it asks for --init. A --config file of your own has a
say in that by its value `chain`.

Exit codes: 0 finished, 1 unforeseen (with a traceback), 2 something to be mended, 75 start it
again: SIGTERM (saved at the end of the step), another process lost, or the workdir perhaps in use
on another machine; 130 and 129 SIGINT and SIGHUP, saved likewise. A second signal ends the run at
once; 137 one of several processes that never met the others. What is printed may be lost, on a full
disk or when its reader ends: the run goes on.
"""

import contextlib
import functools
import os
import sys
import time

import common
import options
import reporting
from absl import flags

from tf_mural import file_io
from tf_mural.errors import UserError
from tf_mural.training.preemption import Signals

_STAGE = flags.DEFINE_string("stage", "etcl", f"One of {', '.join(options.STAGES)}.")
_SIZE = flags.DEFINE_string("size", "tiny", f"Model and recipe: one of {', '.join(options.SIZES)}.")
_CONFIG = flags.DEFINE_string("config", None, "A file of your own with get_config(stage).")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run. Default: runs/<size>/<stage>-s<seed>."
)
_INIT = flags.DEFINE_string(
    "init",
    None,
    "What to start from: the workdir of a finished run, or hf:NAME_OR_FOLDER, public weights of "
    "ALIGN or of a BERT (hf:kakaobrain/align-base, hf:sentence-transformers/LaBSE).",
)
_SEED = flags.DEFINE_integer("seed", None, "Seed of everything. Default: the config's.")
_STRATEGY = flags.DEFINE_string(
    "strategy",
    "auto",
    "auto, one (device), mirrored (all GPUs), multiworker (several processes that share --workdir; "
    "TF_CONFIG or srun says which) or tpu.",
)
_TPU = flags.DEFINE_string("tpu", "local", "Which TPU: local, the one of this host, or a name.")
_WAIT_MINUTES = flags.DEFINE_float(
    "wait_minutes",
    10.0,
    "How long the other processes, or the TPU of another machine, have to answer at the start.",
    lower_bound=0.0,
)
_ACCEPT_CHANGES = flags.DEFINE_bool(
    "accept_changes", False, "Go on with a run by other settings than it was started with."
)
_BACKEND = common.define_backend()
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.")

RESULTS = reporting.RESULTS
# Overrides of the model, which stages that start from each other or are compared have in common.
_SHARED = ("--config.model.", "--config.images.", "--config.vocabulary")


def main():
    sys.stdout = common.Lasting(sys.stdout)
    with Signals(say=functools.partial(print, flush=True)) as signals:
        run(signals)


def run(signals):
    common.import_tensorflow(_BACKEND.value)
    from tf_mural.experiment import rooms

    config = load(_STAGE.value)
    distribute, _ = rooms()
    strategy = distribute.make_strategy(_STRATEGY.value, _TPU.value, _WAIT_MINUTES.value)
    signals.listen()
    processes = distribute.Processes(strategy)
    if not processes.first:  # errors alone: all else the first one tells
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    workdir = _WORKDIR.value or default_workdir(config)
    reporting.tell_apart(config, _INIT.value, [o for o in OVERRIDES if not o.startswith(_SHARED)])
    with processes.watched():
        results = stage(config, workdir, strategy, signals, _INIT.value)
        beside = {}
        for name in config.report.beside:
            other = load(name)
            beside[name] = stage(other, default_workdir(other), strategy, signals)
        if processes.first:
            reporting.report(config, workdir, results, beside)
        processes.leave()


def load(name):
    """The config of a stage as the flags ask for it.

    Overrides hold for the stage that was asked for; those of the model, which its stages must
    share, for the stages that it starts from and is compared with too.
    """
    config = options.load_config(name, _SIZE.value, _CONFIG.value)
    taken = [o for o in OVERRIDES if name == _STAGE.value or o.startswith(_SHARED)]
    options.override(config, taken)
    if _SEED.value is not None:
        config.seed = _SEED.value
    return config


def default_workdir(config):
    return os.path.join("runs", config.size, f"{config.stage}-s{config.seed}")


def stage(config, workdir, strategy, signals, init=None):
    """Trains a stage to its end, or takes the results of the run that is finished already."""
    from tf_mural import experiment
    from tf_mural.training import checkpoints

    processes = experiment.rooms()[0].Processes(strategy)
    experiment.adopt_again(config, init, workdir)
    agreed = checkpoints.flat(config.to_dict()) | {"--init": init}
    processes.agree(agreed, "start all of them by the same command")
    accepts = _ACCEPT_CHANGES.value and not finished(workdir)
    accept = print if accepts else None
    known = checkpoints.same_config(workdir, config.to_dict(), accept)
    init = checkpoints.started_from(workdir, init, accept)
    if known and finished(workdir):
        print(f"{config.stage}: finished already, in {workdir}")
        return checkpoints.read_json(os.path.join(workdir, RESULTS))
    if config.starts_from and not init:
        init = start_from(config, strategy, signals)
    experiment.check_interpolation(config.get("interpolate", 1.0), init)
    with checkpoints.Lock(workdir) if processes.first else contextlib.nullcontext():
        if processes.first:
            experiment.make_records(config, _DATA_DIR.value)
        processes.wait()  # Until here nobody has written what the others look for.
        print(f"{config.stage}: training in {workdir}" + (f", from {init}" if init else ""))
        if init and not known:
            reporting.tell(experiment.adopt(config, init, workdir))
        resumes = checkpoints.started(workdir)
        run = experiment.build(config, _DATA_DIR.value, strategy, resumes=resumes)
        if init and not resumes:
            reporting.tell(experiment.hand_over(init, run))
        return train(config, run, workdir, strategy, signals, init)


def finished(workdir):
    return file_io.exists(os.path.join(workdir, RESULTS))


def start_from(config, strategy, signals):
    """Workdir of the stage that this one starts from, trained first where the config says so."""
    before = load(config.starts_from)
    workdir = default_workdir(before)
    if not config.chain:
        raise UserError(
            f"stage {config.stage} starts from the weights of {before.stage}: give "
            f"--init=<workdir of a finished {before.stage} run> (such as {workdir})"
        )
    if not finished(workdir):
        print(f"{config.stage} starts from {before.stage}, not finished yet: training that first")
    stage(before, workdir, strategy, signals)
    return workdir


def train(config, run, workdir, strategy, signals, init):
    """Runs the loop and evaluates; the first process writes model, results and pictures."""
    from tf_mural import experiment
    from tf_mural.training import checkpoints, metric_writer

    distribute, _ = experiment.rooms()
    runner = distribute.Runner(run.trainer, strategy, run.dataset)
    processes = runner.processes
    file_io.make_folder(workdir)
    if processes.first:
        told = config.to_dict() | {"init": init}
        file_io.write_json(os.path.join(workdir, checkpoints.CONFIG), told)
    saved = checkpoints.Checkpoints(
        workdir,
        run.trainer,
        config.keep_checkpoints,
        processes.first,
        config.checkpoint_in_background,
    )
    if saved.restore(run.description, run.data):
        print(f"resuming at step {int(run.trainer.step.numpy())}")
    agreed = {"the step to go on from": int(run.trainer.step.numpy())}
    processes.agree(agreed, "--workdir must be a folder that all of them see")
    processes.agree({"the records": sorted(run.data.values())}, "give all of them the same data")
    log = reporting.open_log(config, run, workdir) if processes.first else metric_writer.NoLog()
    evaluations = checkpoints.Evaluations(workdir, config.keep_best, processes.first)
    evaluate = reporting.evaluation(run, workdir, saved, evaluations, log, processes.first)
    began = time.perf_counter()
    before = reporting.before(config, run, workdir, evaluate, processes)
    folder = os.path.join(workdir, "tensorboard")
    with experiment.profiled(runner, config.profile_steps, folder, distribute.PROFILER) as runner:
        steps = train_loop(config, run, runner, saved, log, evaluate, evaluations, signals)
    if steps < config.steps:
        print(f"ended at step {steps}: {config.stop_early} evaluations without a better one")
    experiment.end_weights(run.trainer, config.optimizer.average, config.interpolate, init)
    results = {
        "stage": config.stage,
        "size": config.size,
        "seed": config.seed,
        "steps": steps,
        "seconds": round(time.perf_counter() - began, 1),
        "init": init,
        "before": before,
        "evaluation": evaluate(steps),
        "best": evaluations.best,
    }
    results |= reporting.facts(run, processes)
    arrays = run.trainer.snapshot(checkpoints.by_path(run.trainer.encoder))
    if processes.first:
        checkpoints.save_model(workdir, arrays, run.description, run.vocabulary_path)
        file_io.write_json(os.path.join(workdir, RESULTS), results)
        reporting.show(config, workdir, _DATA_DIR.value, log, steps)
    processes.wait()
    return results


def train_loop(config, run, runner, saved, log, evaluate, evaluations, signals):
    """`loop.train` by the config; the number of the last step."""
    from tf_mural.training import loop

    with saved, signals.noted():
        return loop.train(
            run.trainer,
            runner,
            config.steps,
            saved,
            log,
            log_every=config.log_every,
            checkpoint_every=config.checkpoint_every,
            checkpoint_minutes=config.checkpoint_minutes,
            evaluate=evaluate,
            evaluate_every=config.evaluate_every,
            evaluated=evaluations.last,
            health=run.health,
            steps_per_loop=config.steps_per_loop,
            signals=signals,
            enough=lambda: 0 < config.stop_early <= evaluations.since_best,
        )


if __name__ == "__main__":
    OVERRIDES = [a for a in sys.argv[1:] if a.startswith("--config.")]
    sys.argv[1:] = [a for a in sys.argv[1:] if a not in OVERRIDES]
    common.run(main)
