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
       another process may still use, or a remote storage that did not answer
  129  SIGHUP; the state is saved at the end of the step
  130  SIGINT (Ctrl-C); the state is saved at the end of the step
  137  a process of the run did not connect to the other processes in time

A second signal ends the process immediately. If stdout cannot be written, the run continues without
output.
"""

import functools

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
    "Initial weights: the workdir of a finished run, or hf:NAME_OR_FOLDER for a public model of "
    "images and texts or of texts, such as hf:google/siglip2-base-patch16-224, "
    "hf:kakaobrain/align-base or hf:sentence-transformers/LaBSE.",
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
_CACHE_DIR = app.define_cache_dir(FLAGS)


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
    app.set_cache_dir(_CACHE_DIR.value)
    app.import_tensorflow(_BACKEND.value)
    from tf_mural.backends import backend_module
    from tf_mural.experiment.train import stage_loader, train_stages

    stage = _STAGE.value
    load_config = stage_loader(stage, _SIZE.value, _CONFIG.value, overrides, _SEED.value)
    load_config(stage)  # reports an invalid config before devices are used
    strategy = backend_module().make_strategy(
        _STRATEGY.value, _TPU.value, _CONNECT_TIMEOUT_MINUTES.value
    )
    signals.install()
    return train_stages(
        load_config,
        stage,
        workdir=_WORKDIR.value,
        init=_INIT.value,
        data_dir=_DATA_DIR.value,
        strategy=strategy,
        signals=signals,
        overrides=overrides,
        allow_config_changes=_ALLOW_CONFIG_CHANGES.value,
    )
