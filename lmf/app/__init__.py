"""The command line: configs, run folders, sweeps and tasks.

No other package receives a config object.
"""
