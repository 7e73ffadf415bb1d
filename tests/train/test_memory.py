"""Training holds no more memory after many batches than after a few."""

import os
import subprocess
import sys

import pytest

STEPS = 130
RUN = f"""
import sys, tempfile
import numpy as np
from camflow.train.classify import ClassifyTask, PlainParams, train_classifier

class Photos:
    class_names = list("abcdef")
    ids = [f"{{n:06d}}" for n in range(32 * {STEPS})]
    sizes = np.full((32 * {STEPS}, 2), 48, np.int32)
    def image(self, name):
        return np.random.default_rng(int(name)).integers(0, 255, (48, 48, 3), np.uint8)
    def label(self, name):
        return np.eye(6, dtype=np.uint8)[int(name) % 6]

def after_step(task, resident=[]):
    resident.append(int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20)
    if len(resident) == {STEPS}:
        print(resident[29], resident[-1])

ClassifyTask.after_step = after_step
params = PlainParams(
    backbone="tiny", width=4, weights="none", output_stride=None, crop=48, scale=None, epochs=1, batch_size=32, lr=0.05,
    freeze_bn=False, freeze_stem=False, detach="none", momentum_slot="paper",
)
with tempfile.TemporaryDirectory() as folder:
    files = {{"out": folder + "/c.pt", "metrics_csv": folder + "/m.csv", "scratch": folder}}
    train_classifier(Photos(), None, params, **files, key="memory", progress=False)
"""


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads its memory from Linux's /proc")
def test_memory_does_not_grow_with_the_batches():
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", RUN], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    early, late = map(float, run.stdout.split())
    # 100 batches of 32 photos of 48x48 as float32 are 84 MB.
    assert late - early < 20
