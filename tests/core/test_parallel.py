"""Work in several processes."""

from __future__ import annotations

import os
import signal

import pytest

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.parallel import outcomes


def work(number: int) -> tuple[int, int]:
    if number == 7:
        raise DataError("seven", key="number", expected="another", found="7")
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number, os.getpid()


def test_in_this_process_in_order() -> None:
    found = list(outcomes(work, [3, 1, 2], 0, verb="try"))
    assert [(n, square) for n, (square, _) in found] == [(3, 9), (1, 1), (2, 4)]
    assert {process for _, (_, process) in found} == {os.getpid()}
    ((_, (_, process)),) = outcomes(work, [5], 4, verb="try")
    assert process == os.getpid()  # a single item is not worth another
    assert list(outcomes(work, [], 4, verb="try")) == []


def test_in_others_every_item_once() -> None:
    found = dict(outcomes(work, [1, 2, 3, 4], 2, verb="try"))
    assert {n: square for n, (square, _) in found.items()} == {1: 1, 2: 4, 3: 9, 4: 16}
    assert os.getpid() not in {process for _, process in found.values()}


@pytest.mark.parametrize("workers", [0, 2])
def test_what_the_work_raises_arrives(workers: int) -> None:
    with pytest.raises(DataError, match="seven"):
        list(outcomes(work, [1, 7], workers, verb="try"))


def test_a_killed_process_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"try: a worker process was killed[\s\S]*goes on"):
        list(outcomes(work, [1, 13], 2, verb="try"))
