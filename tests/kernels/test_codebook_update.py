import itertools

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from sagittal_core.ops import CodebookState, codebook_ema_update, codebook_lookup, kmeans


def state(size=6, width=3, dtype=torch.float64):
    counts = torch.rand(size, dtype=dtype) * 10 + 1
    codebook = torch.randn(size, width, dtype=dtype)
    return CodebookState(codebook, counts, codebook * counts[:, None])


def dense_update(before, z, indices, decay, epsilon):
    """The update with a one-hot matrix, in float64."""
    one_hot = torch.nn.functional.one_hot(indices, len(before.codebook)).double()
    counts = decay * before.counts.double() + (1 - decay) * one_hot.sum(0)
    sums = decay * before.sums.double() + (1 - decay) * one_hot.T @ z.double()
    total = counts.sum()
    smoothed = (counts + epsilon) / (total + len(counts) * epsilon) * total
    return sums / smoothed[:, None], counts, sums


@pytest.mark.parametrize("rows", [0, 1, 500])
@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_matches_the_dense_form(rows, decay, dtype, bound):
    before = state(dtype=dtype)
    z, indices = torch.randn(rows, 3, dtype=dtype), torch.randint(0, 6, (rows,))
    after = codebook_ema_update(before, z, indices, decay=decay, epsilon=1e-3)
    wanted = dense_update(before, z, indices, decay, 1e-3)
    if rows == 0 and decay == 0:  # 0 / 0: the codebook stays
        wanted = (before.codebook, *wanted[1:])
    for found, want in zip(after, wanted, strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), want.double(), rtol=bound, atol=bound)
    if decay == 1:
        assert torch.equal(after.counts, before.counts)
        assert torch.equal(after.sums, before.sums)


def test_the_state_given_is_not_changed():
    before = state()
    copies = [t.clone() for t in before]
    codebook_ema_update(before, torch.randn(9, 3), torch.zeros(9).long(), restart_below=3.0)
    assert all(torch.equal(a, b) for a, b in zip(before, copies, strict=True))


def test_moves_to_the_mean_of_its_rows():
    z = torch.randn(100, 4, dtype=torch.float64) + 5
    now = CodebookState.start(torch.zeros(2, 4, dtype=torch.float64))
    for _ in range(60):
        now = codebook_ema_update(now, z, torch.zeros(100).long(), decay=0.5, epsilon=1e-12)
    torch.testing.assert_close(now.codebook[0], z.mean(0))
    assert now.codebook[1].abs().max() < 1e-3  # never used: stays where it was


def test_no_gradient_flows():
    z = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    after = codebook_ema_update(state(), z, torch.zeros(9).long())
    assert not any(t.requires_grad for t in after)


@pytest.mark.parametrize("rows", [2, 50])
def test_restarts_dead_codes(rows):
    before = state()
    before.counts[[1, 3, 4]] = 0.01
    z, indices = torch.randn(rows, 3, dtype=torch.float64), torch.zeros(rows).long()
    update = lambda seed: codebook_ema_update(  # noqa: E731
        before, z, indices, restart_below=0.5, seed=seed
    )
    plain = codebook_ema_update(before, z, indices)
    after, again = update(0), update(0)
    restarted = [1, 3, 4][:rows]
    for code in range(6):
        if code in restarted:
            assert (z == after.codebook[code]).all(1).any()
            assert after.counts[code] == 0.5
            assert torch.equal(after.sums[code], 0.5 * after.codebook[code])
        else:
            assert torch.equal(after.codebook[code], plain.codebook[code])
    assert len(after.codebook[restarted].unique(dim=0)) == len(restarted)
    assert torch.equal(after.codebook, again.codebook)
    assert not all(torch.equal(after.codebook, update(seed).codebook) for seed in range(1, 20))


def clusters(count=8, each=200, width=5):
    centres = torch.randn(count, width) * 200
    return centres, (centres[:, None] + torch.randn(count, each, width)).flatten(0, 1)


def inertia(z, codebook):
    _, scores = codebook_lookup(z, codebook)
    return float((z.square().sum(1) - 2 * scores).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_kmeans_finds_the_clusters(dtype):
    centres, z = clusters()
    codebook = kmeans(z.to(dtype), 8)
    assert codebook.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    nearest = torch.cdist(centres, codebook.float()).min(1).values
    assert nearest.max() < 0.5


def test_kmeans_never_gets_worse():
    z = torch.randn(400, 6, dtype=torch.float64)
    steps = [inertia(z, kmeans(z, 20, iterations=n)) for n in range(8)]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(steps))
    assert torch.equal(kmeans(z, 20, iterations=200), kmeans(z, 20, iterations=300))


