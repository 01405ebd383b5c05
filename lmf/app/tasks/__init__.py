"""What `run.py` can be asked to do, one task per module: ``run(config)``. conf/task names them."""
