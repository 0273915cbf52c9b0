"""Errors name the place, what was expected and what was found, and survive a worker process."""

from __future__ import annotations

import pickle

from sagittal_core.errors import DataError


def test_message_names_everything() -> None:
    error = DataError("a.h5", key="kspace", expected="complex64", found="int16", hint="re-export")
    for part in ("a.h5", "kspace", "complex64", "int16", "re-export"):
        assert part in str(error)
    assert isinstance(error, ValueError)


def test_pickles() -> None:
    error = DataError("a.h5", key="k", expected="x", found="y")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.file, copy.hint) == ("a.h5", "")