def test_kmeans_matches_sklearn():
    cluster = pytest.importorskip("sklearn.cluster")
    z = torch.randn(400, 6, dtype=torch.float64)
    start = kmeans(z, 9, iterations=0)
    other = cluster.KMeans(9, init=start.numpy(), n_init=1, tol=0, max_iter=300).fit(z.numpy())
    found = kmeans(z, 9, iterations=300)
    torch.testing.assert_close(found, torch.from_numpy(other.cluster_centers_))


def test_kmeans_seeds_are_distinct_rows():
    z = torch.randn(12, 3).repeat(4, 1)
    codebook = kmeans(z, 12, iterations=0, seed=3)
    assert len(codebook.unique(dim=0)) == 12
    assert not torch.equal(codebook, kmeans(z, 12, iterations=0, seed=4))
    with pytest.raises(ValueError, match="z has 12 distinct rows, fewer than size = 13"):
        kmeans(z, 13)
    with pytest.raises(ValueError, match="z has 0 distinct rows"):
        kmeans(z[:0], 1)


def test_seeds_follow_the_squared_distance():
    # Two seeds of 0, 1 and 3: after 0 the weights are 1 and 9, after 1 they are 1 and 4, and so on.
    z = torch.tensor([[0.0], [1.0], [3.0]])
    pairs = [tuple(kmeans(z, 2, iterations=0, seed=s).flatten().tolist()) for s in range(3000)]
    for pair, chance in {(0.0, 3.0): 0.9 / 3, (1.0, 3.0): 0.8 / 3, (3.0, 0.0): 9 / 13 / 3}.items():
        spread = (chance * (1 - chance) / 3000) ** 0.5
        assert abs(pairs.count(pair) / 3000 - chance) < 4 * spread


def test_bad_arguments_say_what_is_wrong():
    z, indices = torch.randn(9, 3), torch.zeros(9).long()
    with pytest.raises(ValueError, match="decay must be in"):
        codebook_ema_update(state(), z, indices, decay=1.5)
    with pytest.raises(ValueError, match=r"z must be \(M, 3\)"):
        codebook_ema_update(state(), z[:, :2], indices)
    with pytest.raises(TypeError, match="must all be float32"):
        codebook_ema_update(state()._replace(counts=torch.ones(6)), z, indices)
    with pytest.raises(ValueError, match=r"must be \(K, D\), \(K,\), \(K, D\)"):
        codebook_ema_update(state()._replace(counts=torch.ones(5).double()), z, indices)
    with pytest.raises(RuntimeError, match=r"indices must be in \[0, 6\)"):
        codebook_ema_update(state(), z, indices + 6)
    with pytest.raises(ValueError, match="size must be >= 1"):
        kmeans(z, 0)
    with pytest.raises(ValueError, match="z must be a floating-point matrix"):
        kmeans(z.long(), 2)
    with pytest.raises(RuntimeError, match="z holds NaN"):
        kmeans(z * torch.nan, 2)


def _rank(rank, folder, parts):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    before, z, indices = torch.load(f"{folder}/problem.pt")
    before = CodebookState(*before)
    part = parts[rank]
    after = codebook_ema_update(before, z[part], indices[part], restart_below=2.0, seed=5)
    torch.save((tuple(after), kmeans(z[part], 7, seed=2)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    before, z, indices = state(), torch.randn(501, 3).double(), torch.randint(0, 4, (501,))
    before.counts[4:] = 1.0
    torch.save((tuple(before), z, indices), tmp_path / "problem.pt")
    wanted = codebook_ema_update(before, z, indices, restart_below=2.0, seed=5)
    assert (wanted.counts[4:] == 2.0).all()
    parts = (slice(0, 400), slice(400, None))
    mp.spawn(_rank, (str(tmp_path), parts), nprocs=2)
    (one, centres), (two, others) = (torch.load(tmp_path / f"{r}.pt") for r in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(centres, others)
    for found, want in zip(one, wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(centres, kmeans(z, 7, seed=2), rtol=1e-12, atol=1e-12)
