"""The command: configs, run folders, sweeps and tasks. Nothing below sees a config object."""
