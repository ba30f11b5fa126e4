"""Sweeps: lists of runs that tools/sweep.py trains and compares in one table.

A sweep is a Python file with these names:

    TITLE      title of the table
    RUNS       {row of the table: {"stage",
                                   "init": optional: row above with the initial weights,
                                   "overrides": optional: {name of a config value: value},
                                   "config": optional: file for tools/train.py --config,
                                   "vectors": optional: {flag of tools/extract.py: value}}}
    SEEDS      seeds; each run is trained with each seed
    COLUMNS    {column of the table: languages whose average recalls are averaged}
    DIFFERENCES  optional: {label: (row, row that is subtracted)}, a second table of differences,
               with paired 95 % intervals of their mean over the seeds
    CHART      optional: {"rows": rows, "groups": {panel: languages}}, the bars of the chart
               average_recall.png
    BASELINE   row with which the other rows are compared, or None

With "vectors", the run of the row "init" first adds vectors to record sets. Its flags `records`
(relative to --data_dir), `name` and `of` are required. The text "{vectors}" in a value of
"overrides" stands for the folder of the new record sets. Each seed has its own folder.
"""
