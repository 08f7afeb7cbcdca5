"""The formats of every layer's products, as the traced graph of a training step has them."""

import collections

import pytest
import tensorflow as tf
from compat import native
from layer_cases import each_case

import tf_lowprec as lp
from tf_lowprec.ops.streams import Stream


def narrow(mantissa_bits, chunk, rounding):
    return lp.Accumulator(lp.FloatFormat(6, mantissa_bits), chunk, rounding)


# A format, chunk and rounding of its own for each operand and pass.
POLICY = lp.Policy(
    lp.Gemm(lp.FP8_E4M3FN, lp.FP8_E5M2, narrow(5, 7, "nearest_even")),
    lp.Gemm(lp.FP6_E3M2FN, lp.FP6_E2M3FN, narrow(6, 5, "toward_zero"), lp.BF16),
    lp.Gemm(lp.FP4_E2M1FN, lp.FP16, narrow(7, None, "stochastic"), lp.DLFLOAT16),
)
PRODUCTS = {
    "Lowprec>MatMul",
    "Lowprec>Conv2D",
    "Lowprec>Conv2DBackpropInput",
    "Lowprec>Conv2DBackpropFilter",
}
ACCUMULATORS = {
    "forward": Stream.FORWARD_ACCUMULATOR,
    "backward": Stream.BACKWARD_ACCUMULATOR,
    "gradient": Stream.GRADIENT_ACCUMULATOR,
}


def nodes(function):
    """The nodes of a concrete function and of all functions that it reaches: loops, branches."""
    graph = function.graph.as_graph_def()
    library = {f.signature.name: f for f in graph.library.function}
    found, seen, open_ = list(graph.node), set(), list(graph.node)
    while open_:
        node = open_.pop()
        names = [v.func.name for v in node.attr.values() if v.WhichOneof("value") == "func"]
        for value in node.attr.values():
            names += [f.name for f in value.list.func]
        for name in names:
            if name in library and name not in seen:
                seen.add(name)
                found += library[name].node_def
                open_ += library[name].node_def
    return found


def rounded_before(node, index, found):
    """The format of the Lowprec>Quantize whose result, moved about, is an input of `node`."""
    producers = {n.name: n for n in found}
    while node.op != "Lowprec>Quantize":
        node, index = producers[node.input[index].split(":")[0]], 0
    return node.attr["format"].s


def described(node, found):
    """What a product's node says of its precision; operands in either order."""
    attributes = node.attr
    operands = []
    for index, name in enumerate("ab"):
        formats = attributes[f"{name}_formats"].list.s
        # Where batch axes may broadcast, operands are rounded and folded first.
        operand = formats[-1] if formats else rounded_before(node, index, found)
        operands.append(operand.decode())
    return (
        attributes["stream"].i,
        tuple(sorted(operands)),
        attributes["accumulator"].s.decode(),
        attributes["chunk"].i,
        attributes["rounding"].s.decode(),
        attributes["output_format"].s.decode(),
    )


def wanted(policy, name):
    gemm = getattr(policy, name)
    accumulator = gemm.accumulator
    # The FWD product leaves its output's rounding to an op of its own.
    output = "" if name == "forward" or gemm.output is None else gemm.output.spec
    return (
        int(ACCUMULATORS[name]),
        tuple(sorted([gemm.lhs.spec, gemm.rhs.spec])),
        accumulator.format.spec,
        accumulator.chunk or 0,
        accumulator.rounding.value,
        output,
    )


@each_case
@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown"])
def test_every_product_has_its_pass_formats(case, unknown):
    layer = case.built(precision=POLICY)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(case.call(layer, x, training=True))
        return tape.gradient(loss, [x, *(native(v) for v in layer.trainable_variables)])

    shape = [None, *case.shape[1:]] if unknown else case.shape
    found = nodes(step.get_concrete_function(tf.TensorSpec(shape)))
    want = collections.Counter()
    # Keras takes the first step once more, to see its shape: TensorFlow prunes it.
    want[wanted(POLICY, "forward")] += case.steps
    for name in ACCUMULATORS:
        want[wanted(POLICY, name)] += case.gemms
        want[wanted(POLICY.for_activations(), name)] += case.products
    assert collections.Counter(described(n, found) for n in found if n.op in PRODUCTS) == +want
    others = {"MatMul", "BatchMatMulV2", "Conv2D", "Conv2DBackpropInput", "Einsum"}
    others |= {"Conv2DBackpropFilter", "DepthwiseConv2dNative"}
    assert not others & {n.op for n in found}
