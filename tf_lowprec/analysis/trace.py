"""One training step's graph of a model: which layer is called with what, and which graph ops it is.

The model is traced, not run, so that Sequential, functional, nested and subclassed models of either
Keras look the same, and a product that no known layer owns is seen too.
"""

import contextlib
import dataclasses
import re

import tensorflow as tf

from tf_lowprec._keras import native, sublayers
from tf_lowprec.analysis.gemms import has_known_products, is_stock, products

# Graph ops that multiply and add up.
PRODUCT_OPS = frozenset(
    {
        *("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "XlaEinsum"),
        *("SparseMatMul", "SparseTensorDenseMatMul", "XlaDot", "XlaDotV2"),
        *("Conv", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "XlaConvV2"),
        *("Conv2DBackpropInput", "Conv2DBackpropInputV2", "Conv3DBackpropInputV2"),
        *("CudnnRNN", "CudnnRNNV2", "CudnnRNNV3"),
        *("Lowprec>MatMul", "Lowprec>MatMulPasses", "Lowprec>Conv2D", "Lowprec>Conv2DPasses"),
    }
)
OPAQUE_OPS = frozenset(["PyFunc", "PyFuncStateless", "EagerPyFunc", "NumpyFunction"])
_STOPS = frozenset(["StopGradient", "PreventGradient"])


@dataclasses.dataclass
class Call:
    """One call of a layer: shapes as tuples (None where unknown), and its ops [first, last)."""

    path: str
    layer: object
    inputs: list
    named: dict
    output: tuple
    tensors: list
    first: int
    last: int
    products: list | None = None


@dataclasses.dataclass
class Trace:
    """The calls of a model's layers and what its graph says of them.

    Attributes:
        calls: of layers whose products are known, in order.
        needs_backward: for each call, whether its input depends on a trainable weight.
        is_last: for each call, whether no other call in `calls` uses what it computes.
        unknown: (path, class name, reason) of what is not known.
    """

    calls: list
    needs_backward: list
    is_last: list
    unknown: list


def layer_paths(model):
    """[(path, layer)] of every layer in a model, containers before what they contain.

    A path is the names from the model down, joined by "/"; a second layer of the same path gets
    "_2". A layer that stands in several places is listed once.
    """
    paths, seen, names = [], set(), {}

    def visit(owner, prefix):
        for layer in sublayers(owner):
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            path = f"{prefix}{layer.name}"
            names[path] = count = names.get(path, 0) + 1
            path = path if count == 1 else f"{path}_{count}"
            paths.append((path, layer))
            visit(layer, f"{path}/")

    visit(model, "")
    return paths


@contextlib.contextmanager
def instrumented(layers, around):
    """Within it, a call of a layer is ``around(path, layer, call, args, kwargs)``.

    Args:
        layers: [(path, layer)].
        around: returns what the call is to return, having called call(*args, **kwargs).
    """

    def wrap(path, layer, call):
        def wrapped(*args, **kwargs):
            return around(path, layer, call, args, kwargs)

        return wrapped

    replaced = []
    try:
        for path, layer in layers:
            # Past Keras's attribute tracking: the instance's attribute hides the method.
            object.__setattr__(layer, "call", wrap(path, layer, layer.call))
            replaced.append(layer)
        yield
    finally:
        for layer in replaced:
            object.__delattr__(layer, "call")


def trace(model, arguments):
    """The Trace of ``model(arguments, training=True)``.

    Args:
        model: a built Keras model.
        arguments: a structure of tf.TensorSpec of known shapes.
    """
    paths = layer_paths(model)
    calls, inside = [], []

    def around(path, layer, call, args, kwargs):
        graph = tf.compat.v1.get_default_graph()
        first = len(graph.get_operations())
        result = call(*args, **kwargs)
        if graph is root[0]:
            outputs = [t for t in tf.nest.flatten(result) if tf.is_tensor(t)]
            call = Call(
                path,
                layer,
                [_shape(t) for t in tf.nest.flatten(args) if tf.is_tensor(t)],
                {k: _shape(v) for k, v in kwargs.items() if tf.is_tensor(v)},
                _shape(outputs[0]) if outputs else (),
                [t for t in tf.nest.flatten((args, kwargs)) if tf.is_tensor(t)],
                first,
                len(graph.get_operations()),
            )
            inside.append(call)
        return result

    root = [None]

    def step(structure):
        inside.clear()  # a model that makes variables here is traced twice
        root[0] = tf.compat.v1.get_default_graph()
        return model(structure, training=True)

    try:
        with instrumented(paths, around):
            graph = tf.function(step, autograph=False).get_concrete_function(arguments).graph
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"model {model.name!r} cannot be called on inputs of shape {shapes_of(arguments)}: "
            f"{first_line(error)}"
        ) from error
    for call in sorted(inside, key=lambda c: (c.first, -c.last)):
        if any(c.first <= call.first and call.last <= c.last for c in calls):
            continue  # a part of a known layer, such as attention's projections
        if _known_output(call):
            call.products = products(call.layer, call)
        if call.products is not None:
            calls.append(call)
    operations = graph.get_operations()
    return Trace(
        calls,
        _depend_on_weights(model, graph, operations, calls),
        _are_last(operations, calls),
        _unknown(paths, inside, calls, operations, graph),
    )


