"""A training step of lp's layers whose matrix products run through the simulated array.

The layers, their gradients and the optimizer are tf_lowprec's own; only the exact products of
Accumulator.wide(), and their rounding, are taken from the RTL instead of the op.
"""

import contextlib
import dataclasses
import importlib
from unittest import mock

import numpy as np
import tensorflow as tf

import tf_lowprec as lp

# tf_lowprec.ops.matmul is the function of that name.
matmul_module = importlib.import_module("tf_lowprec.ops.matmul")


@dataclasses.dataclass(frozen=True)
class Product:
    """One product that ran through the array.

    Attributes:
        shape: (m, k, n).
        cycles: of the array.
        equal: its bits are those of lp.quantize(exact sums, random_bits = the LFSRs' words).
    """

    shape: tuple
    cycles: int
    equal: bool


@contextlib.contextmanager
def through_array(accelerator):
    """Within, eager lp.matmul under Accumulator.wide() multiplies and rounds on `accelerator`.

    Yields the list of Products, which grows. The output's format must be fixed point, as wide as
    the array's words; its rounding is that of the Gemm.
    """
    done = []
    exact = matmul_module.MatrixProduct.wide

    def wide(self, lhs, rhs, gemm):
        output, mode = gemm.output, gemm.rounding.value
        cut = gemm.lhs.fractional_bits + gemm.rhs.fractional_bits - output.fractional_bits
        a = np.array(lp.to_bits(lhs, gemm.lhs)).astype(np.int64)
        b = np.array(lp.to_bits(rhs, gemm.rhs)).astype(np.int64)
        a = a.T if self.transposes["transpose_a"] else a
        b = b.T if self.transposes["transpose_b"] else b
        result = accelerator.matmul(a, b, cut, mode)
        sums = exact(self, lhs, rhs, gemm).numpy()
        random = {"random_bits": result.random_bits} if mode == "stochastic" else {}
        want = np.array(lp.to_bits(lp.quantize(sums, output, mode, **random), output))
        shape = (*a.shape, b.shape[1])
        done.append(Product(shape, result.cycles, np.array_equal(want, result.c)))
        # What follows in lp rounds a number on the grid to itself. Where the sum was beyond the
        # range, a number beyond it keeps the straight-through gradient's mask as it is.
        values = np.ldexp(result.c.astype(np.float64), -output.fractional_bits)
        return tf.constant(np.where(result.beyond, 2 * values, values))

    with mock.patch.object(matmul_module.MatrixProduct, "wide", wide):
        yield done


def step(model, optimizer, images, labels):
    """One eager training step with the cross-entropy of logits; returns the loss."""
    loss_function = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        loss = loss_function(labels, model(images, training=True))
    variables = model.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
    return float(loss)


def compare(accelerator, rounding, images, labels, weights=None, outputs=None, units=(1000, 1000)):
    """A step of the MNIST DNN through the array, and by the ops alone, from the same weights.

    With stochastic rounding the ops draw other random numbers than the array's LFSRs, so that the
    weights after the step are compared only where rounding draws none; each product is compared,
    given the array's words, in either case.

    Args:
        accelerator: an Accelerator of 16-bit words.
        rounding: of all tensors but the weights' updates, which are stochastic.
        images, labels: a batch.
        weights, outputs: FixedPointFormats. Default <2,14> and <6,10>.

    Returns:
        (list of Products, whether all weights after the step are equal).
    """
    weights = weights or lp.FixedPointFormat(2, 14)
    outputs = outputs or lp.FixedPointFormat(6, 10)
    after = []
    products = []
    for simulated in (True, False):
        policy = lp.Policy.fixed_point(weights, rounding=rounding, activations=outputs)
        model = lp.models.mnist_dnn(policy, initial_std=0.1, units=units, seed=1)
        model.build((None, 28, 28))
        optimizer = lp.optimizers.LowPrecision(tf.keras.optimizers.SGD(0.1), weights, seed=3)
        with through_array(accelerator) if simulated else contextlib.nullcontext([]) as done:
            step(model, optimizer, images, labels)
        products += done
        after.append([v.numpy() for v in model.trainable_variables])
    return products, all(np.array_equal(x, y) for x, y in zip(*after))
