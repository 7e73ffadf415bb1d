"""The training loop: what it computes, and that nothing but its settings decides it."""

import csv
import signal
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import default_collate

from camflow.errors import CamflowError, ConfigError
from camflow.train import loop
from camflow.train.loop import fit
from camflow.train.order import epoch_batches, sample_generator
from tests.golden.loader import ROOT
from tests.train import toy
from tests.train.processes import exit_codes, forked, run_two
from tests.train.toy import ToyTask, run, settings


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One uninterrupted run: state dict and bytes of its table."""
    folder = tmp_path_factory.mktemp("whole")
    state = run(folder / "scratch", folder / "metrics.csv")
    return {k: v.clone() for k, v in state.items()}, (folder / "metrics.csv").read_bytes()


def test_repeats_and_table(whole, tmp_path):
    assert same(run(tmp_path / "s", tmp_path / "m.csv"), whole[0])
    assert (tmp_path / "m.csv").read_bytes() == whole[1]
    rows = list(csv.DictReader(whole[1].decode().splitlines()))
    assert list(rows[0]) == ["epoch", "lr", "train_logit", "train_loss", "fit"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["epoch-00002.ckpt", "epoch-00003.ckpt", "timing.csv"]
    assert float(rows[0]["fit"]) > float(rows[2]["fit"])


def test_seed_matters(whole, tmp_path):
    assert not same(run(tmp_path / "s", None, seed=1), whole[0])


def test_loop_equals_a_plain_loop(tmp_path):
    """Poly schedule, learning-rate groups and the authors' momentum slot against torch written out by hand."""
    config = settings(momentum_slot="authors", weight_decay=0.01)
    task, mine = ToyTask(double=True), ToyTask(double=True)
    fit(task, config, key="k", scratch=tmp_path, progress=False)
    model = mine.model.train()
    optimizer = torch.optim.SGD(
        [{"params": model.trunk_parameters()}, {"params": [model.head.weight]}], lr=1, momentum=0.01, weight_decay=0.01
    )
    now = 0
    for epoch in range(3):
        batches = epoch_batches(mine.dataset.ids, 0, epoch, 6, True)
        assert [len(b) for b in batches] == [6, 6, 6]
        for batch in batches:
            rngs = [sample_generator(0, epoch, mine.dataset.ids[i]) for i in batch]
            data = default_collate([mine.dataset.sample(i, rng) for i, rng in zip(batch, rngs, strict=True)])
            factor = (1 - now / 9) ** 0.9
            optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = 0.05 * factor, 0.5 * factor
            optimizer.zero_grad()
            F.multilabel_soft_margin_loss(model(data["image"]), data["label"]).backward()
            optimizer.step()
            now += 1
    assert same(task.model.state_dict(), model.state_dict())


def test_workers_do_not_matter(whole, tmp_path):
    assert same(run(tmp_path / "s", tmp_path / "m.csv", workers=2), whole[0])
    assert (tmp_path / "m.csv").read_bytes() == whole[1]


def test_layout_matters_in_the_last_bits_only(tmp_path):
    plain = run(tmp_path / "a", None, double=True)
    for name, value in run(tmp_path / "b", None, double=True, channels_last=True).items():
        torch.testing.assert_close(value, plain[name], rtol=1e-9, atol=1e-12)


def test_accumulation_equals_the_big_batch(tmp_path):
    big = run(tmp_path / "a", None, double=True)
    parts = run(tmp_path / "b", None, double=True, accumulate=4)  # 6 samples in parts of 2, 2, 1, 1
    for name, value in big.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-10, atol=1e-12)


# --- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("death", "leftovers"), [("die_at=1:1", 0), ("die_in_save=2", 1)])
def test_killed_run_ends_in_the_same_bytes(whole, tmp_path, death, leftovers):
    arguments = [str(tmp_path / name) for name in ("s", "m.csv", "never")]
    assert exit_codes(forked(toy.main, [*arguments, death])) == [-signal.SIGKILL]
    assert [p.name for p in (tmp_path / "s").glob("epoch-*.ckpt")] == ["epoch-00001.ckpt"]
    assert len(list((tmp_path / "s").glob(".*.tmp"))) == leftovers
    assert same(run(tmp_path / "s", tmp_path / "m.csv"), whole[0])
    assert (tmp_path / "m.csv").read_bytes() == whole[1]
    assert not list((tmp_path / "s").glob(".*.tmp"))


