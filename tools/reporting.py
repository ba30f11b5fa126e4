"""What tools/train.py logs, scores while it trains, and tells of a run in the end."""

import dataclasses
import os

import common  # noqa: F401  (a clone works without being installed)

from tf_mural import file_io
from tf_mural.evaluation.results import Result

RESULTS = "results.json"
_MOST = 12  # numbers of a task that a line may hold


def open_log(config, run, workdir):
    """The log of a run, with a sheet of its training images."""
    from tf_mural import reports
    from tf_mural.training import metric_writer

    log = metric_writer.Log(
        os.path.join(workdir, "tensorboard"), config.batch_size, eta=reports.eta
    )
    log.settings(settings(config))
    picture = os.path.join(workdir, "training_images.png")
    images, captions = run.contact_sheet()
    if len(images):
        with file_io.local(picture) as path:
            no_font = reports.contact_sheet(path, images, captions)
        if no_font:
            print(f"{picture}: this machine has no font for {', '.join(no_font)}")
        log.picture(0, "training_images", picture)
    return log


def settings(config):
    """{name: value} of what runs of a sweep differ by, for TensorBoard's HParams."""
    found = {name: config[name] for name in ("stage", "size", "seed", "batch_size", "steps")}
    found["precision"] = config.precision
    found |= {
        f"optimizer/{k}": v for k, v in config.optimizer.items() if isinstance(v, str | float)
    }
    for name, term in config.terms.items():
        found |= {f"{name}/{key}": term[key] for key in ("weight", "margin", "label_smoothing")}
    return found


def tell(note):
    """Prints a line, if there is one."""
    if note:
        print(note)


def tell_apart(config, init, overrides):
    """Says which overrides do not hold for the stages that a run starts from and is set beside."""
    trained = [] if init or not config.chain else [config.starts_from]
    others = dict.fromkeys(filter(None, [*trained, *config.report.beside]))
    if overrides and others:
        print(f"{', '.join(others)}: trained without {' '.join(overrides)}")


def facts(run, processes):
    """What a run read and left out."""
    return {
        "vocabulary_hash": run.description["vocabulary_hash"],
        "data": run.data,
        "skipped_records": run.health.total(processes.exchange),
        "skipped_steps": run.trainer.skipped_steps,
    }


def show(config, workdir, data_dir, log, step):
    """Grids of what the model finds and TensorBoard's projector, of the retrieval's records."""
    from tf_mural import experiment

    if config.report.show and "retrieval" in config.evaluation:
        records = experiment.open_records(config.evaluation.retrieval.records, data_dir)
        experiment.show(workdir, records, log, step, config.report.show)


def before(config, run, workdir, evaluate, processes):
    """What `evaluate` said of the weights that a run started from; None where nobody asked."""
    path = os.path.join(workdir, "before.json")
    if not config.evaluate_first:
        return None
    if not int(run.trainer.step.numpy()):
        found = evaluate(0)
        if processes.first:
            file_io.write_json(path, found)
    return file_io.read_json(path) if file_io.exists(path) else None


def tell_harm(results):
    """Sets the scores before and after a run side by side, and names the languages that lost."""
    from tf_mural import reports

    if not results.get("before") or "retrieval" not in results["before"]:
        return
    tables = {
        "before": Result(**results["before"]["retrieval"]),
        "after": Result(**results["evaluation"]["retrieval"]),
    }
    print("\naverage recall before the first step and after the last:")
    print(reports.retrieval_table(tables, control="before"))
    old, new = (average_recalls(tables)[name] for name in tables)
    lost = {code: new[code] - old[code] for code in old if new[code] < old[code] - 0.05}
    bounds = tables["before"].intervals
    sure = [c for c in lost if new[c] < bounds[c]["average_recall"][0]]
    if lost:
        told = ", ".join(f"{code} {change:+.1f}" for code, change in lost.items())
        print(f"worse than before: {told}")
        print(f"below the interval of before: {', '.join(sure) or 'none'}")
    else:
        print("no language is worse than before")


