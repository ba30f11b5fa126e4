"""Runs a stage: trains the initial stage if needed, loads initial weights, trains, evaluates."""

import contextlib
import dataclasses
import os
import time

from tf_mural import file_io, models, public_models
from tf_mural.backends import backend_module
from tf_mural.data.image_normalization import stored_images_note
from tf_mural.data.records import read_manifest
from tf_mural.errors import UserError
from tf_mural.experiment import data, public_encoders, run_report
from tf_mural.experiment.distillation import check_extractions, check_teacher
from tf_mural.experiment.initialization import (
    apply_init_settings,
    check_init,
    check_wise_ft_alpha,
    finalize_weights,
    load_initial_weights,
    loss_note,
    restore_init_settings,
    set_padding,
)
from tf_mural.experiment.model_io import add_languages, read_description
from tf_mural.experiment.profiling import profiled
from tf_mural.experiment.run import build
from tf_mural.experiment.stored_vectors import check_stored_features
from tf_mural.reports.result_tables import headline_values
from tf_mural.training import checkpoints, loop, metric_writer

RESULTS = run_report.RESULTS
BEFORE = "before.json"


@dataclasses.dataclass
class Session:
    """Settings that all stages of one command share.

    Attributes:
        data_dir: folder of the record sets.
        strategy: see `build`.
        signals: `preemption.SignalHandler`.
        load_config: callable that takes the name of a stage, and returns its config.
        allow_config_changes: whether a run may resume after its settings have changed.
    """

    data_dir: str
    strategy: object
    signals: object
    load_config: object
    allow_config_changes: bool = False


def default_workdir(config):
    """Returns the folder of a run: runs/<size>/<stage>-s<seed>."""
    return os.path.join("runs", config.size, f"{config.stage}-s{config.seed}")


def is_finished(workdir):
    """Returns whether the run in a folder is finished."""
    return file_io.exists(os.path.join(workdir, RESULTS))


def run_stage(config, workdir, session, init=None):
    """Trains a stage to its end, or returns the results of a finished run.

    All processes of a run must call this function.

    Args:
        config: ConfigDict of a stage. The function changes this object: it sets the settings that
            belong to the initial weights.
        workdir: folder of the run.
        session: `Session`.
        init: workdir of a finished run, or public weights ("hf:..."). None: the weights of the
            stage `config.init_stage`, or random weights if there is no such stage. The stage
            `config.init_stage` is trained first if `config.train_dependencies` is True.

    Returns:
        A dict, the content of results.json.

    Raises:
        UserError: the config is invalid, or the folder has a run of another config.
        Preempted: a signal stopped the run after its state was saved.
    """
    processes = backend_module().ProcessGroup(session.strategy)
    restore_init_settings(config, init, workdir)
    set_padding(config)
    settings = checkpoints.flatten_config(config.to_dict()) | {"init": init}
    processes.check_consistent(settings, "start all of them with the same command")
    accept = print if session.allow_config_changes and not is_finished(workdir) else None
    resumes_run = checkpoints.check_same_config(workdir, config.to_dict(), accept)
    init = checkpoints.resolve_init(workdir, init, accept)
    if resumes_run and is_finished(workdir):
        print(f"{config.stage}: already finished, in {workdir}")
        return file_io.read_json(os.path.join(workdir, RESULTS))
    if config.init_stage and not init:
        init = _train_init_stage(config, session)
    check_wise_ft_alpha(config.wise_ft_alpha, init)
    if init and not resumes_run:  # checked before the records are made, which may take long
        check_init(init)
    if not resumes_run:
        public_encoders.check_backbones(config)
    with checkpoints.Lock(workdir) if processes.is_primary else contextlib.nullcontext():
        if processes.is_primary:
            data.make_records(config, session.data_dir)
        # After this barrier, all processes have checked which files exist, and the primary process
        # may write files.
        processes.barrier()
        if not resumes_run:
            check_extractions(config, session.data_dir, init)
        print(f"{config.stage}: training in {workdir}" + (f", from {init}" if init else ""))
        if not resumes_run:
            _apply_settings(config, init, workdir)
        resumes = checkpoints.has_checkpoint(workdir)
        encoders = None
        if resumes or (init and not public_models.is_public(init)):
            encoders = _read_encoders(workdir)
        run = build(config, session.data_dir, session.strategy, resumes, encoders)
        for folder in run.data:
            _print_note(stored_images_note(folder, read_manifest(folder)))
        if init:
            add_languages(run.description, _init_description(init))
        if init and not resumes:
            _print_note(load_initial_weights(init, run))
        return _train(config, run, workdir, session, init)


