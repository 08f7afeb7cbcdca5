"""Plans of SavedModels, which hold a graph and no layers that Keras 3 could restore."""

import math
import pathlib

import tensorflow as tf

from tf_lowprec.analysis._tf_private import convert_variables_to_constants_v2
from tf_lowprec.analysis.gemms import BACKWARD, FORWARD, GRADIENT
from tf_lowprec.analysis.planner import Rules
from tf_lowprec.analysis.trace import OPAQUE_OPS, PRODUCT_OPS, called_functions
from tf_lowprec.analysis.vrr import check_batch_size

# Those that carry gradients, not products, are left out.
_PRODUCTS = frozenset(kind for kind in PRODUCT_OPS | OPAQUE_OPS if not kind.endswith("Passes"))


def plan_saved_model(path, batch_size, *, signature="serving_default", **rules):
    """The Plan of a SavedModel's products, from the graph of one of its signatures.

    Matrix products and convolutions of TensorFlow and of tf_lowprec are planned, each under the
    name that it has in the graph; any other product (einsum, loops of recurrent layers, operands
    of unknown size) is listed in `Plan.unknown`. All weights count as trainable.

    Args:
        path: the SavedModel's folder.
        batch_size: examples in a batch.
        signature: key of the function to plan.
        rules: operand, chunk, rule, cutoff, noise_to_signal, rounding, accumulator_exponent_bits
            and last_layer, as in `plan`.

    Raises:
        ValueError: no SavedModel, no such signature, no product.
    """
    path = pathlib.Path(path)
    if not (path / "saved_model.pb").exists():
        raise ValueError(f"model '{path}' is a folder without saved_model.pb")
    batch_size = check_batch_size(batch_size)
    rules = Rules(**rules)
    loaded = tf.saved_model.load(str(path))
    if signature not in loaded.signatures:
        names = ", ".join(map(repr, loaded.signatures)) or "none"
        raise ValueError(f"signature = {signature!r} is not in '{path}', which has {names}")
    operations = _graph(loaded.signatures[signature], batch_size).get_operations()
    lengths, unknown, macs = _lengths(operations)
    return rules.plan(path.name, batch_size, lengths, unknown, macs=macs)


def _graph(function, batch_size):
    """The function's graph with weights as constants and inputs of `batch_size`."""
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    graph = tf.Graph()
    with graph.as_default():
        feeds = {}
        for tensor in frozen.inputs:
            shape = [batch_size, *tensor.shape[1:]] if tensor.shape.rank else tensor.shape
            feeds[tensor.op.name] = tf.compat.v1.placeholder(tensor.dtype, shape)
        tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), input_map=feeds, name="")
    return graph


def _lengths(operations):
    """(lengths, unknown and macs as Rules.plan takes them)."""
    behind = _behind_weights(operations)
    before = _before_products(operations)
    lengths, unknown, macs = {}, [], {}
    for operation in operations:
        if operation.type in _PRODUCTS:
            product, reason = _product(operation)
        elif _calls_products(operation):
            product, reason = None, "products in a function that it calls"
        else:
            continue
        name = operation.name.removeprefix("StatefulPartitionedCall/")
        if product is None:
            unknown.append((name, operation.type, reason))
            continue
        layer = name.rpartition("/")[0] or name
        is_last = operation not in before
        passes = [FORWARD, GRADIENT]
        if operation in behind:
            passes.insert(1, BACKWARD)
        kernel = "kernel"
        while (layer, operation.type, kernel, FORWARD) in lengths:
            kernel += "'"
        for which in passes:
            lengths[layer, operation.type, kernel, which] = (product[which], is_last)
        macs[layer, kernel] = math.prod(_output(operation).shape) * product[FORWARD]
    return lengths, unknown, macs


def _product(operation):
    """({pass: length}, None), or (None, why it is not known)."""
    if operation.type not in _KINDS:
        return None, "a product of a kind not known here"
    shapes = [t.shape for t in list(operation.inputs)[:2]] + [_output(operation).shape]
    if not all(shape.is_fully_defined() for shape in shapes):
        return None, f"operands of unknown size, {shapes[0]} and {shapes[1]}"
    lengths = _KINDS[operation.type](operation, *(tuple(shape) for shape in shapes))
    return dict(zip((FORWARD, BACKWARD, GRADIENT), lengths)), None


def _output(operation):
    """What a product computes; of a dilated convolution, which TensorFlow takes from batches of
    images apart, the image that it puts together and cuts to size."""
    output = operation.outputs[0]
    at = output
    while len(at.consumers()) == 1 and at.consumers()[0].type in ("Squeeze", "BatchToSpaceND"):
        (consumer,) = at.consumers()
        at = consumer.outputs[0]
        if consumer.type == "BatchToSpaceND":
            return at
    return output


def _matmul(operation, a, b, y):
    attributes = operation.node_def.attr
    transposed = any(attributes[k].b for k in ("transpose_a", "adj_x") if k in attributes)
    # One product for all entries where b is one matrix.
    rows = math.prod(y[:-1]) if math.prod(b[:-2]) == 1 else y[-2]
    return a[-2] if transposed else a[-1], y[-1], rows


def _conv2d(operation, x, filters, y):
    # A filter has as many input channels as a group.
    groups = x[-1] // filters[2]
    window = filters[0] * filters[1]
    return window * filters[2], window * filters[3] // groups, math.prod(y[:-1])


def _depthwise(operation, x, filters, y):
    window = filters[0] * filters[1]
    return window, window * filters[3], math.prod(y[:-1])


_KINDS = {
    "MatMul": _matmul,
    "BatchMatMulV2": _matmul,
    "Lowprec>MatMul": _matmul,
    "Conv2D": _conv2d,
    "Lowprec>Conv2D": _conv2d,
    "DepthwiseConv2dNative": _depthwise,
}


def _behind_weights(operations):
    """Ops with an operand that depends on the signature's inputs and on a weight."""
    data, weighted, behind = set(), set(), set()
    for operation in operations:
        inputs = [t.op for t in operation.inputs]
        if operation.type == "Placeholder" or any(op in data for op in inputs):
            data.add(operation)
        if _is_weight(operation) or any(op in weighted for op in inputs):
            weighted.add(operation)
        if any(op in data and op in weighted for op in inputs):
            behind.add(operation)
    return behind


def _is_weight(operation):
    """Whether an op is a weight, which the graph holds as a constant; a lone number is none."""
    if operation.type != "Const":
        return False
    value = operation.outputs[0]
    return value.dtype.is_floating and (value.shape.num_elements() or 0) > 1


def _before_products(operations):
    """Ops whose result another product uses."""
    used = set()
    for operation in reversed(operations):
        consumers = {c for t in operation.outputs for c in t.consumers()}
        if any(c in used or c.type in _PRODUCTS for c in consumers):
            used.add(operation)
    return used


def _calls_products(operation):
    """Whether an op calls a function that multiplies."""
    if not called_functions(operation.node_def):
        return False
    library = {f.signature.name: f for f in operation.graph.as_graph_def().library.function}
    names, seen = called_functions(operation.node_def), set()
    while names:
        name = names.pop()
        if name in seen or name not in library:
            continue
        seen.add(name)
        for node in library[name].node_def:
            if node.op in _PRODUCTS:
                return True
            names |= called_functions(node)
    return False
