# SPDX-License-Identifier: Apache-2.0
"""The forward pass that follows a plan, and the gradient terms it yields."""

import dataclasses
from typing import Any

import keras
from keras import ops

from tf_privacy.clipping import call_plan
from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import merged_terms
from tf_privacy.clipping.backend.graphs import graphs
from tf_privacy.clipping.backend.row_maps import row_maps


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Record:
    """What one tapped call left behind.

    Attributes:
        call: The planned call.
        saved: What its rule saved, or the generic call's way to recompute.
        first: Position of its first tap.
        outputs: The tapped tensors.
        visit: How many calls had begun before it.
    """

    call: call_plan.TappedCall
    saved: Any
    first: int
    outputs: list
    visit: int


class TapRecorder:
    """Runs a model under a plan and remembers what each tapped call saw.

    Args:
        plan: From `call_plan.plan_calls`.
        tap: The backend's tap.
        trainable: The variables whose reads must all be planned.
    """

    def __init__(self, plan, tap, trainable):
        self._plan = plan
        self._tap = tap
        self._trainable = {id(v) for v in trainable}
        self._num_taps = 0
        self._counters = [0]
        self._place = None
        self._depth_in_tapped = 0
        self._graph = None
        self._visited = []
        self._stack = []
        self.records = []

    def run(
        self,
        model,
        inputs,
        on_update=keras_internals.assign_directly,
        training=True,
    ):
        """Returns the model's outputs.

        Args:
            model: The planned model.
            inputs: A structure of tensors `[B, ...]`.
            on_update: What to do with an update of the state of a random
                generator.
            training: Whether the model is to behave as in training.
        """
        seeds = keras_internals.seed_states(model)

        def update(variable, value):
            layer = self._stack[-1] if self._stack else model
            call_plan.check_update(variable, seeds, layer)
            on_update(variable, value)

        state = keras_internals.ObservedState(self._on_read, update)
        self._graph = graphs.current_graph()
        with state, keras_internals.intercepted_calls(model, self._intercept):
            outputs = model(inputs, training=training)
        if len(self.records) != len(self._plan.calls):
            raise RuntimeError(
                "tf_privacy planned to tap "
                f"{len(self._plan.calls)} layer calls but saw "
                f"{len(self.records)}: the model's call does not run the same "
                "layers for every batch. Train it with a plain structure, or "
                "report it as a bug."
            )
        return outputs

    def _on_read(self, variable):
        if id(variable) in self._trainable and not self._depth_in_tapped:
            raise RuntimeError(
                f"tf_privacy did not plan for the use of {variable.path!r} "
                "here: the model's call does not run the same layers for "
                "every batch. Train it with a plain structure, or report it "
                "as a bug."
            )

    def tensors(self):
        """Returns what the records hold, to be handed out of a pullback."""
        return [(record.saved, record.outputs) for record in self.records]

    def keep(self, tensors):
        """Puts into the records what came out of the pullback.

        Args:
            tensors: As `tensors` returned it, from the outside.
        """
        self.records = [
            dataclasses.replace(record, saved=saved, outputs=outputs)
            for record, (saved, outputs) in zip(
                self.records, tensors, strict=True
            )
        ]

    def layers_after(self, record):
        """Returns the names of the layers that ran from a tapped call on."""
        names = [layer.name for layer in self._visited[record.visit :]]
        return list(dict.fromkeys(names))

    def _intercept(self, layer, call, args, kwargs):
        if self._depth_in_tapped:
            return call(*args, **kwargs)
        if graphs.current_graph() != self._graph:
            # As in the plan: it belongs to the call that opened the loop.
            return call(*args, **kwargs)
        self._visited.append(layer)
        self._stack.append(layer)
        place = self._enter()
        try:
            planned = self._plan.calls.get(place)
            if planned is None or planned.layer is not layer:
                return call(*args, **kwargs)
            self._depth_in_tapped += 1
            try:
                return self._run_tapped(planned, call, args, kwargs)
            finally:
                self._depth_in_tapped -= 1
        finally:
            self._leave()
            self._stack.pop()

    def _enter(self):
        if self._place is None:
            self._place = ()
        else:
            self._place += (self._counters[-1],)
            self._counters[-1] += 1
        self._counters.append(0)
        return self._place

    def _leave(self):
        self._counters.pop()
        self._place = self._place[:-1]

    def _run_tapped(self, planned, call, args, kwargs):
        first = self._num_taps
        tapped = []

        def tap(tensor):
            # A call may leave a mask on its own outputs.
            mask = keras_internals.get_keras_mask(tensor)
            tensor = self._tap(tensor)
            if mask is not None:
                keras_internals.set_keras_mask(tensor, mask)
            self._num_taps += 1
            tapped.append(tensor)
            return tensor

        if planned.rule is not None:
            outputs, saved = planned.rule.forward(
                planned.layer, call, tap, args, kwargs
            )
        else:
            outputs = keras.tree.map_structure(
                lambda o: tap(o) if _is_float(o) else o, call(*args, **kwargs)
            )
            saved = (call, args, kwargs, keras_internals.CallContext())
        self.records.append(
            _Record(
                call=planned,
                saved=saved,
                first=first,
                outputs=tapped,
                visit=len(self._visited),
            )
        )
        return outputs


