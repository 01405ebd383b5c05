"""The tasks of the command ``lmf``. Each module has one function ``run(config)``, which conf/task names."""
