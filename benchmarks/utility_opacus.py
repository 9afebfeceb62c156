# SPDX-License-Identifier: Apache-2.0
"""Trains the network of `plain` by Opacus, in a process of its own.

    python benchmarks/utility_opacus.py problem.npz settings.json

The same network, initial distribution of weights, clip, noise multiplier,
batch size, number of steps and Poisson sampling as our run, so that epsilon is
the same too. `benchmarks.utility` writes both files and calls this with the
Python that has PyTorch and Opacus; neither Keras nor this library is needed.
Prints the accuracy on the test examples as JSON.
"""

import importlib.util
import json
import sys
import time

import numpy as np

MISSING = "opacus is not installed"


def _make_network(shape, num_classes):
    from torch import nn

    if len(shape) == 3:
        # What "same" pads at 28 pixels.
        stack = [
            nn.ZeroPad2d((3, 3, 3, 3)),
            nn.Conv2d(1, 16, 8, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1),
            nn.Conv2d(16, 32, 4, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1),
            nn.Flatten(),
            nn.Linear(512, 32),
        ]
    else:
        stack = [nn.Linear(shape[0], 32)]
    stack += [nn.ReLU(), nn.Linear(32, num_classes)]
    for layer in stack:
        if hasattr(layer, "weight"):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*stack)


def _as_tensor(x):
    """Returns a tensor, channels first where there are some."""
    import torch

    if x.ndim == 4:
        x = np.moveaxis(x, -1, 1)
    # In the usual order of memory: on tensors whose channels are innermost,
    # Opacus 1.6 takes wrong gradients of a convolution.
    return torch.from_numpy(x).clone(memory_format=torch.contiguous_format)


def train(arrays, settings: dict) -> float:
    """Returns the accuracy of the network that Opacus trained.

    Args:
        arrays: "x_train", "y_train", "x_test", "y_test"; images `[N, S, S, 1]`.
        settings: "num_classes", "learning_rate", "momentum", "l2_norm_clip",
            "noise_multiplier", "batch_size", "num_steps" and "seed".
    """
    import torch
    from opacus import grad_sample
    from opacus import optimizers
    from opacus.utils import uniform_sampler

    torch.manual_seed(settings["seed"])
    x, y = _as_tensor(arrays["x_train"]), torch.from_numpy(arrays["y_train"])
    model = grad_sample.GradSampleModule(
        _make_network(arrays["x_train"].shape[1:], settings["num_classes"])
    )
    optimizer = optimizers.DPOptimizer(
        torch.optim.SGD(
            model.parameters(),
            lr=settings["learning_rate"],
            momentum=settings["momentum"],
        ),
        noise_multiplier=settings["noise_multiplier"],
        max_grad_norm=settings["l2_norm_clip"],
        expected_batch_size=settings["batch_size"],
    )
    batches = uniform_sampler.UniformWithReplacementSampler(
        num_samples=len(x),
        sample_rate=settings["batch_size"] / len(x),
        steps=settings["num_steps"],
    )
    for rows in batches:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows].long())
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        predicted = model(_as_tensor(arrays["x_test"])).argmax(dim=1).numpy()
    return float(np.mean(predicted == arrays["y_test"]))


def main(argv) -> int:
    """Trains on the files that are named.

    Args:
        argv: This file's name, the arrays' and the settings'.
    """
    if importlib.util.find_spec("opacus") is None:
        print(MISSING)
        return 0
    with open(argv[2], encoding="utf-8") as file:
        settings = json.load(file)
    start = time.perf_counter()
    accuracy = train(np.load(argv[1]), settings)
    seconds = time.perf_counter() - start
    print(json.dumps({"accuracy": accuracy, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
