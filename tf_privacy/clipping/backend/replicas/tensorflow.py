# SPDX-License-Identifier: Apache-2.0
"""Steps on several replicas, under `tf.distribute`.

Each replica clips its share of the batch. What follows is done once in each
process, on the sum over all replicas, and changes the variables of all of them:
so there is one draw of noise, and no replica can have another one.
"""

import contextlib

import numpy as np
import tensorflow as tf

from tf_privacy.clipping import keras_internals

_WORD = 2**64


def current_scope():
    """Returns the `tf.distribute` strategy in force, or None."""
    if not tf.distribute.has_strategy():
        return None
    return tf.distribute.get_strategy()


def num_replicas() -> int:
    """Returns how many replicas share the batch of a step."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def num_processes(scope) -> int:
    """Returns how many processes train together in a scope.

    Args:
        scope: From `current_scope`.
    """
    return max(1, len(_list_tasks(scope)))


def process_index(scope) -> int:
    """Returns which of these processes this is; 0 is the first.

    Args:
        scope: From `current_scope`.
    """
    tasks = _list_tasks(scope)
    if len(tasks) < 2:
        return 0
    resolver = scope.cluster_resolver
    return tasks.index((resolver.task_type, resolver.task_id))


def _list_tasks(scope) -> list[tuple[str, int]]:
    """Returns type and number of each task that trains, the chief's first."""
    if not isinstance(scope, tf.distribute.MultiWorkerMirroredStrategy):
        return []
    resolver = scope.cluster_resolver
    cluster = resolver.cluster_spec().as_dict() if resolver else {}
    return [
        (kind, number)
        for kind in ("chief", "worker")
        for number in range(len(cluster.get(kind, ())))
    ]


def check_scope(scope, name: str) -> None:
    """Raises unless something was made in the scope that is in force.

    Args:
        scope: From `current_scope`, where the thing was made.
        name: Of the thing.

    Raises:
        NotImplementedError: If the strategy keeps no copies of variables.
        ValueError: If another strategy is in force, or none.
    """
    received = current_scope()
    if scope is not received:
        raise ValueError(
            f"{name} must be made in the scope of the strategy that is in "
            f"force, {_name(received)}. Received: one that was made under "
            f"{_name(scope)}. Make model and optimizer, and compile, within "
            "strategy.scope(), and take steps by fit or strategy.run."
        )
    if scope is not None and not isinstance(scope, _MIRRORED):
        raise NotImplementedError(
            "strategy must be a MirroredStrategy or a "
            f"MultiWorkerMirroredStrategy. Received: {_name(scope)}. Use one "
            "of them."
        )


def check_running() -> None:
    """Raises if a strategy is in force, but no replica runs.

    Raises:
        RuntimeError: If so: what is to be summed over replicas is not there.
    """
    if tf.distribute.in_cross_replica_context():
        raise RuntimeError(
            "optimizer.apply must be called by all replicas together. "
            "Received: a call in the scope of a strategy, but outside of "
            "strategy.run. Call strategy.run(step, args=...)."
        )


_MIRRORED = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
)


def _name(scope) -> str:
    return "no strategy" if scope is None else type(scope).__name__


def check_shares(data) -> None:
    """Raises if all replicas were given one and the same tensor as their rows.

    Each unit would count once for each replica, and the noise be that of a
    single one.

    Args:
        data: A tensor or an array `[B, ...]`, as the caller passed it.

    Raises:
        ValueError: If it is the same object on several replicas of this
            process.
    """
    context = tf.distribute.get_replica_context()
    if current_scope() is None or context is None:
        return
    if len(context.strategy.extended.worker_devices) == 1:
        return

    def check(strategy, data):
        if not isinstance(data, tf.distribute.DistributedValues):
            raise ValueError(
                "x must be another part of the batch on each replica. "
                f"Received: one and the same on all {num_replicas()}, so that "
                "each unit would count so many times. Give strategy.run what "
                "tf_privacy.split_over_replicas makes of the batch."
            )

    try:
        context.merge_call(check, args=(data,))
    except RuntimeError:
        # In a graph within the step, where no two replicas share a tensor.
        return


def sum_over_replicas(tensors):
    """Returns the sum of each tensor over all replicas, the same on each.

    Args:
        tensors: A list of tensors.
    """
    context = tf.distribute.get_replica_context()
    if current_scope() is None or context is None:
        return tensors
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def agree(predicate):
    """Returns whether a predicate is true on every replica.

    Args:
        predicate: A bool scalar.
    """
    if current_scope() is None:
        return predicate
    (votes,) = sum_over_replicas([tf.cast(predicate, tf.int32)])
    return tf.equal(votes, num_replicas())


def run_once(function):
    """Returns `function()`, run once in this process for all its replicas.

    Args:
        function: A function without arguments; sees the tensors of the first
            replica, and changes the variables of all.
    """
    context = tf.distribute.get_replica_context()
    if current_scope() is None or context is None:
        return function()
    return context.merge_call(lambda strategy: function())


def updating_all():
    """Returns a context in which a Keras optimizer updates all replicas.

    To be entered in what `run_once` runs. Keras's optimizers ask for such a
    run themselves, unless the strategy says that it needs none; and sum over
    replicas only outside of it.
    """
    scope = current_scope()
    if scope is None:
        return contextlib.nullcontext()
    return keras_internals.added_attribute(
        scope.extended, "_use_merge_call", lambda: False
    )


@contextlib.contextmanager
def as_one_replica():
    """Returns a context in which no strategy is seen to be in force.

    Losses of Keras and TensorFlow divide by the number of replicas.
    """
    if current_scope() is None:
        yield
        return
    graph = tf.compat.v1.get_default_graph()
    stack = graph._distribution_strategy_stack
    graph._distribution_strategy_stack = []
    try:
        yield
    finally:
        graph._distribution_strategy_stack = stack


def share_words(words: list[int], scope) -> list[int]:
    """Returns the first process's words, in all processes of a scope.

    All processes must call it, in the same order as what else they share.

    Args:
        words: Integers in [0, 2**64).
        scope: From `current_scope`.
    """
    if num_processes(scope) == 1:
        return words
    signed = np.array(words, np.uint64).view(np.int64)
    # A variable begins with the first process's value in all of them.
    with tf.init_scope(), scope.scope():
        shared = tf.Variable(signed, trainable=False)
        values = shared.numpy()
    return [int(word) % _WORD for word in values]