def _apply_settings(config, init, workdir):
    """Sets and prints the settings that belong to initial weights and to public encoders."""
    if init:
        _print_note(apply_init_settings(config, init, workdir))
    if init and not public_models.is_public(init) and _read_encoders(workdir):
        return  # The settings of the encoders are those of the run `init`.
    _print_note(public_encoders.apply_backbone_settings(config, workdir))
    if init and init in public_encoders.public_towers(config).values():
        _print_note(loss_note(config, public_models.open_model(init)))


def _read_encoders(workdir):
    """Returns the stored encoders of public models of the run in a folder; None: it has none."""
    path = os.path.join(workdir, public_encoders.ENCODERS)
    return file_io.read_json(path) if file_io.exists(path) else None


def _init_description(init):
    """Returns the description of the run that provides the initial weights.

    The result is None for public weights, and for a run that was removed.
    """
    if public_models.is_public(init):
        return None
    try:
        return read_description(init)
    except UserError:  # a resumed run does not need the run of its initial weights
        return None


def _print_note(note):
    if note:
        print(note)


def _train_init_stage(config, session):
    """Returns the workdir of `config.init_stage`, which is trained first if necessary."""
    init_config = session.load_config(config.init_stage)
    workdir = default_workdir(init_config)
    if not config.train_dependencies:
        raise UserError(
            f"stage {config.stage} starts from the weights of {init_config.stage}: give "
            f"`init`, the workdir of a finished {init_config.stage} run (such as {workdir})"
        )
    if not is_finished(workdir):
        print(
            f"{config.stage} starts from {init_config.stage}, which is not finished: training it "
            "first"
        )
    run_stage(init_config, workdir, session)
    return workdir


def _train(config, run, workdir, session, init):
    """Trains and evaluates; the primary process writes the model, the results and the images."""
    backend = backend_module()
    runner = backend.Runner(run.trainer, session.strategy, run.dataset)
    processes = runner.processes
    file_io.makedirs(workdir)
    if processes.is_primary:
        if run.vocabulary_path.endswith((".model", ".json")):
            options = run.description["max_tokens"], run.description["lower_case"]
            tokenizer = public_encoders.open_tokenizer(run.vocabulary_path, *options)
            run.vocabulary_path = public_encoders.store_tokenizer(tokenizer, workdir)
        if encoders := run.description.get("encoders"):
            file_io.write_json(os.path.join(workdir, public_encoders.ENCODERS), encoders)
        content = config.to_dict() | {"init": init}
        file_io.write_json(os.path.join(workdir, checkpoints.CONFIG), content)
    manager = _restore(config, run, workdir, processes)
    for note in check_stored_features(config, run):
        _print_note(note)
    if not int(run.trainer.step.numpy()):
        _print_note(check_teacher(config, run, init))
    log = metric_writer.NullWriter()
    if processes.is_primary:
        log = run_report.open_log(config, run, workdir)
        run_report.print_languages(config, run)
    tracker = checkpoints.BestStepTracker(workdir, config.keep_best, processes.is_primary)
    evaluate = _make_evaluate(run, workdir, manager, tracker, log, processes)
    start_time = time.perf_counter()
    before = _evaluate_before(config, run, workdir, evaluate, processes)
    folder = os.path.join(workdir, "tensorboard")
    with profiled(runner, config.profile_steps, folder, backend.PROFILER) as runner:
        last_step = _train_loop(config, run, runner, manager, log, evaluate, tracker, session)
    if last_step < config.steps:
        print(f"stopped at step {last_step}: {config.stop_early} evaluations without improvement")
    finalize_weights(run.trainer, config.optimizer.ema_momentum, config.wise_ft_alpha, init)
    results = {
        "stage": config.stage,
        "size": config.size,
        "seed": config.seed,
        "steps": last_step,
        "seconds": round(time.perf_counter() - start_time, 1),
        "init": init,
        "before": before,
        "evaluation": evaluate(last_step),
        "best": tracker.best,
        **run_report.run_facts(run, processes, last_step),
    }
    arrays = _plain_weights(run.trainer)
    if processes.is_primary:
        checkpoints.save_model(workdir, arrays, run.description, run.vocabulary_path)
        file_io.write_json(os.path.join(workdir, RESULTS), results)
        run_report.write_retrieval_images(config, workdir, session.data_dir, log, last_step)
        log.copy_events()
    processes.barrier()
    return results