@pytest.mark.parametrize("damage", ["torn", "flipped", "both"])
def test_corrupt_checkpoint_falls_back(whole, tmp_path, caplog, damage):
    scratch = tmp_path / "s"
    run(scratch, None)
    for path in sorted(scratch.glob("*.ckpt"))[0 if damage == "both" else 1 :]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data[: len(data) // 2] if damage == "torn" else data)
    assert same(run(scratch, tmp_path / "m.csv"), whole[0])
    assert (tmp_path / "m.csv").read_bytes() == whole[1]
    assert "torn or corrupt; it is ignored" in caplog.text


def test_checkpoint_of_another_key_is_ignored(whole, tmp_path, caplog):
    run(tmp_path / "s", None, key="old", lr=0.5)
    assert same(run(tmp_path / "s", tmp_path / "m.csv", key="new"), whole[0])
    assert "another key (old, wanted new)" in caplog.text


def test_finished_run_trains_no_more_and_rewrites_its_table(whole, tmp_path, monkeypatch):
    run(tmp_path / "s", tmp_path / "m.csv")
    (tmp_path / "m.csv").unlink()
    monkeypatch.setattr(ToyTask, "step", None)
    assert same(run(tmp_path / "s", tmp_path / "m.csv"), whole[0])
    assert (tmp_path / "m.csv").read_bytes() == whole[1]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resume_restores_the_optimizer(tmp_path, optimizer, monkeypatch):
    changes = {"optimizer": optimizer, "lr": 0.003, "channels_last": True, "evaluate_every": 2}
    whole = run(tmp_path / "a", tmp_path / "a.csv", **changes)
    step = ToyTask.step

    def failing(self, batch):
        if self.now == [2, 0]:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(ToyTask, "step", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", tmp_path / "b.csv", **changes)
    monkeypatch.setattr(ToyTask, "step", step)
    assert same(run(tmp_path / "b", tmp_path / "b.csv", **changes), whole)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (tmp_path / "a.csv").read_text().splitlines()[1].endswith(",")  # epoch 1 is not evaluated


# --- several processes -----------------------------------------------------------------------------------------------


TWO = {"double": "yes", "batch_size": "5", "accumulate": "2", "drop_last": "False", "epochs": "2"}


def require_equal_to_one_process(folder):
    alone = run(folder / "t", folder / "one.csv", double=True, batch_size=5, accumulate=2, drop_last=False, epochs=2)
    state = torch.load(folder / "o", weights_only=True)
    assert state.keys() == alone.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, alone[name], rtol=1e-10, atol=1e-12)
    assert (folder / "m.csv").read_bytes() == (folder / "one.csv").read_bytes()


def test_two_processes_equal_one(tmp_path):
    arguments = [*(str(tmp_path / name) for name in ("s", "m.csv", "o")), *(f"{k}={v}" for k, v in TWO.items())]
    assert run_two(toy.main, arguments) == [0, 0]
    require_equal_to_one_process(tmp_path)


def test_two_processes_resume_exactly(tmp_path):
    states = []
    for name, deaths in (("whole", ()), ("killed", ("die_at=1:1",))):
        arguments = [*(str(tmp_path / f"{name}-{what}") for what in ("s", "m.csv", "o")), "epochs=2", "batch_size=5"]
        if deaths:
            codes = run_two(toy.main, [*arguments, *deaths])  # the second may fail on the loss of the first instead
            assert -signal.SIGKILL in codes
            assert 0 not in codes
        assert run_two(toy.main, arguments) == [0, 0]
        states.append((torch.load(arguments[2], weights_only=True), (tmp_path / f"{name}-m.csv").read_bytes()))
    assert same(states[0][0], states[1][0])
    assert states[0][1] == states[1][1]


@pytest.mark.long
def test_torchrun_equals_one_process(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.train.toy", *(str(tmp_path / name) for name in ("s", "m.csv", "o"))]
    command += [f"{k}={v}" for k, v in TWO.items()]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    require_equal_to_one_process(tmp_path)


def test_sync_bn_needs_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.distributed, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="sync_bn needs GPUs"):
        run(tmp_path, None, sync_bn=True)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_exploding_loss_is_named(tmp_path):
    with pytest.raises(CamflowError, match=r"stopped being finite in epoch 1.*lower lr"):
        run(tmp_path, None, lr=1e30)
    assert not list(tmp_path.glob("*.ckpt"))


def test_reduced_precision_on_a_cpu_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="precision: bf16 needs a GPU"):
        run(tmp_path, None, precision="bf16")


def test_bad_training_sets_are_refused(tmp_path):
    for ids, words in (([], "empty"), (["a", "a"], "duplicate")):
        task = ToyTask()
        task.dataset.ids = ids
        with pytest.raises(ConfigError, match=words):
            fit(task, settings(), key="k", scratch=tmp_path, progress=False)


def test_frozen_network_is_refused(tmp_path):
    task = ToyTask()
    task.model.requires_grad_(False)
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        fit(task, settings(), key="k", scratch=tmp_path, progress=False)


def test_surroundings_are_put_back(tmp_path):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    run(tmp_path, None, threads=2, epochs=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()
