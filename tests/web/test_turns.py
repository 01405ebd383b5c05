import threading
import time

import pytest

from lmf.web.turns import Superseded, Turns


def queue(turns, users, held):
    """Start one thread per user while the lock is ``held``; return the order in which they got it."""
    order, threads = [], []

    def work(user):
        with turns.turn(user):
            order.append(user)

    for user in users:
        threads.append(threading.Thread(target=work, args=(user,)))
        threads[-1].start()
        while len(turns._waiting) < len(threads):
            time.sleep(0.001)
    held.set()
    for thread in threads:
        thread.join(5)
    return order


@pytest.fixture
def held():
    """Turns whose lock the user ``a`` has until the event is set."""
    turns, release, taken = Turns(), threading.Event(), threading.Event()

    def hold():
        with turns.turn("a"):
            taken.set()
            release.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(5)
    yield turns, release
    release.set()
    thread.join(5)


def test_asking_more_gives_no_larger_share(held):
    assert queue(held[0], "aaabcb", held[1]) == ["b", "c", "a", "b", "a", "a"]


def test_one_at_a_time():
    turns, inside, most = Turns(), [], []

    def work(user):
        with turns.turn(user):
            inside.append(user)
            most.append(len(inside))
            time.sleep(0.002)
            inside.remove(user)

    threads = [threading.Thread(target=work, args=(str(i % 3),)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert most == [1] * 12


def test_what_is_not_wanted_any_more_leaves_the_queue(held):
    turns, _ = held
    wanted, outcome = [True], []

    def work():
        try:
            with turns.turn("b", lambda: wanted[0]):
                outcome.append("worked")
        except Superseded:
            outcome.append("superseded")

    thread = threading.Thread(target=work)
    thread.start()
    while not turns._waiting:
        time.sleep(0.001)
    wanted[0] = False
    turns.wake()
    thread.join(5)
    assert outcome == ["superseded"]
    assert not turns._waiting


def test_a_failure_releases_the_lock():
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.turn("a"):
        1 / 0  # noqa: B018
    with turns.turn("b"):
        pass
