"""Rows shared out over threads: each once, in a forked process too, and errors come back."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from lovasz_repro.losses import threads

FORK = """
import os, torch
from lovasz_repro.losses.threads import share
torch.set_num_threads(3)
def rows():
    done = []
    share(lambda first, last: done.extend(range(first, last)), 40, 1 << 16)
    return sorted(done) == list(range(40))
assert rows()
child = os.fork()
if child == 0:
    os._exit(0 if rows() else 1)
assert os.waitpid(child, 0)[1] == 0
assert rows()
"""


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("rows", "elements"), [(1, 1 << 20), (7, 1 << 16), (100, 1000), (3, 1)])
def test_every_row_is_treated_once(rows: int, elements: int) -> None:
    seen: list[int] = []
    threads.share(lambda first, last: seen.extend(range(first, last)), rows, elements)
    assert sorted(seen) == list(range(rows))


def test_threads_meet_and_small_inputs_have_none() -> None:
    meeting = threading.Barrier(3, timeout=60)

    def meet(first: int, last: int) -> None:
        meeting.wait()

    threads.share(meet, 3, 1 << 16)
    idents: set[int] = set()
    threads.share(lambda first, last: idents.add(threading.get_ident()), 10, 1681)
    torch.set_num_threads(1)
    threads.share(lambda first, last: idents.add(threading.get_ident()), 10, 1 << 20)
    assert idents == {threading.get_ident()}


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_a_thread_is_raised(failing: int) -> None:
    meeting = threading.Barrier(3, timeout=60)

    def work(first: int, last: int) -> None:
        meeting.wait()
        if first == failing:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threads.share(work, 3, 1 << 16)


def test_helpers_treat_subnormal_numbers_as_the_caller_does() -> None:
    for flush in (True, False, True):
        if not torch.set_flush_denormal(flush):
            pytest.skip("this processor cannot flush them")
        meeting = threading.Barrier(3, timeout=60)
        zeros: list[bool] = []

        def work(first: int, last: int) -> None:
            meeting.wait()  # noqa: B023
            zeros.append(sys.float_info.min / 2 == 0)  # noqa: B023

        threads.share(work, 3, 1 << 16)
        assert zeros == [flush] * 3


def test_a_forked_process_has_threads_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
