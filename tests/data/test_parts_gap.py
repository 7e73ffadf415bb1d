"""What the embedded dataset is for: image labels alone leave a gap that better localisation can close.

Two small networks with the same trunk, one trained on image labels and one on the true masks; plain torch, none of the
package's own training or localisation code, so that a fault there cannot make this pass.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from torch import nn
from torch.nn import functional as F

from camflow.data.parts import PartsParams, draw_scene, generate_parts

PARAMS = PartsParams(train=1200, val=200)
CLASSES, WIDTH, EPOCHS, BATCH = PARAMS.classes, 24, 8, 32

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


def conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class Net(nn.Module):
    """Score maps (B, C, H / 8, W / 8) with a receptive field of 43 px; with `dense`, a decoder and (B, C + 1, H, W)."""

    def __init__(self, dense: bool):
        super().__init__()
        w = WIDTH
        self.steps = nn.ModuleList(
            nn.Sequential(conv(i, o, 2), conv(o, o)) for i, o in ((3, w), (w, 2 * w), (2 * w, 4 * w))
        )
        self.dense = dense
        if dense:
            self.context = nn.Sequential(conv(4 * w, 4 * w, dilation=2), conv(4 * w, 2 * w, dilation=2))
            self.merge4, self.merge2 = conv(4 * w, w), conv(2 * w, w)
        self.head = nn.Conv2d(w if dense else 4 * w, CLASSES + dense, 1, bias=dense)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        two = self.steps[0](x)
        four = self.steps[1](two)
        eight = self.steps[2](four)
        if not self.dense:
            return self.head(eight)
        merged = self.merge4(torch.cat([resize(self.context(eight), four), four], 1))
        return resize(self.head(self.merge2(torch.cat([resize(merged, two), two], 1))), x)


def load(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Photos (N, 3, H, W), image labels (N, C) and label maps (N, H, W) of a split."""
    ids = (folder / f"ImageSets/Segmentation/{split}.txt").read_text().split()
    photos, masks = (
        np.stack([np.asarray(Image.open(folder / kind / f"{name}.png")) for name in ids])
        for kind in ("JPEGImages", "SegmentationClass")
    )
    names, present = (folder / "classes.txt").read_text().split(), json.loads((folder / "labels.json").read_text())
    labels = [[float(name in present[image]) for name in names] for image in ids]
    x = (torch.tensor(photos).permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.25
    return x, torch.tensor(labels), torch.tensor(masks).long()


def fit(net: Net, x: torch.Tensor, target: torch.Tensor) -> Net:
    steps = len(x) // BATCH
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=EPOCHS * steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).view(-1)[: steps * BATCH].view(steps, BATCH):
            images, wanted = x[batch], target[batch]
            if torch.rand(()) < 0.5:
                images, wanted = images.flip(3), wanted.flip(2) if net.dense else wanted
            out = net(images)
            if net.dense:
                loss = F.cross_entropy(out, wanted)
            else:
                loss = F.binary_cross_entropy_with_logits(out.mean((2, 3)), wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def run(net: Net, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([net(part) for part in x.split(50)])


@dataclass(frozen=True)
class Score:
    miou: float  # points, background included
    recall: float  # share of the object pixels that get the right class
    precision: float  # share of the predicted object pixels that are right


def score(prediction: torch.Tensor, truth: torch.Tensor) -> Score:
    n = CLASSES + 1
    counts = torch.bincount((truth * n + prediction).flatten(), minlength=n * n).view(n, n).double()
    hit = counts.diag()
    miou = (hit / (counts.sum(0) + counts.sum(1) - hit)).mean()
    right = hit[1:].sum()
    return Score(100 * miou.item(), (right / counts[1:].sum()).item(), (right / counts[:, 1:].sum()).item())


def seeds(maps: torch.Tensor, threshold: float) -> torch.Tensor:
    return torch.cat([torch.full_like(maps[:, :1], threshold), maps], 1).argmax(1)


def test_plain_cam_finds_heads_and_leaves_bodies_to_the_methods(tmp_path: Path):
    generate_parts(tmp_path / "parts", PARAMS)
    x, labels, masks = load(tmp_path / "parts", "train")
    x_val, labels_val, truth = load(tmp_path / "parts", "val")
    torch.manual_seed(0)
    classifier = fit(Net(dense=False), x, labels)
    segmenter = fit(Net(dense=True), x, masks)

    scores = run(classifier, x_val)
    mean_ap = average_precision_score(labels_val, scores.mean((2, 3)))
    maps = resize(scores.relu(), x_val) * labels_val[:, :, None, None]
    maps = maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-6)
    by_threshold = {t / 50: score(seeds(maps, t / 50), truth) for t in range(1, 46)}
    best = max(by_threshold, key=lambda t: by_threshold[t].miou)
    cam, confident = by_threshold[best], by_threshold[0.5]
    supervised = score(run(segmenter, x_val).argmax(1), truth)

    head = torch.tensor(np.stack([draw_scene(PARAMS, "val", index)[1].head for index in range(PARAMS.val)]))
    found = seeds(maps, 0.5) == truth
    head_recall, body_recall = (found[part].float().mean().item() for part in (head, (truth > 0) & ~head))
    print(
        f"mAP {mean_ap:.3f}; CAM at {best:.2f} {cam}; supervised {supervised}\n"
        f"CAM at 0.50 {confident}, recall of heads {head_recall:.3f}, of bodies {body_recall:.3f}"
    )

    assert mean_ap > 0.9
    assert 35 < cam.miou < 60
    assert supervised.miou - cam.miou > 15
    # Where the map is sure it is mostly right, and it is sure of little more than the heads.
    assert confident.recall < confident.precision - 0.2
    assert body_recall < head_recall - 0.3
    assert supervised.recall > 0.8
    assert supervised.precision > 0.8
