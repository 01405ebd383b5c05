"""Tests with random calls; `LMF_FUZZ` sets their number, 100 by default."""

import os

import pytest
import torch

from tests.conftest import needs_compiler
from tests.kernels import fuzz

CALLS = int(os.environ.get("LMF_FUZZ", "100"))
KINDS = (*fuzz.VALID, *fuzz.INVALID)

pytestmark = needs_compiler


@pytest.fixture(autouse=True, params=[1, 3], ids=["one_thread", "three_threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_random_calls(kind, request):
    for seed in range(-(-CALLS // (2 * len(KINDS)))):
        seed = 2 * seed + (torch.get_num_threads() > 1)
        try:
            kind(fuzz.Draw(seed))
        except BaseException as error:
            error.add_note(f"{kind.__name__}(Draw({seed}))")
            raise
