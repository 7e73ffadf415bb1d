"""Order and random numbers depend on seed, epoch and id alone."""

from camflow.train.order import MicroBatches, derive_seed, epoch_batches, epoch_order, sample_generator, split

IDS = [f"x{i}" for i in range(23)]


def test_order_is_a_permutation_that_changes_with_epoch_and_seed():
    orders = [epoch_order(IDS, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_order_follows_ids_not_positions():
    order = [IDS[i] for i in epoch_order(IDS, 3, 4)]
    backwards = IDS[::-1]
    assert [backwards[i] for i in epoch_order(backwards, 3, 4)] == order
    fewer = [name for name in IDS if name != "x5"]  # a removed image moves none of the others
    assert [fewer[i] for i in epoch_order(fewer, 3, 4)] == [name for name in order if name != "x5"]


def test_batches():
    assert [len(b) for b in epoch_batches(IDS, 0, 0, 5, True)] == [5, 5, 5, 5]
    assert [len(b) for b in epoch_batches(IDS, 0, 0, 5, False)] == [5, 5, 5, 5, 3]
    assert [len(b) for b in epoch_batches(IDS, 0, 0, 50, True)] == [23]  # never an epoch without a step


def test_processes_share_every_batch():
    whole = epoch_batches(IDS, 2, 1, 6, False)
    plans = [
        MicroBatches(IDS, seed=2, batch_size=6, drop_last=False, accumulate=2, rank=rank, world=4) for rank in range(4)
    ]
    for plan in plans:
        plan.set_epoch(1)
        assert [item for part in plan for item in part] == [
            (1, i) for step in plan.steps for part in step for i in part
        ]
        assert len(plan) == len(list(plan))
    for step, batch in enumerate(whole):
        assert [i for plan in plans for part in plan.steps[step] for i in part] == batch


def test_split():
    assert split([1, 2, 3, 4, 5], 2) == [[1, 2, 3], [4, 5]]
    assert split([1], 3) == [[1], [], []]


def test_seeds():
    assert derive_seed("a", 1) == derive_seed("a", 1)
    assert derive_seed("a", 1, 2) != derive_seed("a", 12)
    assert 0 <= derive_seed("x") < 2**63
    draws = {sample_generator(s, e, i).random() for s in (0, 1) for e in (0, 1) for i in ("a", "b")}
    assert len(draws) == 8
