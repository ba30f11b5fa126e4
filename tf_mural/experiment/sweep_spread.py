"""How much the values of a sweep vary: between seeds, and with the choice of the images.

More seeds reduce only the first spread, and more images only the second one. A difference between
rows is therefore convincing only if it is large compared with both.
"""

import os
import statistics

from tf_mural import file_io


def recall_half_widths(workdir):
    """Returns {language: half width of the 95 % interval of average recall} of a finished run.

    The interval is that of the choice of the images. The dict is empty if the run has no intervals.
    """
    try:
        evaluation = file_io.read_json(os.path.join(workdir, "results.json"))["evaluation"]
    except OSError:
        return {}
    bounds = {
        language: by_metric["average_recall"]
        for language, by_metric in evaluation.get("retrieval", {}).get("intervals", {}).items()
        if "average_recall" in by_metric
    }
    return {language: (high - low) / 2 for language, (low, high) in bounds.items()}


def spreads(sweep, values, half_widths):
    """Returns how much values vary between seeds, and with the choice of the images.

    Args:
        sweep: see `sweep.load_sweep`.
        values: see `sweep.column_values`.
        half_widths: {row: {seed: result of `recall_half_widths`}}.

    Returns:
        {row: {column: {"seeds": standard deviation between seeds, "images": half width of the 95 %
        interval}}} in points, without the entries that are unknown. The half width of a mean over
        languages is the mean of their half widths: the languages have the same images.
    """
    result = {}
    for row, by_seed in half_widths.items():
        result[row] = {}
        for column, languages in sweep.COLUMNS.items():
            spread = {}
            if len(values[row][column]) > 1:
                spread["seeds"] = statistics.stdev(values[row][column])
            widths = [w for w in by_seed.values() if all(code in w for code in languages)]
            if widths:
                spread["images"] = statistics.fmean([w[code] for w in widths for code in languages])
            result[row][column] = spread
    return result


def note(spread):
    """Returns sentences on the spread of seeds and of images, means over all rows and columns."""
    cells = [cell for columns in spread.values() for cell in columns.values()]
    seeds = [cell["seeds"] for cell in cells if "seeds" in cell]
    images = [cell["images"] for cell in cells if "images" in cell]
    text = ""
    if seeds:
        text += f" Standard deviation between seeds: {statistics.fmean(seeds):.1f} points."
    if images:
        width = statistics.fmean(images)
        text += f" Choice of the images: +-{width:.1f} points (95 % interval of a run)."
    return text
