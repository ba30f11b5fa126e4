"""Trains a stage: python tools/train.py --stage=etcl

The file configs/<stage>.py defines a stage. --config.name=value overrides a value of the config,
such as --config.optimizer.learning_rate=1e-4. The same command resumes a run that was stopped.

Stages such as etcl start from the weights of another stage, the initial stage. At size tiny, the
command first trains the initial stage if it is not finished. At other sizes, --init must name the
workdir of the initial stage. In your own config file (--config), the value `train_dependencies`
decides whether the command trains the initial stage first.

Exit codes:
  0    the run is finished
  1    an unexpected error, with a traceback
  2    a user error
  75   a temporary failure; the same command continues the run. Causes: SIGTERM (the state is saved
       at the end of the step), the failure of another process of the run, or a workdir that
       another process may still use
  129  SIGHUP; the state is saved at the end of the step
  130  SIGINT (Ctrl-C); the state is saved at the end of the step
  137  a process of the run did not connect to the other processes in time

A second signal ends the process immediately. If stdout cannot be written, the run continues without
output.
"""

import contextlib
import functools
import os

from absl import flags

from tf_mural.cli import app
from tf_mural.experiment import config_loading
from tf_mural.training.preemption import SignalHandler

# Training continues when the disk of the log is full, or the terminal is closed.
RESILIENT_STDOUT = True

FLAGS = flags.FlagValues()
_STAGE = flags.DEFINE_string(
    "stage",
    "etcl",
    f"Stage to train: one of {', '.join(config_loading.STAGES)}.",
    flag_values=FLAGS,
)
_SIZE = flags.DEFINE_string(
    "size",
    "tiny",
    f"Size of the model and its recipe: one of {', '.join(config_loading.SIZES)}.",
    flag_values=FLAGS,
)
_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "Your own Python file with get_config(stage), instead of configs/<stage>.py.",
    flag_values=FLAGS,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run. Default: runs/<size>/<stage>-s<seed>.", flag_values=FLAGS
)
_INIT = flags.DEFINE_string(
    "init",
    None,
    "Initial weights: the workdir of a finished run, or hf:NAME_OR_FOLDER for public weights of "
    "ALIGN or of a BERT, such as hf:kakaobrain/align-base or hf:sentence-transformers/LaBSE.",
    flag_values=FLAGS,
)
_SEED = flags.DEFINE_integer(
    "seed",
    None,
    "Seed of all random numbers. Default: the seed of the config.",
    flag_values=FLAGS,
)
_STRATEGY = flags.DEFINE_string(
    "strategy",
    "auto",
    "Devices to train on: auto, one (device), mirrored (all GPUs), tpu, or multiworker (several "
    "processes with the same --workdir, which TF_CONFIG or srun defines).",
    flag_values=FLAGS,
)
_TPU = flags.DEFINE_string(
    "tpu", "local", "Address of the TPU; local is the TPU of this host.", flag_values=FLAGS
)
_CONNECT_TIMEOUT_MINUTES = flags.DEFINE_float(
    "connect_timeout_minutes",
    10.0,
    "Maximum time in minutes for connecting to the other processes, or to the TPU of another host.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
_ALLOW_CONFIG_CHANGES = flags.DEFINE_bool(
    "allow_config_changes",
    False,
    "Resumes a run even if settings have changed since it was started.",
    flag_values=FLAGS,
)
_BACKEND = app.define_backend(FLAGS)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.", flag_values=FLAGS)

# Prefixes of the overrides that apply to all stages of a command, not only to the stage that
# --stage names.
_SHARED_OVERRIDES = ("--config.model.", "--config.images.", "--config.vocabulary")


def main(argv=None):
    """Trains a stage.

    Args:
        argv: list of flags; None: the flags of the command line.
    """
    with SignalHandler(print_fn=functools.partial(print, flush=True)) as signals:
        run(signals, argv)


def run(signals, argv=None):
    """Trains a stage.

    Args:
        signals: `SignalHandler`.
        argv: see `main`.

    Returns:
        The content of results.json, a dict.
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
        if not processes.is_primary:  # only the first process prints to stdout
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
    """Returns the config of a stage, with the values that the flags override.

    All overrides apply to the stage that --stage names. Only overrides with a prefix of
    _SHARED_OVERRIDES also apply to other stages, because all stages of a command must have the same
    model.
    """
    config = config_loading.load_config(stage, _SIZE.value, _CONFIG.value)
    applied = [o for o in overrides if stage == _STAGE.value or o.startswith(_SHARED_OVERRIDES)]
    config_loading.apply_overrides(config, applied)
    if _SEED.value is not None:
        config.seed = _SEED.value
    return config
