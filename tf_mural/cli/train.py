"""Trains a stage: python tools/train.py --stage=etcl

A stage is defined by configs/<stage>.py. --config.name=value overrides a value of it, such as
--config.optimizer.learning_rate=1e-4. The same command resumes a run that was stopped. At size tiny
a stage first trains the stages that it starts from, if they are not finished; at other sizes --init
is required. In a file of your own (--config), the value `train_dependencies` decides this.

Exit codes: 0 finished; 1 unexpected error, with a traceback; 2 user error; 75 temporary failure,
run the same command again: SIGTERM (the state is saved at the end of the step), a lost process, or
a workdir that another machine may use; 130 and 129 SIGINT and SIGHUP, also saved; 137 a process
that did not connect to the others. A second signal ends the process immediately. The run goes on if
its output cannot be written.
"""

import contextlib
import functools
import os

from absl import flags

from tf_mural.cli import app
from tf_mural.experiment import config_loading
from tf_mural.training.preemption import SignalHandler

# The run goes on when the disk of its log is full, or the terminal is closed.
RESILIENT_STDOUT = True

FLAGS = flags.FlagValues()
_STAGE = flags.DEFINE_string(
    "stage", "etcl", f"One of {', '.join(config_loading.STAGES)}.", flag_values=FLAGS
)
_SIZE = flags.DEFINE_string(
    "size",
    "tiny",
    f"Model and recipe: one of {', '.join(config_loading.SIZES)}.",
    flag_values=FLAGS,
)
_CONFIG = flags.DEFINE_string(
    "config", None, "Python file of your own with get_config(stage).", flag_values=FLAGS
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run. Default: runs/<size>/<stage>-s<seed>.", flag_values=FLAGS
)
_INIT = flags.DEFINE_string(
    "init",
    None,
    "Initial weights: the workdir of a finished run, or hf:NAME_OR_FOLDER, public weights of ALIGN "
    "or of a BERT (hf:kakaobrain/align-base, hf:sentence-transformers/LaBSE).",
    flag_values=FLAGS,
)
_SEED = flags.DEFINE_integer(
    "seed", None, "Seed of all randomness. Default: that of the config.", flag_values=FLAGS
)
_STRATEGY = flags.DEFINE_string(
    "strategy",
    "auto",
    "auto, one (device), mirrored (all GPUs), multiworker (several processes with the same "
    "--workdir, defined by TF_CONFIG or srun) or tpu.",
    flag_values=FLAGS,
)
_TPU = flags.DEFINE_string(
    "tpu", "local", "Address of the TPU; local is the TPU of this host.", flag_values=FLAGS
)
_CONNECT_TIMEOUT_MINUTES = flags.DEFINE_float(
    "connect_timeout_minutes",
    10.0,
    "Time limit at the start for connecting to the other processes, or to the TPU of another host.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
_ALLOW_CONFIG_CHANGES = flags.DEFINE_bool(
    "allow_config_changes",
    False,
    "Resumes a run with other settings than it was started with.",
    flag_values=FLAGS,
)
_BACKEND = app.define_backend(FLAGS)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.", flag_values=FLAGS)

# Overrides of the model, which also apply to the stages that a stage depends on.
_SHARED_OVERRIDES = ("--config.model.", "--config.images.", "--config.vocabulary")


def main(argv=None):
    """Trains a stage.

    Args:
        argv: list of flags; None: those of the command line.
    """
    with SignalHandler(print_fn=functools.partial(print, flush=True)) as signals:
        run(signals, argv)


def run(signals, argv=None):
    """Trains a stage.

    Args:
        signals: `SignalHandler`.
        argv: see `main`.

    Returns:
        A dict, the content of results.json.
    """
    overrides, argv = config_loading.split_overrides(app.arguments(argv))
    app.parse(FLAGS, argv, __doc__)
    app.import_tensorflow(_BACKEND.value)
    from tf_mural.backends import backend_module

    config = _load_config(overrides, _STAGE.value)
    backend = backend_module()
    strategy = backend.make_strategy(_STRATEGY.value, _TPU.value, _CONNECT_TIMEOUT_MINUTES.value)
    signals.install()
    processes = backend.ProcessGroup(strategy)
    with contextlib.ExitStack() as stack:
        if not processes.is_primary:  # only the first process prints, except for errors
            devnull = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(devnull))
        return _train(config, overrides, strategy, processes, signals)


def _train(config, overrides, strategy, processes, signals):
    from tf_mural.experiment import run_report, run_stage

    session = run_stage.Session(
        data_dir=_DATA_DIR.value,
        strategy=strategy,
        signals=signals,
        load_config=functools.partial(_load_config, overrides),
        allow_config_changes=_ALLOW_CONFIG_CHANGES.value,
    )
    workdir = _WORKDIR.value or run_stage.default_workdir(config)
    own = [override for override in overrides if not override.startswith(_SHARED_OVERRIDES)]
    run_report.print_override_scope(config, _INIT.value, own)
    with processes.detect_peer_failure():
        results = run_stage.run_stage(config, workdir, session, _INIT.value)
        compare_with = {}
        for stage in config.report.compare_with:
            other = _load_config(overrides, stage)
            compare_with[stage] = run_stage.run_stage(
                other, run_stage.default_workdir(other), session
            )
        if processes.is_primary:
            run_report.write_report(config, workdir, results, compare_with)
        processes.shutdown()
    return results


def _load_config(overrides, stage):
    """Returns the config of a stage with the flags applied.

    Overrides apply to the stage of --stage; those of the model, which all stages of a run share,
    also to the stages that it depends on or is compared with.
    """
    config = config_loading.load_config(stage, _SIZE.value, _CONFIG.value)
    applied = [o for o in overrides if stage == _STAGE.value or o.startswith(_SHARED_OVERRIDES)]
    config_loading.apply_overrides(config, applied)
    if _SEED.value is not None:
        config.seed = _SEED.value
    return config
