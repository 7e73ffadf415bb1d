"""The deterministic weights against the stored check values."""

import ast

import numpy as np
import pytest
import torch

from tests.golden.loader import fill_by_rule, golden, kind_of, rule_tensor


@pytest.fixture(scope="module")
def rule():
    return golden("weights_rule")


def test_every_tensor_of_the_rule(rule):
    assert len(rule["name"]) == 559
    for i, listed in enumerate(rule["name"].tolist()):
        # The one scaled tensor is listed as "conv1.weight (times 1/64)".
        name, scale = listed.split(" ")[0], 1 / 64 if "1/64" in rule["kind"][i] else 1.0
        shape = ast.literal_eval(rule["shape"][i])
        kind = str(rule["kind"][i])
        assert kind_of(name, shape) == ("conv" if scale != 1.0 else kind), listed
        values = rule_tensor(name, shape, scale)
        first = values.ravel()[:4]
        np.testing.assert_array_equal(first, rule["first4"][i][: first.size], err_msg=listed)
        np.testing.assert_allclose(values.sum(dtype=np.float64), rule["sum"][i], rtol=1e-9, atol=1e-9, err_msg=listed)
        np.testing.assert_allclose(np.abs(values).sum(dtype=np.float64), rule["abs_sum"][i], rtol=1e-9, err_msg=listed)


def test_fill_renames_scales_and_upcasts():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4)).double()
    names = {"0.weight": "conv1.weight", "1.weight": "bn1.weight"}
    fill_by_rule(module, rename=lambda name: names.get(name, name), scale={"conv1.weight": 1 / 64})
    expected = rule_tensor("conv1.weight", (4, 3, 3, 3), 1 / 64)
    np.testing.assert_array_equal(module[0].weight.detach().numpy(), expected.astype(np.float64))
    assert module[1].num_batches_tracked == 0
    state = fill_by_rule({"bn1.weight": torch.zeros(4)})
    np.testing.assert_array_equal(state["bn1.weight"].numpy(), module[1].weight.detach().float().numpy())
