"""Sweeps: lists of runs that one table compares, read by tools/sweep.py.

A sweep is a file with

    TITLE      what the table shows, in a line
    RUNS       {row of the table: {"stage",
                                   "init": optional: a row before it to start from,
                                   "overrides": optional: {name of a config value: value},
                                   "config": optional: file for tools/train.py --config}}
    SEEDS      each run is done with each of these
    COLUMNS    {column: languages whose mean average recall it shows}
    BASELINE   the row that gains are counted from, or None
"""
