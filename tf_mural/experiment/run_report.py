"""Writes the logs of a run, and the tables and charts of its results."""

import os

from tf_mural import file_io, reports
from tf_mural.evaluation.results import Result
from tf_mural.experiment.data import open_records
from tf_mural.experiment.qualitative import write_retrieval_examples
from tf_mural.losses import LOSSES
from tf_mural.reports.result_tables import headline_values
from tf_mural.training import metric_writer

RESULTS = "results.json"
_MAX_NUMBERS = 12  # maximum number of scores per task in one line


def open_log(config, run, workdir):
    """Returns the `MetricWriter` of a run, and writes a contact sheet of training images.

    Args:
        config: ConfigDict of the stage.
        run: `run.Run`.
        workdir: folder of the run.
    """
    log = metric_writer.MetricWriter(
        os.path.join(workdir, "tensorboard"), config.batch_size, format_eta=reports.format_duration
    )
    log.hparams(hparams(config))
    sheet = os.path.join(workdir, "training_images.png")
    images, captions = run.contact_sheet()
    if len(images):
        with file_io.local_copy(sheet) as path:
            without_font = reports.contact_sheet(path, images, captions)
        if without_font:
            print(f"{sheet}: this machine has no font for {', '.join(without_font)}")
        log.image(0, "training_images", sheet)
    return log


def hparams(config):
    """Returns {name: value} of the settings that TensorBoard shows as hyperparameters."""
    values = {name: config[name] for name in ("stage", "size", "seed", "batch_size", "steps")}
    values["precision"] = config.precision
    values |= {
        f"optimizer/{key}": value
        for key, value in config.optimizer.items()
        if isinstance(value, str | float)
    }
    for name, term in config.terms.items():
        options = LOSSES[term.loss].options
        values |= {f"{name}/{key}": term[key] for key in ("weight", *options) if key in term}
    return values


def print_override_scope(config, init, overrides):
    """Prints which stages are trained without the overrides.

    These stages are the initial stage and the stages in `config.report.compare_with`.

    Args:
        config: ConfigDict of the stage.
        init: initial weights that the user named, or None.
        overrides: list of strings, the overrides that apply only to the stage of `config`.
    """
    dependencies = [] if init or not config.train_dependencies else [config.init_stage]
    stages = dict.fromkeys(filter(None, [*dependencies, *config.report.compare_with]))
    if overrides and stages:
        print(f"{', '.join(stages)}: trained without {' '.join(overrides)}")


def print_languages(config, run):
    """Prints the languages with the most passes and the fewest texts, and the texts that are cut.

    A line about each code-switched field follows.

    Args:
        config: ConfigDict of the stage.
        run: `run.Run`.
    """
    for line in run.language_report.warnings(config.steps):
        print(line)
    for switcher in run.code_switchers.values():
        print(switcher.describe())
    lexicons = [switcher.lexicon for switcher in run.code_switchers.values()]
    for note in dict.fromkeys(note for lexicon in lexicons for note in lexicon.notes):
        print(note)
    if line := run.language_report.cut_texts_line(run.tokenizer):
        print(line)


def run_facts(run, processes, step):
    """Returns the entries of results.json on vocabulary, data, languages and skipped records.

    Args:
        run: `run.Run`.
        processes: `ProcessGroup`.
        step: number of the last step.
    """
    switched = {field: s.switched_share() for field, s in run.code_switchers.items()}
    facts = {"lexicons": run.lexicons, "switched": switched} if switched else {}
    return {
        **facts,
        "vocabulary_hash": run.description["vocabulary_hash"],
        "data": run.data,
        "passes": run.language_report.passes(step),
        "skipped_records": run.skipped_records.total(processes.all_gather_object),
        "skipped_steps": run.trainer.skipped_steps,
    }


def write_retrieval_images(config, workdir, data_dir, log, step):
    """Writes grids of retrieved images and the points of TensorBoard's projector.

    Args:
        config: ConfigDict of the stage; the records of the retrieval evaluation in this config are
            used.
        workdir: folder of the run.
        data_dir: folder of the record sets.
        log: `MetricWriter`.
        step: training step of the model.
    """
    if config.report.show and "retrieval" in config.evaluation:
        records = open_records(config.evaluation.retrieval.records, data_dir)
        write_retrieval_examples(workdir, records, log, step, config.report.show)


def scores_line(step, results, is_best):
    """Returns the printed line of an evaluation: scores per language, or their mean and range.

    Args:
        step: training step, an int.
        results: {task: Result}.
        is_best: whether `step` is the best step so far.
    """
    parts = []
    for task, result in results.items():
        numbers = headline_values(result)
        recalls = {k.split("/")[0]: v for k, v in numbers.items() if k.endswith("average_recall")}
        numbers = recalls or numbers
        if len(numbers) > _MAX_NUMBERS:
            ordered = sorted(numbers, key=numbers.get)
            mean = sum(numbers.values()) / len(numbers)
            text = f"mean {mean:.1f}, " + " to ".join(
                f"{numbers[key]:.1f} ({key})" for key in (ordered[0], ordered[-1])
            )
        else:
            text = ", ".join(f"{key} {value:.1f}" for key, value in numbers.items())
        parts.append(f"{task} {text}")
    best = "; the best so far" if is_best else ""
    return f"scores at step {step}: {'; '.join(parts)}{best}"


