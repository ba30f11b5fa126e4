"""Trains a stage from Python: `tf_mural.train`, the equivalent of tools/train.py."""

import contextlib
import copy
import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tf_mural import configs
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading, run_report, run_stage
from tf_mural.training.preemption import SignalHandler

# Prefixes of the overrides that apply to all stages, because all stages must have the same model.
# Other overrides apply only to the trained stage.
_SHARED_OVERRIDES = ("--config.model.", "--config.images.", "--config.vocabulary")
_SHARED_GROUPS = ("model", "images", "vocabulary", "lower_case")


def train(
    config: str | os.PathLike | ConfigDict = "etcl",
    workdir: str | os.PathLike | None = None,
    *,
    stage: str = "etcl",
    size: str = "tiny",
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    init: str | os.PathLike | None = None,
    data_dir: str | os.PathLike = "data",
    strategy: Any = "auto",
    tpu: str = "local",
    connect_timeout_minutes: float = 10.0,
    allow_config_changes: bool = False,
) -> dict:
    """Trains a stage to its end, or returns the results of a finished run, as tools/train.py does.

        results = tf_mural.train("configs/etcl.py", workdir="runs/etcl", seed=1)

    The environment variable KERAS_BACKEND selects the backend; it must be set before Keras is
    imported.

    Args:
        config: name of a stage ("etcl"), its file ("configs/etcl.py"), your own file with
            `get_config(stage)`, or the `ConfigDict` of a stage.
        workdir: folder of the run. If the folder contains a stopped run, this run is resumed. None:
            runs/<size>/<stage>-s<seed>.
        stage: stage for which `get_config` of your own config file is called. This argument has no
            effect for other configs.
        size: "tiny", "b3_mini" or "paper". This argument has no effect for your own config file and
            for a `ConfigDict`.
        overrides: {name of a value in the config: new value}, for example
            {"optimizer.learning_rate": 1e-4}.
        seed: seed of all random numbers. None: the seed of the config.
        init: initial weights: the workdir of a finished run, or "hf:NAME_OR_FOLDER" for public
            weights. None: see `init_stage` in configs/base.py.
        data_dir: folder of the record sets.
        strategy: "auto", "one", "mirrored", "tpu" or "multiworker", or the result of
            `make_strategy` of the backend.
        tpu, connect_timeout_minutes: see `tools/train.py --help`.
        allow_config_changes: whether a run may resume after its settings have changed.

    Returns:
        The content of results.json.

    Raises:
        UserError: a value is invalid, or the folder contains a run with another config.
    """
    from tf_mural.backends import backend_module

    flags = [f"--config.{name}={_flag_text(value)}" for name, value in (overrides or {}).items()]
    if isinstance(config, ConfigDict):
        load, stage = _dict_loader(config, flags, seed), config.stage
    else:
        stage, path = _find_config(os.fspath(config), stage)
        load = stage_loader(stage, size, path, flags, seed)
    load(stage)  # raises the error of an invalid config before devices are used
    if isinstance(strategy, str):
        backend = backend_module()
        strategy = backend.make_strategy(strategy, tpu, connect_timeout_minutes)
    return train_stages(
        load,
        stage,
        workdir=workdir and os.fspath(workdir),
        init=init and os.fspath(init),
        data_dir=os.fspath(data_dir),
        strategy=strategy,
        overrides=flags,
        allow_config_changes=allow_config_changes,
    )


def train_stages(
    load_config,
    stage,
    workdir=None,
    init=None,
    data_dir="data",
    strategy=None,
    signals=None,
    overrides=(),
    allow_config_changes=False,
):
    """Trains a stage and the stages with which its report compares it, and writes the report.

    Args:
        load_config: callable that takes the name of a stage, and returns its config.
        stage: name of the stage to train.
        workdir: folder of the run; None: see `run_stage.default_workdir`.
        init: see `run_stage.run_stage`.
        data_dir, strategy, signals, allow_config_changes: see `run_stage.Session`.
        overrides: list of the overrides "--config.name=value", which a message contains.

    Returns:
        The content of results.json of the stage.
    """
    from tf_mural.backends import backend_module

    processes = backend_module().ProcessGroup(strategy)
    with contextlib.ExitStack() as stack:
        if not processes.is_primary:  # Only the primary process prints to stdout.
            devnull = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(devnull))
        session = run_stage.Session(
            data_dir=data_dir,
            strategy=strategy,
            signals=signals or SignalHandler(),
            load_config=load_config,
            allow_config_changes=allow_config_changes,
        )
        config = load_config(stage)
        workdir = workdir or run_stage.default_workdir(config)
        own = [override for override in overrides if not override.startswith(_SHARED_OVERRIDES)]
        run_report.print_override_scope(config, init, own)
        with processes.detect_peer_failure():
            results = run_stage.run_stage(config, workdir, session, init)
            compare_with = {}
            for other_stage in config.report.compare_with:
                other = load_config(other_stage)
                compare_with[other_stage] = run_stage.run_stage(
                    other, run_stage.default_workdir(other), session
                )
            if processes.is_primary:
                run_report.write_report(config, workdir, results, compare_with)
            processes.shutdown()
    return results


def stage_loader(stage, size, path=None, overrides=(), seed=None):
    """Returns a callable that takes the name of a stage, and returns its config.

    Args:
        stage: name of the stage to train. All overrides apply to this stage. Only overrides that
            change the model apply to other stages too, because all stages must have the same model.
        size, path: see `config_loading.load_config`.
        overrides: list of overrides "--config.name=value".
        seed: seed of the config; None: the seed in the config.
    """

    def load(name):
        config = config_loading.load_config(name, size, path)
        applied = [o for o in overrides if name == stage or o.startswith(_SHARED_OVERRIDES)]
        config_loading.apply_overrides(config, applied)
        if seed is not None:
            config.seed = seed
        return config

    return load


def _dict_loader(config, overrides, seed):
    """Returns a callable as `stage_loader` does, for a `ConfigDict` instead of a config file."""

    def load(name):
        loaded = copy.deepcopy(config)
        if name != config.stage:
            loaded = config_loading.load_config(name, config.size)
            with loaded.unlocked():
                for group in _SHARED_GROUPS:
                    loaded[group] = config[group]
        applied = [o for o in overrides if name == config.stage or o.startswith(_SHARED_OVERRIDES)]
        config_loading.apply_overrides(loaded, applied)
        loaded.seed = config.seed if seed is None else seed
        return loaded

    return load


def _find_config(config, stage):
    """Returns the stage and the config file of a name or path; None: the file of the package."""
    if config in config_loading.STAGES:
        return config, None
    path = config_loading.find_file(config)
    name = os.path.splitext(os.path.basename(path))[0]
    folder = os.path.realpath(os.path.dirname(path))
    if name in config_loading.STAGES and folder == os.path.realpath(configs.__path__[0]):
        return name, None
    if not os.path.isfile(path):
        stages = ", ".join(config_loading.STAGES)
        raise UserError(f"config is {config!r}, expected a stage ({stages}) or an existing file")
    return stage, path


def _flag_text(value):
    if value is None:
        return "none"
    return value if isinstance(value, str) else repr(value)