def evaluation(run, workdir, saved, evaluations, log, first):
    """Function of the step to {name: result}, which also keeps the best step."""
    from tf_mural.reports.results import headline
    from tf_mural.training import checkpoints

    saved.pinned = evaluations.best and evaluations.best["step"]

    def evaluate(step):
        results = run.evaluate()
        numbers = {
            f"{name}/{key}": value
            for name, result in results.items()
            for key, value in headline(result).items()
        }
        log.scalars(step, numbers)
        better = evaluations.better(numbers)
        if better:
            arrays = run.trainer.snapshot(checkpoints.by_path(run.trainer.encoder))
        if better and first:
            folder = os.path.join(workdir, checkpoints.BEST)
            checkpoints.save_model(folder, arrays, run.description, run.vocabulary_path)
        log.note(scores_line(step, results, better))
        evaluations.note(step, numbers, better)
        if better:
            saved.pinned = step
        return {name: dataclasses.asdict(result) for name, result in results.items()}

    return evaluate


def scores_line(step, results, better):
    """One line of what was scored while a run goes on: the tasks' languages, or their range."""
    from tf_mural.reports.results import headline

    told = []
    for task, result in results.items():
        numbers = headline(result)
        recalls = {k.split("/")[0]: v for k, v in numbers.items() if k.endswith("average_recall")}
        numbers = recalls or numbers
        if len(numbers) > _MOST:
            ordered = sorted(numbers, key=numbers.get)
            mean = sum(numbers.values()) / len(numbers)
            text = f"mean {mean:.1f}, " + " to ".join(
                f"{numbers[key]:.1f} ({key})" for key in (ordered[0], ordered[-1])
            )
        else:
            text = ", ".join(f"{key} {value:.1f}" for key, value in numbers.items())
        told.append(f"{task} {text}")
    best = "; the best so far" if better else ""
    return f"scores at step {step}: {'; '.join(told)}{best}"


def report(config, workdir, results, beside):
    """Prints the table of recalls, and writes it with the chart to the workdir."""
    from tf_mural import reports

    if "retrieval" not in results["evaluation"]:
        return
    stages = {**{name: beside[name] for name in config.report.beside}, config.stage: results}
    tables = {name: Result(**r["evaluation"]["retrieval"]) for name, r in stages.items()}
    languages = list(tables[config.stage].values)
    trained = [code for code in config.evaluation.retrieval.trained if code in languages]
    unseen = [code for code in languages if code not in trained]
    groups = {"trained": trained, "unseen": unseen} if trained else {}
    control = config.report.control or None
    for name, result in tables.items():
        print(f"\n{name}, step {stages[name]['steps']}, in percent:")
        print(reports.recall_table(result, groups))
    print("\naverage recall in percent" + (", and the gains over the control:" if control else ":"))
    print(reports.retrieval_table(tables, groups, control=control))
    tell_harm(results)
    series, chance = average_recalls(tables), average_recalls(tables, "chance")[config.stage]
    chart = os.path.join(workdir, "average_recall.png")
    with file_io.local(chart) as path:
        reports.bar_chart(path, series, groups, chance=chance, control=control)
    results = {**results, "beside": beside, "groups": groups}
    file_io.write_json(os.path.join(workdir, RESULTS), results)
    print(f"results: {os.path.join(workdir, RESULTS)}\nchart:   {chart}")


def average_recalls(tables, key="average_recall"):
    """{model: {language: percent}}"""
    return {n: {code: v[key] for code, v in t.values.items()} for n, t in tables.items()}


def chain(workdir):
    """Workdirs of a finished run and of those that it started from, as far as they are there."""
    # The folder of a best step lies in that of its run.
    workdir = workdir.rstrip("/")
    if os.path.basename(workdir) == "best" and not file_io.exists(os.path.join(workdir, RESULTS)):
        workdir = os.path.dirname(workdir)
    found = []
    while workdir and workdir not in found and file_io.exists(os.path.join(workdir, RESULTS)):
        found.append(workdir)
        workdir = file_io.read_json(os.path.join(workdir, RESULTS))["init"]
    return found