def shapes_of(structure):
    """Shapes of a structure of tensors or specs, as text."""
    return ", ".join(str(tuple(t.shape)) for t in tf.nest.flatten(structure))


def first_line(error):
    """What an error says, without the call stack and arguments that Keras adds."""
    lines = [re.sub(r"\x1b\[\d+m", "", line).strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith("Exception encountered when")]
    return lines[0] if lines else type(error).__name__


def _shape(tensor):
    return tuple(tensor.shape) if tensor.shape.rank is not None else None


def _known_output(call):
    """Raises where a shape that counts is unknown; True."""
    shapes = [*call.inputs, *call.named.values(), call.output]
    if any(s is None or None in s for s in shapes) and has_known_products(call.layer):
        raise ValueError(
            f"{call.path} has an input or output of unknown shape {call.inputs or shapes} -> "
            f"{call.output}: give input_shape, such as input_shape=(time, features), or data"
        )
    return True


def _depend_on_weights(model, graph, operations, calls):
    """Whether the input of each call depends on a trainable weight, so that BWD is computed."""
    handles = {id(native(v).handle) for v in model.trainable_variables}
    trainable = {inside.ref() for outside, inside in graph.captures if id(outside) in handles}
    depends = {}
    for operation in operations:
        if operation.type in _STOPS:
            depends[operation] = False
        else:
            depends[operation] = any(t.ref() in trainable for t in operation.outputs) or any(
                depends.get(t.op, False) for t in operation.inputs
            )
    return [any(t.dtype.is_floating and depends.get(t.op, False) for t in c.tensors) for c in calls]


def _are_last(operations, calls):
    """Whether no other call uses what a call computes."""
    owner = {}
    for number, call in enumerate(calls):
        for operation in operations[call.first : call.last]:
            owner[operation] = number
    users = {}  # calls downstream of an op, up to two of them
    for operation in reversed(operations):
        downstream = set()
        for output in operation.outputs:
            for consumer in output.consumers():
                downstream |= users.get(consumer, set())
                if consumer in owner:
                    downstream.add(owner[consumer])
        own = owner.get(operation)
        users[operation] = set(sorted(downstream - {own})[:2]) | ({own} & downstream)
    return [
        not any(
            users.get(operation, set()) - {number}
            for operation in operations[call.first : call.last]
        )
        for number, call in enumerate(calls)
    ]


def _unknown(paths, inside, calls, operations, graph):
    """(path, class, reason) of layers whose products, if any, are not known."""
    found = []
    planned = {id(call.layer) for call in calls}
    covered = [False] * len(operations)
    for call in calls:
        covered[call.first : call.last] = [True] * (call.last - call.first)
    # The innermost call that an op lies in: later in this order, and so overwriting.
    owners = {}
    for call in sorted(inside, key=lambda c: (c.first, -c.last)):
        for index in range(call.first, call.last):
            owners[index] = call
    stray = {}
    for index, operation in enumerate(operations):
        if covered[index]:
            continue
        for kind in sorted(_products_of(operation, graph)):
            stray.setdefault(id(owners.get(index)), (owners.get(index), []))[1].append(kind)
    for call, kinds in stray.values():
        what = ", ".join(f"{kinds.count(k)} {k}" for k in sorted(set(kinds)))
        if call is None:
            found.append(("(model)", "", f"products outside layers: {what}"))
        else:
            name = type(call.layer).__name__
            found.append((call.path, name, f"products of a kind not known here: {what}"))
    listed = {path for path, _, _ in found}
    # A cell's products are those of its layer.
    found = [f for f in found if not any(f[0].startswith(f"{path}/") for path in listed)]
    called = {id(call.layer) for call in inside}
    parts = _parts(call.layer for call in calls)
    for path, layer in paths:
        if id(layer) in planned | parts or path in listed or isinstance(layer, tf.keras.Model):
            continue
        if has_known_products(layer) and id(layer) not in called:
            found.append((path, type(layer).__name__, "not called by the model"))
        elif not is_stock(type(layer)) and _own_weights(layer) and id(layer) in called:
            found.append((path, type(layer).__name__, "own weights, used in a way not known here"))
    return found


def _parts(layers):
    """ids of all layers inside `layers`."""
    ids = set()
    for layer in layers:
        ids |= {id(part) for _, part in layer_paths(layer)}
    return ids


def _own_weights(layer):
    """Trainable weights of a layer that no layer inside it has."""
    inner = {id(w) for _, part in layer_paths(layer) for w in part.trainable_weights}
    return [w for w in layer.trainable_weights if id(w) not in inner]


def _products_of(operation, graph):
    """Types of the product ops that an op is, or holds in a function that it calls."""
    if operation.type in PRODUCT_OPS | OPAQUE_OPS:
        return {operation.type}
    names = called_functions(operation.node_def)
    if not names:
        return set()
    library = {f.signature.name: f for f in graph.as_graph_def().library.function}
    found, seen = set(), set()
    while names:
        name = names.pop()
        if name in seen or name not in library:
            continue
        seen.add(name)
        for node in library[name].node_def:
            if node.op in PRODUCT_OPS | OPAQUE_OPS:
                found.add(node.op)
            names |= called_functions(node)
    return found


def called_functions(node):
    names = set()
    for value in node.attr.values():
        if value.HasField("func"):
            names.add(value.func.name)
        names |= {f.name for f in value.list.func}
    return names
