# SPDX-License-Identifier: Apache-2.0
"""Every use of Keras that goes beyond its public interface, in one place.

Keras has no public hook for what a layer reads and computes while a model
runs. What is used here is held against the loop over single examples by the
test zoo, so that a release of Keras that changes it fails a test first.
"""

import contextlib
import functools

import keras
from keras.src import backend as keras_backend
from keras.src.backend.common import global_state
from keras.src.layers.rnn import conv_lstm
from keras.src.losses import loss as loss_module
from keras.src.models import functional
from keras.src.models import model as model_module
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import data_adapter

_CALL_CONTEXT = "current_call_ctx"
_SCOPE = "stateless_scope"


def flatten_layers(model):
    """Returns the model and every layer below it, each once."""
    seen = {id(layer): layer for layer in model._flatten_layers()}
    return list(seen.values())


@contextlib.contextmanager
def intercepted_calls(model, intercept):
    """Sends every `call` below `model` through `intercept` for a while.

    Args:
        model: A `keras.Model`.
        intercept: `intercept(layer, call, args, kwargs) -> outputs`.
    """
    layers = flatten_layers(model)
    before = [dict(vars(layer)) for layer in layers]
    for layer in layers:
        vars(layer)["call"] = _bind(layer, layer.call, intercept)
        # A rematerialised call would hide what is tapped within it.
        vars(layer)["_remat_mode"] = None
    try:
        yield
    finally:
        for layer, attributes in zip(layers, before, strict=True):
            for name in ("call", "_remat_mode"):
                if name in attributes:
                    vars(layer)[name] = attributes[name]
                else:
                    del vars(layer)[name]


def _bind(layer, call, intercept):
    @functools.wraps(call)
    def intercepted(*args, **kwargs):
        return intercept(layer, call, args, kwargs)

    return intercepted


@contextlib.contextmanager
def replaced_attribute(layer, name, value):
    """Gives `layer` another attribute for a while, untracked by Keras."""
    before = vars(layer)[name]
    vars(layer)[name] = value
    try:
        yield
    finally:
        vars(layer)[name] = before


@contextlib.contextmanager
def added_attribute(layer, name, value):
    """Shadows a method of `layer`'s class for a while."""
    vars(layer)[name] = value
    try:
        yield
    finally:
        del vars(layer)[name]


class InnerScope(keras.StatelessScope):
    """A stateless scope that knows what the scope around it holds.

    Keras's own reads a variable that it has no value for from the variable
    itself, and so misses the state of a step that is a pure function.

    Args:
        state_mapping: Pairs of a `keras.Variable` and the value it has within.
    """

    def __init__(self, state_mapping=()):
        super().__init__(state_mapping, initialize_variables=False)
        self._updated = {}

    def get_current_value(self, variable):
        """Returns a variable's value here, or None to read it as it is."""
        value = super().get_current_value(variable)
        return outer_value(self, variable) if value is None else value

    def add_update(self, update):
        """Keeps an update to itself."""
        variable, _ = update
        self._updated[id(variable)] = variable
        super().add_update(update)

    @property
    def updated(self) -> list[keras.Variable]:
        """The variables that were assigned to, each once."""
        return list(self._updated.values())


def outer_value(scope, variable):
    """Returns what the scope around an open scope has for a variable."""
    if scope.original_scope is None:
        return None
    return scope.original_scope.get_current_value(variable)


class ObservedState(keras.StatelessScope):
    """A scope in which reads and updates of variables are reported.

    Values come from the scope around it, or else from the variables
    themselves; nothing is replaced.

    Args:
        on_read: Called with each `keras.Variable` that is read.
        on_update: Called with (variable, value) in place of the assignment.
    """

    def __init__(self, on_read, on_update):
        super().__init__(collect_losses=True, initialize_variables=False)
        self._on_read = on_read
        self._on_update = on_update

    def get_current_value(self, variable):
        """Reports the read; None makes Keras use the variable's own value."""
        self._on_read(variable)
        return outer_value(self, variable)

    def add_update(self, update):
        """Hands the update over."""
        self._on_update(*update)


def assign_directly(variable, value):
    """Assigns to a variable although its updates are being observed."""
    scope = global_state.get_global_attribute(_SCOPE)
    while isinstance(scope, ObservedState):
        scope = scope.original_scope
    if scope is None:
        variable._direct_assign(value)
    else:
        scope.add_update((variable, value))


