"""Which process of a distributed run this is."""

from __future__ import annotations

import os


def is_rank_zero() -> bool:
    """Whether this process is the one that speaks and writes, also before Lightning has set anything up."""
    return all(os.environ.get(key, "0") == "0" for key in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))
