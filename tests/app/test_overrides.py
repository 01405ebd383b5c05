import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from lmf.app.overrides import split


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("schedule.optimizer.lr=1e-3", "schedule.optimizer.lr", "1e-3"),
        ("+a.b=1", "a.b", "1"),
        ("++a=null", "a", "null"),
        ("~a", "a", ""),
        ("a=", "a", ""),
        ("a='x=y'", "a", "x=y"),
        ("a='x=y, z'", "a", "x=y, z"),
        ('a="it\'s"', "a", "it's"),
        ("a='it\\'s'", "a", "it's"),
        ("a=[1,2]", "a", "[1,2]"),
        ("+decoder@task.decoders.mine=liif", "decoder@task.decoders.mine", "liif"),
    ],
)
def test_split(override, key, value):
    assert split(override) == (key, value)


def test_jobs_of_a_sweep_over_awkward_paths():
    given = ["init_from='a=b','a b','a, b'", "seed=1"]
    (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(given), None)
    assert [dict(map(split, job)) for job in jobs] == [{"init_from": v, "seed": "1"} for v in ("a=b", "a b", "a, b")]