def write_report(config, workdir, results, compared):
    """Prints tables of recalls, and writes results.json and a chart of recalls to the workdir.

    Args:
        config: ConfigDict of the stage.
        workdir: folder of the run.
        results: dict, see `run_stage`.
        compared: {stage: results} of the stages in `config.report.compare_with`.
    """
    if "retrieval" not in results["evaluation"]:
        return
    stages = {**{name: compared[name] for name in config.report.compare_with}}
    stages[config.stage] = results
    tables = _same_protocol(stages, config.stage)
    languages = list(tables[config.stage].values)
    trained = [code for code in config.evaluation.retrieval.trained if code in languages]
    unseen = [code for code in languages if code not in trained]
    groups = {"trained": trained, "unseen": unseen} if trained else {}
    control = config.report.control if config.report.control in tables else None
    for name, result in tables.items():
        print(f"\n{name}, step {stages[name]['steps']}, in percent:")
        print(reports.recall_table(result, groups))
    print("\naverage recall in percent" + (", and the gains over the control:" if control else ":"))
    print(reports.retrieval_table(tables, groups, control=control))
    if tables[config.stage].sizes:
        print(f"\naverage recall of {config.stage} by the size of the embeddings:")
        print(reports.sizes_table(tables[config.stage]))
    print_regressions(results)
    series, chance = average_recalls(tables), average_recalls(tables, "chance")[config.stage]
    chart = os.path.join(workdir, "average_recall.png")
    with file_io.local_copy(chart) as path:
        reports.recall_chart(path, series, groups, chance=chance, control=control)
    results = {**results, "compare_with": compared, "groups": groups}
    file_io.write_json(os.path.join(workdir, RESULTS), results)
    print(f"results: {os.path.join(workdir, RESULTS)}\nchart:   {chart}")


def _same_protocol(stages, stage):
    """Returns {name: Result of retrieval} of the stages that have the protocol of `stage`.

    A line names each stage that is left out, because numbers of different protocols are not
    comparable.
    """
    tables = {name: Result(**r["evaluation"]["retrieval"]) for name, r in stages.items()}
    protocol = tables[stage].protocol
    for name, result in tables.items():
        if result.protocol != protocol:
            print(
                f"{name} is not compared: it was evaluated by {result.protocol}, and {stage} by "
                f"{protocol}; evaluate both by the same protocol"
            )
    return {name: result for name, result in tables.items() if result.protocol == protocol}


def print_regressions(results):
    """Compares recalls before and after training, and prints the languages whose recall fell.

    Args:
        results: dict, see `run_stage`. Nothing is printed if `results` has no value "before".
    """
    if not results.get("before") or "retrieval" not in results["before"]:
        return
    tables = {
        "before": Result(**results["before"]["retrieval"]),
        "after": Result(**results["evaluation"]["retrieval"]),
    }
    print("\naverage recall before the first step and after the last:")
    print(reports.retrieval_table(tables, control="before"))
    before, after = (average_recalls(tables)[name] for name in tables)
    losses = {
        code: after[code] - before[code] for code in before if after[code] < before[code] - 0.05
    }
    intervals = tables["before"].intervals
    significant = [c for c in losses if after[c] < intervals[c]["average_recall"][0]]
    if losses:
        listed = ", ".join(f"{code} {change:+.1f}" for code, change in losses.items())
        print(f"worse than before: {listed}")
        print(f"below the confidence interval before training: {', '.join(significant) or 'none'}")
    else:
        print("no language is worse than before")


def average_recalls(tables, key="average_recall"):
    """Returns {model: {language: value of the metric `key`, in percent}}.

    Args:
        tables: dict from model to `Result` of the retrieval task.
        key: name of the metric.
    """
    return {
        model: {code: values[key] for code, values in result.values.items()}
        for model, result in tables.items()
    }


def run_lineage(workdir):
    """Returns the workdirs of a finished run, of the run with its initial weights, and so on.

    Args:
        workdir: folder of a run, or the subfolder `best` of this folder.
    """
    workdir = workdir.rstrip("/")
    if os.path.basename(workdir) == "best" and not file_io.exists(os.path.join(workdir, RESULTS)):
        workdir = os.path.dirname(workdir)
    lineage = []
    while workdir and workdir not in lineage and file_io.exists(os.path.join(workdir, RESULTS)):
        lineage.append(workdir)
        workdir = file_io.read_json(os.path.join(workdir, RESULTS))["init"]
    return lineage