def _is_float(tensor) -> bool:
    return ops.is_tensor(tensor) and "float" in ops.dtype(tensor)


def collect_terms(
    records,
    cotangents,
    unscale: float,
    trainable,
    *,
    rows_per_unit: int = 1,
    only_row=None,
):
    """Returns the gradient term of each variable, merged over its uses.

    Args:
        records: From `TapRecorder.records`.
        cotangents: From `backend.pull_back`.
        unscale: What to multiply cotangents with (1 / loss scale).
        trainable: The variables to return terms for.
        rows_per_unit: Consecutive rows whose gradients are summed.
        only_row: None, or the only row whose cotangents are not zero: where a
            layer is recomputed, then for that row alone.

    Returns:
        A dict: id of the variable -> term. A variable without an entry has
        no influence on the loss.
    """
    wanted = {id(v) for v in trainable}
    terms = {}
    for record in records:
        stop = record.first + len(record.outputs)
        mine = cotangents[record.first : stop]
        if all(g is None for g in mine):
            continue
        mine = [
            ops.zeros_like(ops.cast(z, "float32"))
            if g is None
            else ops.cast(g, "float32") * unscale
            for g, z in zip(mine, record.outputs, strict=True)
        ]
        pairs = call_terms(record, mine, only_row)
        for variable, term in pairs:
            if id(variable) in wanted:
                joined = term.joined(rows_per_unit)
                terms.setdefault(id(variable), []).append(joined)
    return {k: merged_terms.merge_terms(v) for k, v in terms.items()}


def call_terms(record, cotangents, only_row=None):
    """Returns the (variable, term) pairs of one tapped call.

    Args:
        record: From `TapRecorder.records`.
        cotangents: One float32 tensor for each of its taps.
        only_row: As for `collect_terms`.
    """
    if record.call.rule is not None:
        return record.call.rule.terms(
            record.call.layer, record.saved, cotangents
        )
    return _generic_terms(record, cotangents, only_row)


def _generic_terms(record, cotangents, only_row):
    """Recomputes one layer for each row and pulls its cotangents back."""
    recompute, rows_and_masks = _make_recompute(record)
    variables = record.call.variables
    row_gradients = row_maps.map_row_gradients
    if keras_internals.prefers_loop(record.call.layer):
        row_gradients = row_maps.loop_row_gradients
    if only_row is not None:
        row_gradients = _only_row(row_gradients, only_row)
    gradients = row_gradients(recompute, rows_and_masks, cotangents, variables)
    return [
        (v, gradient_terms.Instantiated(g))
        for v, g in zip(variables, gradients, strict=True)
    ]


def _only_row(row_gradients, row):
    """Returns `row_gradients` for a batch of which one row has cotangents."""

    def only_row_gradients(recompute, rows, cotangents, variables):
        num_rows = cotangents[0].shape[0]
        # With a neighbour: a single row is not taken the same way as many.
        start = max(min(row, num_rows - 2), 0)
        pair = keras.tree.map_structure(
            lambda t: t[start : start + 2], (rows, cotangents)
        )
        gradients = row_gradients(recompute, *pair, variables)
        place = ops.one_hot(row, num_rows, dtype="float32")
        return [ops.tensordot(place, g[row - start], axes=0) for g in gradients]

    return only_row_gradients


def _make_recompute(record):
    """Returns a function from one row to the call's outputs, and all rows."""
    call, args, kwargs, context = record.saved
    leaves = keras.tree.flatten((args, kwargs))
    is_row = record.call.is_row
    rows = [x for x, yes in zip(leaves, is_row, strict=True) if yes]
    masks = {
        i: mask
        for i, mask in enumerate(map(keras_internals.get_keras_mask, rows))
        if mask is not None
    }

    def recompute(rows_and_masks):
        row = iter(_with_batch_axis(*rows_and_masks))
        mixed = [
            next(row) if yes else x
            for x, yes in zip(leaves, is_row, strict=True)
        ]
        row_args, row_kwargs = keras.tree.pack_sequence_as(
            (args, kwargs), mixed
        )
        with context.entered():
            outputs = call(*row_args, **row_kwargs)
        return [
            ops.cast(o, "float32")[0]
            for o in keras.tree.flatten(outputs)
            if _is_float(o)
        ]

    return recompute, (rows, masks)


def _with_batch_axis(rows, masks):
    rows = [tensor[None] for tensor in rows]
    for i, mask in masks.items():
        keras_internals.set_keras_mask(rows[i], mask[None])
    return rows