def _plain_weights(trainer):
    """Returns {variable path: array} of the current weights, in which adapters are merged."""
    encoder = trainer.encoder
    arrays = trainer.snapshot(checkpoints.variables_by_path(encoder))
    return models.merge_arrays(encoder, arrays)


def _restore(config, run, workdir, processes):
    """Returns the `CheckpointManager`, and restores the last checkpoint if there is one."""
    manager = checkpoints.CheckpointManager(
        workdir,
        run.trainer,
        config.keep_checkpoints,
        processes.is_primary,
        config.checkpoint_in_background,
    )
    blocks = {f"blocks of {folder}": digest for folder, digest in run.layouts.items()}
    data_digests = run.data | run.negatives | run.lexicons | blocks
    if manager.restore(run.description, data_digests):
        print(f"resuming at step {int(run.trainer.step.numpy())}")
    start = {"the step to resume from": int(run.trainer.step.numpy())}
    processes.check_consistent(start, "workdir must be a folder that all of them see")
    digests = {"the records": sorted(data_digests.values())}
    processes.check_consistent(digests, "give all of them the same data")
    return manager


def _make_evaluate(run, workdir, manager, tracker, log, processes):
    """Returns a function `evaluate(step)`, which also saves the model of the best step so far."""
    manager.pinned = tracker.best and tracker.best["step"]

    def evaluate(step):
        results = run.evaluate()
        numbers = {
            f"{name}/{key}": value
            for name, result in results.items()
            for key, value in headline_values(result).items()
        }
        log.scalars(step, numbers)
        is_best = tracker.is_better(numbers)
        if is_best:
            arrays = _plain_weights(run.trainer)
            if processes.is_primary:
                folder = os.path.join(workdir, checkpoints.BEST)
                checkpoints.save_model(folder, arrays, run.description, run.vocabulary_path)
        log.info(run_report.scores_line(step, results, is_best))
        tracker.record(step, numbers, is_best)
        if is_best:
            manager.pinned = step
        return {name: result.as_dict() for name, result in results.items()}

    return evaluate


def _evaluate_before(config, run, workdir, evaluate, processes):
    """Returns the results of the initial weights, or None if the config does not request them."""
    path = os.path.join(workdir, BEFORE)
    if not config.evaluate_before_training:
        return None
    if not int(run.trainer.step.numpy()):
        results = evaluate(0)
        if processes.is_primary:
            file_io.write_json(path, results)
    return file_io.read_json(path) if file_io.exists(path) else None


def _train_loop(config, run, runner, manager, log, evaluate, tracker, session):
    """Calls `loop.train` with the values of the config. Returns the number of the last step."""
    with manager, session.signals.deferred(), contextlib.ExitStack() as stack:
        stack.callback(log.copy_events)
        return loop.train(
            run.trainer,
            runner,
            config.steps,
            manager,
            log,
            log_every=config.log_every,
            checkpoint_every=config.checkpoint_every,
            checkpoint_minutes=config.checkpoint_minutes,
            evaluate=evaluate,
            evaluate_every=config.evaluate_every,
            last_evaluated=tracker.last_step,
            skipped_records=run.skipped_records,
            extra_metrics=run.metrics,
            steps_per_loop=config.steps_per_loop,
            signals=session.signals,
            should_stop=lambda: _should_stop_early(config.stop_early, tracker),
        )


def _should_stop_early(patience, tracker):
    return patience is not None and tracker.since_best >= patience
