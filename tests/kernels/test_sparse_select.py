import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagittal_core.ops import reference_sparse, topk_select

sys.path.insert(0, str(Path(__file__).parent))
from sparse_problems import DTYPES, same

OPS = torch.ops.sagittal


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(n=st.integers(0, 5), f=st.integers(1, 900), kind=st.integers(0, 4), data=st.data())
def test_select_follows_the_reference(dtype, n, f, kind, data):
    scores = torch.randn(n, f, dtype=dtype)
    if kind == 1:
        scores = scores.mul(2).round()
    elif kind == 2:
        scores = scores.sort(1).values
    elif kind == 3:
        scores = torch.where(scores > 0, torch.inf, -torch.inf)
    elif kind == 4:
        scores = torch.where(scores > 0, 0.0, -0.0).to(dtype)
    k = data.draw(st.integers(1, f))
    assert same(OPS.topk_select(scores, k), reference_sparse.topk_select(scores, k))


@pytest.mark.parametrize("kind", ["normal", "ties", "rising", "infinite", "equal"])
@pytest.mark.parametrize("f", [1024, 1536 + 17, 4096])
def test_select_of_few_from_many_leaves_out_whole_groups(kind, f):
    scores = {
        "normal": torch.randn(6, f),
        "ties": torch.randint(-2, 3, (6, f)).float(),
        "rising": torch.randn(6, f).sort(1).values,
        "infinite": torch.where(torch.rand(6, f) > 0.99, torch.inf, torch.randn(6, f)),
        "equal": torch.full((6, f), -torch.inf),
    }[kind]
    for k in (1, 2, f // 64):
        assert same(OPS.topk_select(scores, k), reference_sparse.topk_select(scores, k))


def test_select_raises_on_nan_and_has_a_gradient():
    scores = torch.randn(4, 700, dtype=torch.float64)
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: topk_select(s, 3)[1], scores[:, :20])
    bad = scores.detach().clone()
    bad[2, 699] = torch.nan
    with pytest.raises(RuntimeError, match="NaN score in row 2"):
        topk_select(bad, 3)
    with pytest.raises(ValueError, match="1 <= k <= F"):
        topk_select(bad, 701)
