# SPDX-License-Identifier: Apache-2.0
"""Times the private step of other libraries on the MLP of `models`.

Each is compared with the ordinary step of its own framework, interleaved in
one process as in `step_cost`: Opacus with PyTorch, both eager, and JAX-Privacy
with JAX, both compiled. SGD, clipping and Gaussian noise; no accounting. Each
is shown as it is by default and in its setting that is fastest here: ghost
clipping, and one row at a time. The default keeps a gradient for each example.

    python -m benchmarks.peers --batch_size=256
"""

import importlib.util

import numpy as np
from absl import app
from absl import flags

from benchmarks import timing

FLAGS = flags.FLAGS
_SIZES = (784, 512, 512, 10)


def _make_batch(batch_size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch_size, _SIZES[0])).astype("float32")
    return x, rng.integers(0, _SIZES[-1], batch_size).astype("int32")


def _make_torch_step(batch_size, *, private, ghost=False):
    """Returns the step of PyTorch, or of Opacus if private."""
    import torch

    x, y = _make_batch(batch_size)
    x, y = torch.from_numpy(x), torch.from_numpy(y).long()
    stack = []
    for width_in, width_out in zip(_SIZES, _SIZES[1:], strict=False):
        stack += [torch.nn.Linear(width_in, width_out), torch.nn.ReLU()]
    model = torch.nn.Sequential(*stack[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = torch.nn.CrossEntropyLoss()
    if private:
        make_private = _add_ghost_clipping if ghost else _add_opacus
        model, optimizer, loss = make_private(
            model, optimizer, loss, batch_size=batch_size
        )

    def step():
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    return step


def _add_opacus(model, optimizer, loss, *, batch_size):
    from opacus import grad_sample
    from opacus import optimizers

    optimizer = optimizers.DPOptimizer(
        optimizer,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=batch_size,
    )
    return grad_sample.GradSampleModule(model), optimizer, loss


def _add_ghost_clipping(model, optimizer, loss, *, batch_size):
    from opacus import grad_sample
    from opacus import optimizers
    from opacus.utils import fast_gradient_clipping_utils as ghost

    model = grad_sample.GradSampleModuleFastGradientClipping(
        model, max_grad_norm=1.0, use_ghost_clipping=True
    )
    optimizer = optimizers.DPOptimizerFastGradientClipping(
        optimizer,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=batch_size,
    )
    loss = ghost.DPLossFastGradientClipping(model, optimizer, loss)
    return model, optimizer, loss


def _make_jax_step(batch_size, *, private, microbatch_size=None):
    """Returns the step of JAX, or of JAX-Privacy if private."""
    import jax
    import jax_privacy
    import optax
    from jax_privacy import noise_addition

    batch = tuple(map(jax.numpy.asarray, _make_batch(batch_size)))
    rng = np.random.default_rng(1)
    weights = [
        (
            (rng.normal(size=pair) / pair[0] ** 0.5).astype("float32"),
            np.zeros(pair[1], "float32"),
        )
        for pair in zip(_SIZES, _SIZES[1:], strict=False)
    ]

    def loss(weights, batch):
        x, y = batch
        for kernel, bias in weights[:-1]:
            x = jax.nn.relu(x @ kernel + bias)
        logits = x @ weights[-1][0] + weights[-1][1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    gradients, optimizer = jax.grad(loss), optax.sgd(0.01)
    if private:
        gradients = jax_privacy.clipped_grad(
            loss,
            l2_clip_norm=1.0,
            normalize_by=float(batch_size),
            microbatch_size=microbatch_size,
        )
        noise = noise_addition.gaussian_privatizer(
            stddev=gradients.sensitivity(), prng_key=jax.random.key(0)
        )
        optimizer = optax.chain(noise, optimizer)

    @jax.jit
    def update(weights, state, batch):
        change, state = optimizer.update(gradients(weights, batch), state)
        return optax.apply_updates(weights, change), state

    carried = [weights, optimizer.init(weights)]

    def step():
        carried[:] = update(*carried, batch)
        jax.block_until_ready(carried)

    return step


# Package, what is set, how to make the step, and the setting.
_PEERS = (
    ("opacus", "default", _make_torch_step, {}),
    ("opacus", "ghost", _make_torch_step, {"ghost": True}),
    ("jax_privacy", "default", _make_jax_step, {}),
    ("jax_privacy", "one row", _make_jax_step, {"microbatch_size": 1}),
)


def print_rows(batch_size: int, *, rounds: int, seconds: float):
    """Prints one line for each peer: ordinary ms, private/ordinary ratio.

    Args:
        batch_size: Rows of the batch.
        rounds: How often each step has its turn; the median counts.
        seconds: How long a step is repeated in its turn.
    """
    for name, mode, make_step, setting in _PEERS:
        label = f"{'mlp':<12} {name:<11} {mode:<8} {batch_size:>6}"
        if importlib.util.find_spec(name) is None:
            print(f"{label} not installed")
            continue
        steps = [
            make_step(batch_size, private=False),
            make_step(batch_size, private=True, **setting),
        ]
        plain, private = timing.time_interleaved(
            steps, rounds=rounds, seconds=seconds
        )
        print(f"{label} {plain * 1e3:>7.1f} {private / plain:>8.2f}")


def main(argv):
    """Prints one line for each peer."""
    del argv
    print_rows(FLAGS.batch_size, rounds=FLAGS.rounds, seconds=FLAGS.seconds)


if __name__ == "__main__":
    flags.DEFINE_integer("batch_size", 256, "Rows of the batch.")
    flags.DEFINE_integer("rounds", 9, "Interleaved rounds.")
    flags.DEFINE_float("seconds", 0.3, "How long a step is repeated a round.")
    app.run(main)
