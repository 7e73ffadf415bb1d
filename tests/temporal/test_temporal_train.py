"""Training on sequences, from the embedded set to a score; resuming; what hiding is for."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from camflow.errors import ConfigError, DataError
from camflow.store import Store, StoreWriter
from camflow.temporal.cam import ProposalParams, localize_sequences, temporal_cams
from camflow.temporal.evaluate import TemporalScoreParams, score_proposals
from camflow.temporal.hiding import hidden_steps
from camflow.temporal.made import SPLITS, MadeParams, write_made
from camflow.temporal.network import (
    HiddenSequences,
    Sequences,
    TemporalParams,
    TemporalTask,
    build_temporal,
    load_temporal,
    train_temporal,
)
from tests.train.runs import run_in, same_bytes

MADE = MadeParams(train=64, val=30, classes=4, features=16, steps=80)
SMALL = {"epochs": 24, "width": 24, "batch_size": 16, "lr": 1e-2, "evaluate_every": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    for split in SPLITS:
        with StoreWriter(folder / f"{split}.h5", stage="sequences", class_names=MADE.class_names) as writer:
            write_made(MADE, split, writer)
    return {split: Store(folder / f"{split}.h5", stage="sequences") for split in SPLITS}


def train(folder, made, val=True, **changes):
    return train_temporal(
        made["train"],
        made["val"] if val else None,
        TemporalParams(**{**SMALL, **changes}),
        **run_in(folder, "net.pt"),
    )


def score(folder, made, model, protocol="thumos14", **changes):
    with StoreWriter(folder / "p.h5", stage="proposals", class_names=MADE.class_names) as writer:
        localize_sequences(model, made["val"], ProposalParams(**changes), writer)
    return score_proposals(made["val"], Store(folder / "p.h5"), TemporalScoreParams(protocol))["map_at"]


def test_hiding_finds_more_of_an_action(made, tmp_path):
    plain, hidden = (train(tmp_path / str(n), made, hide_segments=n) for n in (0, 20))
    for model in (plain, hidden):
        assert model.meta["metrics"]["val_accuracy"] > 0.95
    found = [score(tmp_path, made, model, threshold=0.3) for model in (plain, hidden)]
    assert found[1]["0.5"] > found[0]["0.5"] + 0.2
    loaded = load_temporal(tmp_path / "20" / "net.pt")
    assert loaded.class_names == list(MADE.class_names) and loaded.meta["params"]["hide_segments"] == 20
    assert score(tmp_path, made, loaded, threshold=0.3) == found[1]


def test_a_killed_training_ends_in_the_same_bytes(made, tmp_path, monkeypatch):
    options = {"epochs": 3, "evaluate_every": 1, "val": False}
    train(tmp_path / "a", made, **options)
    evaluate, calls = TemporalTask.evaluate, []

    def failing(self):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(self)

    monkeypatch.setattr(TemporalTask, "evaluate", failing)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", made, **options)
    train(tmp_path / "b", made, **options)
    assert same_bytes(tmp_path / "a", tmp_path / "b", "net.pt", "metrics.csv")


def test_samples_hide_with_the_mean_of_the_training_set(made):
    sequences = Sequences(made["train"])
    params = TemporalParams(hide_segments=10, hide_p=0.5)
    sample = HiddenSequences(sequences, params).sample(3, np.random.default_rng(4))
    hidden = hidden_steps(np.random.default_rng(4).random(10), 0.5, MADE.steps)
    whole = made["train"].read(sequences.ids[3])
    everything = np.concatenate([made["train"].read(video) for video in sequences.ids])
    found = sample["sequence"].numpy().T
    np.testing.assert_array_equal(found[~hidden], whole[~hidden])
    np.testing.assert_allclose(found[hidden], np.tile(everything.mean(axis=0), (hidden.sum(), 1)), atol=1e-5)
    label = np.zeros(4)
    label[made["train"].attrs(sequences.ids[3])["classes"]] = 1
    np.testing.assert_array_equal(sample["label"], label)
    off = HiddenSequences(sequences, TemporalParams(hide_segments=0)).sample(3, np.random.default_rng(4))
    np.testing.assert_array_equal(off["sequence"].numpy().T, whole)


def test_losses(made):
    sequences = Sequences(made["train"])
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 1]], dtype=torch.float64)
    model = build_temporal(16, 4, width=4)
    softmax = TemporalTask(model, sequences, None, TemporalParams()).loss(logits, label)
    by_hand = [-F.log_softmax(z, 0)[y.bool()].mean() for z, y in zip(logits, label, strict=True)]
    torch.testing.assert_close(softmax, sum(by_hand) / 5)
    each = TemporalTask(model, sequences, None, TemporalParams(loss="soft_margin")).loss(logits, label)
    torch.testing.assert_close(each, F.binary_cross_entropy_with_logits(logits, label))


@pytest.mark.parametrize("which", ["given", "predicted", "all"])
def test_classes_that_are_localised(made, tmp_path, which):
    model = build_temporal(16, 4, width=8, seed=2).eval()
    with StoreWriter(tmp_path / "p.h5", stage="proposals", class_names=MADE.class_names) as writer:
        localize_sequences(model, made["val"], ProposalParams(classes=which), writer)
    store = Store(tmp_path / "p.h5", stage="proposals")
    for video in store.ids[:10]:
        sequence, attrs = made["val"].read(video), made["val"].attrs(video)
        cams = temporal_cams(model, sequence)
        with torch.no_grad():
            best = int(model(torch.from_numpy(sequence.T[None].copy())).argmax())
        wanted = {"given": attrs["classes"].tolist(), "predicted": [best], "all": range(4)}[which]
        rows = store.read(video)
        assert set(rows[:, 0]) == {c for c in wanted if cams[c].max() > 0}
        assert (rows[:, 2] > rows[:, 1]).all() and rows[:, 2].max(initial=0) <= attrs["duration"] + 1e-9


def test_what_does_not_fit_is_named(made, tmp_path):
    model = build_temporal(16, 4, width=8)
    model.class_names = ["other"] * 4
    with pytest.raises(DataError, match="other classes"):
        localize_sequences(model, made["val"], ProposalParams(), None)
    with pytest.raises(DataError, match="have 16 channels, the network reads 5"):
        localize_sequences(build_temporal(5, 4, width=8), made["val"], ProposalParams(), None)
    with StoreWriter(tmp_path / "none.h5", stage="sequences", class_names=["a"]) as writer:
        writer.write("v", np.zeros((4, 2), np.float32), classes=np.zeros(0, np.int32))
        writer.table("mean", np.zeros(2))
    store = Store(tmp_path / "none.h5")
    with pytest.raises(DataError, match="video 'v' has no label"):
        Sequences(store)
    with pytest.raises(DataError, match="the same `classes`"):
        train(tmp_path, {"train": made["train"], "val": store})
    for changes, words in (
        ({"pooling": "max"}, "unknown pooling"),
        ({"loss": "softmargin"}, "did you mean 'soft_margin'"),
        ({"hide_segments": -1}, "hide_segments"),
        ({"hide_p": 2}, "hide_p"),
        ({"lr": -1}, "lr must not be negative"),
    ):
        with pytest.raises(ConfigError, match=words):
            TemporalParams(**changes)
