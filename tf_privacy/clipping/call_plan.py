# SPDX-License-Identifier: Apache-2.0
"""Which calls of a model's layers are tapped, and how.

The model is run once on placeholders. Every read of a trainable variable is
charged to the innermost layer call that was running; that call becomes a
*tapped call*, whose linear outputs (by rule) or outputs (generic) the forward
pass will tap. Finding the readers by watching them read, and not by who owns
a variable, is what makes tied weights, borrowed weights and shared layers
exact: nothing can use a weight unseen.

The placeholders have a batch of an unusual size, so that a tensor with that
leading dimension holds one row for each example and any other does not. A
call whose tensors have no such rows cannot be split into examples; the
enclosing call is taken in its place. If that reaches the model itself, the
plan is to loop over single examples.
"""

import dataclasses
import weakref

import keras

from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import probe_rows
from tf_privacy.clipping import rules
from tf_privacy.clipping.backend.graphs import graphs

PROBE_BATCH = 1009  # A prime that no ordinary axis has.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TappedCall:
    """One call of one layer whose weights get their gradient from its taps.

    Attributes:
        layer: The layer.
        rule: Its rule, or None for the generic fallback.
        variables: The trainable variables that it reads.
        is_row: For each leaf of (args, kwargs), whether it is a tensor with
            one row for each example.
    """

    layer: keras.layers.Layer
    rule: rules.Rule | None
    variables: tuple
    is_row: tuple[bool, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CallPlan:
    """The tapped calls of a model, by their place in the tree of calls.

    Attributes:
        calls: Place -> tapped call.
        loop_reason: If not empty, why only a loop over single examples will
            do; `calls` is empty then.
        is_confirmed: Whether its gradients were seen to be the model's.
        is_random: Whether the model draws random numbers in training.
    """

    calls: dict[tuple[int, ...], TappedCall]
    loop_reason: str = ""
    is_confirmed: bool = False
    is_random: bool = False

    def layers(self):
        """Returns the layers that are tapped."""
        return [call.layer for call in self.calls.values()]


class _Node:
    """One call in the tree of calls."""

    def __init__(self, layer, parent, place):
        self.layer = layer
        self.parent = parent
        self.place = place
        self.children = []
        self.reads = {}
        self.seeded = False
        self.is_row = ()
        self.rows_out = False
        self.input_shapes = ()

    def splits_into_rows(self) -> bool:
        """True if inputs and all outputs have one row for each example."""
        return self.rows_out and any(self.is_row)

    def subtree(self):
        """Yields this node and all below it."""
        yield self
        for child in self.children:
            yield from child.subtree()


class _Observer:
    """Builds the tree of calls while the model runs on placeholders."""

    def __init__(self, model):
        self._trainable = {id(v) for v in model.trainable_variables}
        self._seeds = keras_internals.seed_states(model)
        self.root = None
        self._stack = []
        self._graph = None

    def intercept(self, layer, call, args, kwargs):
        """Runs one call as a node of the tree."""
        _check_steps(layer, args, kwargs)
        if not self._stack:
            self._graph = graphs.current_graph()
        elif graphs.current_graph() != self._graph:
            # Inside a loop or a vectorised map: what happens here belongs to
            # the call that opened it, which is on the stack.
            return call(*args, **kwargs)
        parent = self._stack[-1] if self._stack else None
        place = parent.place + (len(parent.children),) if parent else ()
        node = _Node(layer, parent, place)
        if parent:
            parent.children.append(node)
        else:  # A trace may begin again, with values.
            self.root = node
        self._stack.append(node)
        try:
            outputs = call(*args, **kwargs)
        finally:
            self._stack.pop()
        leaves = keras.tree.flatten((args, kwargs))
        node.is_row = tuple(_is_row(leaf) for leaf in leaves)
        node.rows_out = all(_is_row(o) for o in keras.tree.flatten(outputs))
        node.input_shapes = tuple(
            tuple(leaf.shape) for leaf in leaves if keras.ops.is_tensor(leaf)
        )
        return outputs

    def on_read(self, variable):
        """Charges a read to the running call."""
        if self._stack and id(variable) in self._trainable:
            self._stack[-1].reads[id(variable)] = variable

    def on_update(self, variable, value):
        """Notes a use of random numbers; refuses any other state."""
        del value
        layer = self._stack[-1].layer if self._stack else None
        check_update(variable, self._seeds, layer)
        if self._stack:
            self._stack[-1].seeded = True


def _check_steps(layer, args, kwargs):
    """Raises if Keras would take the number of examples for that of steps."""
    if not keras_internals.uses_class_call(layer, keras.layers.TimeDistributed):
        return
    shape = tuple((args[0] if args else kwargs["inputs"]).shape)
    if shape[1] is None:
        raise ValueError(
            "model must know the number of steps in TimeDistributed: Keras "
            "runs over as many as there are examples where it is unknown, and "
            "so each example would depend on how many others there are. "
            f"Received: layer {layer.name!r} on inputs of shape {shape}. Pad "
            "the steps to a fixed number, or apply the layer to all of them "
            "at once."
        )


def check_update(variable, seeds, layer) -> None:
    """Raises if a layer changes a state that is not a random generator's.

    Args:
        variable: The `keras.Variable` that is updated.
        seeds: From `keras_internals.seed_states`.
        layer: The running layer, or None.

    Raises:
        ValueError: If the state may have been learnt from the data.
    """
    if id(variable) in seeds or keras_internals.is_global_seed_state(variable):
        return
    _refuse_state(
        f"layer {getattr(layer, 'name', None)!r} ({type(layer).__name__}), "
        f"which updates {variable.path!r}"
    )


def _refuse_state(received: str):
    raise ValueError(
        "model must hold no layer that changes its own state while it trains: "
        f"what it learns from the data has no noise. Received: {received}. "
        "Replace it; tf_privacy.replace_batch_normalization(model) does so "
        "for BatchNormalization, by GroupNormalization, the weights kept."
    )


def _is_row(leaf) -> bool:
    return (
        keras.ops.is_tensor(leaf)
        and len(leaf.shape) > 0
        and leaf.shape[0] == PROBE_BATCH
    )


def _collect(node):
    """Returns the nodes below `node` to tap; `node` itself where it must."""
    if node.reads:
        return [node]
    found = []
    for child in node.children:
        found.extend(_collect(child))
    if not found:
        return []
    rule = _find_rule(node)
    if rule is not None and rule.covers_sublayers:
        return [node]
    if all(n.splits_into_rows() for n in found):
        return found
    return [node]


def _read_variables(node):
    variables = {}
    for below in node.subtree():
        variables.update(below.reads)
    return tuple(variables.values())


def _find_rule(node):
    rule = rules.find_rule(node.layer, _read_variables(node), node.input_shapes)
    if rule is None or rule.covers_sublayers:
        return rule
    others = (n for n in node.subtree() if n is not node)
    return None if any(n.reads for n in others) else rule


def _tapped_call(node) -> TappedCall:
    return TappedCall(
        layer=node.layer,
        rule=_find_rule(node),
        variables=_read_variables(node),
        is_row=node.is_row,
    )


def _loop_reason(nodes, calls, root, graph) -> str:
    if any(n is root for n in nodes) and not root.splits_into_rows():
        return "the model's outputs do not have one row for each example"
    generic = [n for n, c in zip(nodes, calls, strict=True) if c.rule is None]
    for node in generic:
        if any(n.seeded for n in node.subtree()):
            return (
                f"layer {node.layer.name!r} draws random numbers and has no "
                "rule, so it cannot be recomputed"
            )
    if generic and graphs.has_unseeded_random_operation(graph):
        return "a layer draws random numbers outside of Keras's generators"
    return ""


def probe_specs(x):
    """Returns specs of `PROBE_BATCH` rows of the shapes of `x`.

    Args:
        x: A structure of tensors `[B, ...]`.
    """
    return keras.tree.map_structure(_probe_spec, x)


def _probe_spec(tensor):
    shape = (PROBE_BATCH,) + tuple(tensor.shape[1:])
    return keras.KerasTensor(shape, keras.ops.dtype(tensor))


def _trace(model, specs, observer):
    state = keras_internals.ObservedState(observer.on_read, observer.on_update)

    def run(inputs):
        with (
            state,
            keras_internals.intercepted_calls(model, observer.intercept),
        ):
            model(inputs, training=True)

    graph = graphs.trace(run, specs)
    if state.losses:
        raise ValueError(
            "model must add no loss that depends on the data (add_loss, "
            "activity_regularizer): it is a mean over the batch, which cannot "
            f"be split into examples. Received: {len(state.losses)} such "
            "losses. Give the quantity as an output and put it in `loss`."
        )
    return graph


def _make_plan(model, inputs) -> CallPlan:
    observer = _Observer(model)
    specs = probe_specs(inputs)
    try:
        graph = _trace(model, specs, observer)
    except (TypeError, ValueError):
        # An error of the model itself is told with the caller's own shapes.
        _trace(model, probe_rows.as_specs(inputs), _Observer(model))
        raise
    assignment = graphs.find_assignment(graph)
    if assignment:
        _refuse_state(f"an assignment behind Keras's back, {assignment!r}")
    nodes = _collect(observer.root)
    calls = [_tapped_call(n) for n in nodes]
    reason = _loop_reason(nodes, calls, observer.root, graph)
    if reason:
        return CallPlan(calls={}, loop_reason=reason)
    return CallPlan(
        calls={n.place: c for n, c in zip(nodes, calls, strict=True)},
        is_random=any(n.seeded for n in observer.root.subtree()),
    )


_PLANS = weakref.WeakKeyDictionary()


def plan_calls(model, inputs) -> CallPlan:
    """Returns the plan for a model on inputs of given shapes.

    Args:
        model: A built `keras.Model`.
        inputs: A structure of tensors `[B, ...]`; only shapes and dtypes are
            looked at.

    Returns:
        The plan; kept for the next call with the same shapes and the same
        trainable variables.

    Raises:
        ValueError: If a layer changes its state from the data or adds a loss
            that depends on the data.
    """
    plans = _PLANS.setdefault(model, {})
    key = _plan_key(model, inputs)
    if key not in plans:
        plans[key] = _make_plan(model, inputs)
    return plans[key]


def keep_plan(model, inputs, plan: CallPlan) -> None:
    """Makes `plan_calls` return `plan` from now on.

    Args:
        model: As for `plan_calls`.
        inputs: As for `plan_calls`.
        plan: The plan.
    """
    _PLANS.setdefault(model, {})[_plan_key(model, inputs)] = plan


def _plan_key(model, inputs):
    leaves = keras.tree.flatten(inputs)
    return (
        tuple(id(v) for v in model.trainable_variables),
        tuple((tuple(t.shape[1:]), keras.ops.dtype(t)) for t in leaves),
        repr(keras.tree.map_structure(lambda t: 0, inputs)),
    )
