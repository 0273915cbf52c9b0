import os

import pytest
import torch

from sagittal_core.ops import backend_info


@pytest.fixture(scope="session", autouse=True)
def native():
    """Load (and, once for all sessions, build) the kernels before any test is timed.

    Whoever asks for a backend by SAGITTAL_OPS gets that one tested, or an error.
    """
    info = backend_info()
    wanted = os.environ.get("SAGITTAL_OPS", "auto")
    assert wanted in ("auto", info.mode), f"asked for {wanted}, found {info.mode}: {info.reason}"
    return info


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def threads():
    """Set the thread count and restore it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
