# SPDX-License-Identifier: Apache-2.0
"""How Keras's trainer runs a private step, in JAX.

A compiled step is a pure function: from the values of all variables that it
may read to the values of those that it assigned. Beside the four groups that
Keras passes on from step to step these are the optimizer's secret ones: noise,
limits and counts that no file may hold.
"""

import jax
import numpy as np
from keras import distribution

from tf_privacy.clipping import keras_internals

COMPILES_WHOLE_STEP = True


def make_train_function(model, private_step, make_for_keras):
    """Returns the function that `fit` calls with state and iterator.

    Args:
        model: A compiled private model.
        private_step: Its `Step`.
        make_for_keras: Keras's own, which knows no secret state; not used.
    """
    del make_for_keras
    groups = keras_internals.state_groups(model)

    def step(values, secret_values, data, padding):
        del padding  # Known to the step; here so that another one is compiled.
        secret = private_step.secret_variables()
        mapping = _pair([*groups(), secret], [*values, secret_values])
        with keras_internals.InnerScope(mapping) as scope:
            logs = private_step.take(data)
            after = tuple(
                [scope.get_current_value(v) for v in group]
                for group in groups()
            )
            return logs, after, _changed(scope, secret)

    if not model.run_eagerly:
        step = jax.jit(
            step,
            static_argnames="padding",
            donate_argnums=0,
            out_shardings=_find_shardings(groups()),
        )

    prepared = set()

    def prepare(data):
        """Checks on values what must not wait for a trace, once a shape."""
        key = str(jax.tree.map(jax.typeof, data)), private_step.padding
        if key not in prepared:
            private_step.prepare(jax.tree.map(_own_rows, data))
            prepared.add(key)

    def take_step(state, data):
        keras_internals.put_state(model, state)
        prepare(data)
        secret = private_step.secret_variables()
        values = [v.value for v in secret]
        logs, state, changed = step(
            state, values, data, padding=private_step.padding
        )
        # Before anything can raise: the state before was given up.
        keras_internals.put_state(model, state)
        _assign(secret, changed)
        return logs, state

    def take_steps(state, iterator):
        logs, state = take_step(state, next(iterator))
        for _ in range(model.steps_per_execution - 1):
            data = next(iterator, None)
            if data is None:
                break
            logs, state = take_step(state, data)
        return logs, state

    return take_steps


def _own_rows(array):
    """Returns an array, or of one that other processes share the own rows."""
    if getattr(array, "is_fully_addressable", True):
        return array
    return np.asarray(array.addressable_shards[0].data)


def _pair(groups, values):
    """Returns pairs of a variable and its value, from lists of lists."""
    return [
        pair
        for group, own in zip(groups, values, strict=True)
        for pair in zip(group, own, strict=True)
    ]


def _find_shardings(groups):
    """Returns how the state of a step is laid out; None where on one device."""
    if distribution.distribution() is None:
        return None
    return None, tuple([v.value.sharding for v in g] for g in groups), None


def _changed(scope, variables):
    """Returns the new values of variables that were assigned to, by place."""
    updated = {id(v) for v in scope.updated}
    return {
        str(place): scope.get_current_value(variable)
        for place, variable in enumerate(variables)
        if id(variable) in updated
    }


def _assign(variables, changed):
    for place, value in changed.items():
        variables[int(place)].assign(value)


def run_step(model, private_step, state, data):
    """Refuses: a step without its secret state would repeat its noise.

    Args:
        model: The private model.
        private_step: Anything.
        state: Anything.
        data: Anything.

    Raises:
        RuntimeError: Always.
    """
    raise RuntimeError(
        "model.train_step must be called by fit() or train_on_batch(), which "
        f"count what it releases. Received: a call on {model.name!r}. In a "
        "custom loop use tf_privacy.clipped_gradients and optimizer.apply, "
        "compiled by tf_privacy.compile_step."
    )


def compile_step(function, find_variables):
    """Returns a compiled step of a custom loop.

    Args:
        function: Takes tensors, changes variables.
        find_variables: Returns the variables that it may read or write.
    """

    def step(values, args):
        variables = find_variables()
        mapping = list(zip(variables, values, strict=True))
        with keras_internals.InnerScope(mapping) as scope:
            outputs = function(*args)
            return outputs, _changed(scope, variables)

    compiled = jax.jit(step)
    seen = set()

    def run(*args):
        leaves, structure = jax.tree.flatten(args)
        key = structure, tuple((jax.typeof(leaf)) for leaf in leaves)
        if key not in seen:
            # What is traced may prepare variables, whose values are wanted.
            jax.eval_shape(step, [v.value for v in find_variables()], args)
            seen.add(key)
        variables = find_variables()
        outputs, changed = compiled([v.value for v in variables], args)
        _assign(variables, changed)
        return outputs

    return run
