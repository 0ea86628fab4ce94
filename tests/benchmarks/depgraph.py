"""What Torch-Pruning makes of the ResNet-20 of `resnet20.py`, its weights carried over to PyTorch.

    PYTHON tests/benchmarks/depgraph.py FOLDER [--macs 0.5] [--epochs 2] [--rate 0.02]

PYTHON is that of an environment with torch, torch-pruning 1.6 and h5py (`resnet20.py` needs
another): where one is missing the script says so and ends with 0. The group norm pruner of the tool
(DepGraph, Fang et al. 2023) cuts to the same fraction of the MACs, over the whole network, in the
tool's own iterations; the fine-tuning is that of `resnet20_channels.py`: SGD with momentum 0.9, one
cosine, batches of 128, flips and shifts by up to 2 pixels. FOLDER is what `resnet20.py` wrote.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

BATCH = 128


def network(torch, width=16):
    """The network of `resnet20.network`, its layers by the same names."""
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleDict()
            self.conv("stem", 1, width, 3)
            before = width
            for stage in range(3):
                for block in range(3):
                    filters = width << stage
                    name = f"stage{stage + 1}_block{block + 1}"
                    stride = 2 if stage and not block else 1
                    self.conv(f"{name}_a", before, filters, 3, stride)
                    self.conv(f"{name}_b", filters, filters, 3)
                    if stride > 1:
                        self.conv(f"{name}_shortcut", before, filters, 1, stride)
                    before = filters
            self.classes = nn.Linear(before, 10)

        def conv(self, name, before, after, size, stride=1):
            # Keras pads a stride of 2 at the end only.
            pad = nn.ZeroPad2d((0, 1, 0, 1)) if stride > 1 and size > 1 else nn.Identity()
            around = 1 if size > 1 and stride == 1 else 0
            self.layers[name] = nn.Sequential(
                pad,
                nn.Conv2d(before, after, size, stride, around, bias=False),
                nn.BatchNorm2d(after, eps=1e-3, momentum=0.01),
            )

        def forward(self, x):
            relu = torch.relu
            x = relu(self.layers["stem"](x))
            for stage in range(3):
                for block in range(3):
                    name = f"stage{stage + 1}_block{block + 1}"
                    y = self.layers[f"{name}_b"](relu(self.layers[f"{name}_a"](x)))
                    if f"{name}_shortcut" in self.layers:
                        x = self.layers[f"{name}_shortcut"](x)
                    x = relu(x + y)
            return self.classes(x.mean((2, 3)))

    return Net()


def carry(torch, net, path):
    """Puts the weights of the `.h5` into the network."""
    import h5py

    arrays = {}
    with h5py.File(path) as file:
        file["model_weights"].visititems(
            lambda name, item: (
                arrays.update({"/".join(name.split("/")[-2:]): item[()]})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )

    def put(target, array):
        target.data.copy_(torch.from_numpy(np.ascontiguousarray(array)))

    for name, part in net.layers.items():
        put(part[1].weight, arrays[f"{name}_conv/kernel"].transpose(3, 2, 0, 1))
        norm = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean",
                "running_var": "moving_variance"}  # fmt: skip
        for ours, theirs in norm.items():
            put(getattr(part[2], ours), arrays[f"{name}_bn/{theirs}"])
    put(net.classes.weight, arrays["classes/kernel"].T)
    put(net.classes.bias, arrays["classes/bias"])


def accuracy(torch, net, x, y):
    net.eval()
    with torch.no_grad():
        found = [net(x[s : s + 500]).argmax(1) for s in range(0, len(x), 500)]
    return float((torch.cat(found) == y).float().mean())


def train(torch, net, x, y, epochs, rate, seed=0):
    rng = np.random.default_rng(seed)
    steps = epochs * (len(x) // BATCH)
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    padded, plane = torch.nn.functional.pad(x, (2, 2, 2, 2)), torch.arange(28)
    for epoch in range(epochs):
        start, total = time.time(), 0.0
        net.train()
        order = rng.permutation(len(x))
        for begin in range(0, len(x) - BATCH + 1, BATCH):
            rows = torch.from_numpy(order[begin : begin + BATCH])
            down, right = (torch.from_numpy(n) for n in rng.integers(0, 5, (2, BATCH)))
            images = padded[
                rows[:, None, None], 0, (down[:, None] + plane)[:, :, None],
                (right[:, None] + plane)[:, None],
            ][:, None]  # fmt: skip
            flipped = torch.from_numpy(rng.random(BATCH) < 0.5)
            images[flipped] = images[flipped].flip(3)
            loss = torch.nn.functional.cross_entropy(net(images), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
            total += loss.item()
        spent = time.time() - start
        print(f"epoch {epoch + 1}: loss {total * BATCH / len(x):.3f}, {spent:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--rows", type=int, default=54000)
    given = parser.parse_args()
    try:
        import h5py  # noqa: F401
        import torch
        import torch_pruning
    except ImportError as error:
        print(f"skipped: {error}")
        sys.exit(0)
    torch.manual_seed(0)
    data = {}
    for part in ("train", "test"):
        with np.load(given.folder / f"{part}.npz") as arrays:
            x = torch.from_numpy(arrays["x"].transpose(0, 3, 1, 2).copy())
            data[part] = x, torch.from_numpy(arrays["y"])
    net = network(torch)
    carry(torch, net, given.folder / "resnet20.h5")
    before = accuracy(torch, net, *data["test"])
    sample = torch.zeros(1, 1, 28, 28)
    macs, _ = torch_pruning.utils.count_ops_and_params(net, sample)
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    pruner = torch_pruning.pruner.GroupNormPruner(
        net, sample, importance=torch_pruning.importance.GroupMagnitudeImportance(),
        global_pruning=True, pruning_ratio=0.9, iterative_steps=400, ignored_layers=[net.classes],
    )  # fmt: skip
    now = macs
    while now > given.macs * macs:
        pruner.step()
        now, _ = torch_pruning.utils.count_ops_and_params(net, sample)
    cut = accuracy(torch, net, *data["test"])
    print(f"{before:.4f}; at {now / macs:.3f} of the MACs {cut:.4f}", flush=True)
    x, y = (values[: given.rows] for values in data["train"])
    train(torch, net, x, y, given.epochs, given.rate)
    print(f"fine-tuned {accuracy(torch, net, *data['test']):.4f}")
    print(f"torch {torch.__version__}, torch-pruning {version('torch-pruning')}")


if __name__ == "__main__":
    main()