@contextlib.contextmanager
def no_scope():
    """Lets variables be read and assigned as if no stateless scope was open."""
    before = global_state.get_global_attribute(_SCOPE)
    global_state.set_global_attribute(_SCOPE, None)
    try:
        yield
    finally:
        global_state.set_global_attribute(_SCOPE, before)


def seed_variables(model) -> list[keras.Variable]:
    """Returns the states of a model's random generators."""
    return [
        generator.state
        for layer in flatten_layers(model)
        for generator in getattr(layer, "_seed_generators", ())
    ]


def seed_states(model) -> set[int]:
    """Returns the ids of the states of a model's random generators."""
    return {id(variable) for variable in seed_variables(model)}


def is_global_seed_state(variable) -> bool:
    """True for the state behind random numbers without a seed."""
    generator = global_state.get_global_attribute("global_seed_generator")
    return generator is not None and variable is generator.state


class CallContext:
    """What a `call` finds around it: the training flag and the compute dtype.

    Captured in the forward pass, entered again for a recomputation.
    """

    def __init__(self):
        self._call_context = global_state.get_global_attribute(_CALL_CONTEXT)
        self._autocast = keras_backend.get_autocast_scope()

    @contextlib.contextmanager
    def entered(self):
        """Puts the captured surroundings back for a while."""
        before = global_state.get_global_attribute(_CALL_CONTEXT)
        dtype = self._autocast.dtype if self._autocast else None
        global_state.set_global_attribute(_CALL_CONTEXT, self._call_context)
        try:
            with keras_backend.AutocastScope(dtype):
                yield
        finally:
            global_state.set_global_attribute(_CALL_CONTEXT, before)


def uses_own_call(layer, keras_class) -> bool:
    """True if `layer` computes exactly what `keras_class` computes.

    A subclass may not: it can change `call` or anything that `call` uses.

    Args:
        layer: A `keras.layers.Layer`.
        keras_class: A layer class of Keras.
    """
    return (
        type(layer) is keras_class
        and "call" not in vars(layer)
        and getattr(layer, "quantization_mode", None) is None
    )


def uses_class_call(layer, keras_class) -> bool:
    """True if `layer`, of whatever subclass, runs the `call` of a class.

    Args:
        layer: A `keras.layers.Layer`.
        keras_class: A layer class of Keras.
    """
    return getattr(type(layer), "call", None) is keras_class.call


def takes_argument(layer, name: str) -> bool:
    """True if `layer.call` has an argument "mask" or "training".

    Args:
        layer: A `keras.layers.Layer`.
        name: "mask" or "training".
    """
    return getattr(layer, f"_call_has_{name}_arg")


_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def prefers_loop(layer) -> bool:
    """True if single rows are faster, or safer, than a vectorised gradient.

    Convolutions are well parallelised for one row. TensorFlow's vectorised
    gradients of loops over time fail on some batch sizes.

    Args:
        layer: A `keras.layers.Layer`.
    """
    return any(
        isinstance(below, (*_CONVOLUTIONS, keras.layers.RNN))
        for below in layer._flatten_layers()
    )


def get_keras_mask(tensor):
    """Returns the mask that a layer left on its output, or None."""
    return keras_backend.get_keras_mask(tensor)


def set_keras_mask(tensor, mask):
    """Leaves a mask on a tensor, as a layer does."""
    keras_backend.set_keras_mask(tensor, mask)


def build_for(model, x):
    """Builds a model's layers for the shapes of `x` if they are not yet."""
    if all(layer.built for layer in flatten_layers(model)):
        return
    specs = keras.tree.map_structure(
        lambda t: keras.KerasTensor(
            (None,) + tuple(t.shape[1:]), keras.ops.dtype(t)
        ),
        x,
    )
    keras_backend.compute_output_spec(model.__call__, specs)


def get_compiled_loss(model):
    """Returns a compiled model's `CompileLoss`, or None."""
    return getattr(model, "_compile_loss", None)


def get_strategy(model):
    """Returns the `tf.distribute` strategy that a model was made under."""
    return getattr(model, "_distribute_strategy", None)


make_data_adapter = data_adapters.get_data_adapter
DataAdapter = data_adapter.DataAdapter
Functional = functional.Functional
ConvLSTMCell = conv_lstm.ConvLSTMCell


def is_functional(args, kwargs) -> bool:
    """True if a model is being made from inputs and outputs."""
    return model_module.functional_init_arguments(args, kwargs)


def describe(original, config) -> dict:
    """Returns what Keras needs to restore an object of class `original`."""
    return {
        "module": original.__module__,
        "class_name": original.__name__,
        "config": config,
        "registered_name": keras.saving.get_registered_name(original),
    }


def state_groups(model):
    """Returns a function to the four lists of variables that JAX passes on.

    Args:
        model: A compiled `keras.Model`, on JAX.
    """
    return lambda: (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )


def put_state(model, state) -> None:
    """Puts into a model's variables what a step of its `fit` goes on with.

    Keras on JAX leaves them empty from the first step of an epoch to the end
    of the epoch. Here they are right between steps, for whatever looks.

    Args:
        model: A `keras.Model` in training.
        state: Values of the groups of `state_groups`.
    """
    for group, values in zip(state_groups(model)(), state, strict=True):
        for variable, value in zip(group, values, strict=True):
            variable._value = value
    # Keras takes the next step's state from the variables again.
    model._jax_state_synced = True


def compute_logged_loss(model, x, y, y_pred, sample_weight):
    """Returns the loss of the whole batch, as Keras's own step reports it."""
    loss = model._compute_loss(
        x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
    )
    return loss_module.unscale_loss_for_distribution(loss)


@contextlib.contextmanager
def counting_rows(model, y_pred, counted):
    """Lets the loss and the metrics see only some rows of a batch.

    Args:
        model: A compiled `keras.Model`.
        y_pred: A structure of tensors `[B, ...]`.
        counted: `[B]` bool.
    """
    with contextlib.ExitStack() as stack:
        for tensor in keras.tree.flatten(y_pred):
            mask = get_keras_mask(tensor)
            stack.callback(set_keras_mask, tensor, mask)
            set_keras_mask(tensor, _counted_mask(tensor, mask, counted))
        metrics = model._compile_metrics
        for listed in metrics._flat_metrics if metrics is not None else ():
            if listed:
                update = functools.partial(_update_counted, listed, counted)
                shadow = added_attribute(listed, "update_state", update)
                stack.enter_context(shadow)
        yield


def _counted_mask(tensor, mask, counted):
    """Returns a mask of the shape of a loss on a tensor."""
    shape = tensor.shape[:-1] if len(tensor.shape) > 1 else tensor.shape
    counted = keras.ops.reshape(counted, (-1,) + (1,) * (len(shape) - 1))
    counted = keras.ops.broadcast_to(counted, shape)
    return counted if mask is None else keras.ops.logical_and(counted, mask)


def _update_counted(listed, counted, y_true, y_pred):
    for metric in listed.metrics:
        metric.update_state(y_true, y_pred, sample_weight=counted)


def run_recurrence(step, inputs, initial_state, mask, layer):
    """Runs `step` over time, forwards, as a recurrent layer of Keras does.

    Args:
        step: `step(inputs[:, t], states) -> (output, states)`.
        inputs: `[B, T, ...]`.
        initial_state: A list of tensors.
        mask: `[B, T]` bool, or None.
        layer: The layer, for its settings.

    Returns:
        The last output, all outputs `[B, T, ...]`, and the last states.
    """
    is_scan = keras_backend.backend() == "jax" and not layer.unroll
    if mask is None or not is_scan:
        return _run_steps(step, inputs, initial_state, mask, layer)
    # There, what goes on under a mask is the first state.
    longer_step, states = _with_output_as_state(step, inputs, initial_state)
    last, outputs, states = _run_steps(longer_step, inputs, states, mask, layer)
    return last, outputs, states[1:]


def _with_output_as_state(step, inputs, states):
    """Returns a step whose first state is its last output, and its states."""
    output, _ = step(inputs[:, 0], states)
    widths = [
        (0, wide - own)
        for wide, own in zip(output.shape, states[0].shape, strict=True)
    ]

    def longer_step(current, states):
        output, states = step(current, states[1:])
        return output, [output, *states]

    return longer_step, [keras.ops.pad(states[0], widths), *states]


def _run_steps(step, inputs, initial_state, mask, layer):
    return keras_backend.rnn(
        step,
        inputs,
        initial_state,
        go_backwards=False,
        mask=mask,
        unroll=layer.unroll,
        input_length=inputs.shape[1],
        zero_output_for_mask=layer.zero_output_for_mask,
        return_all_outputs=True,
    )


def input_specs(model):
    """Returns the inputs of a functional or sequential model as specs."""
    structure = getattr(model, "_inputs_struct", None)
    if structure is None:
        inputs = model.inputs
        structure = inputs[0] if len(inputs) == 1 else inputs
    return keras.tree.map_structure(
        lambda t: keras.KerasTensor(t.shape, t.dtype), structure
    )
