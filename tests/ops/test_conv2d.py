"""lp.conv2d in fixed point against sums over explicit patches, in all three passes."""

import numpy as np
import pytest
import tensorflow as tf
from ops.test_matmul import as_float, convert, on_grid

import tf_lowprec as lp

Q8 = lp.FixedPointFormat(2, 6)
OUT = lp.FixedPointFormat(10, 8)
GEMM = lp.Gemm(Q8, Q8, lp.Accumulator.wide(), OUT)


def same_pads(extent, kernel, stride, dilation):
    reach = (kernel - 1) * dilation + 1
    total = max((-(-extent // stride) - 1) * stride + reach - extent, 0)
    return total // 2, total - total // 2


def loops(x, w, dy, strides, dilations, pads, groups):
    """(y, dx, dw) by the definition, on integers. dy=None gives y only."""
    batch, height, width, _ = x.shape
    kh, kw, cin, cout = w.shape
    (top, bottom), (left, right) = pads
    oh = (height + top + bottom - (kh - 1) * dilations[0] - 1) // strides[0] + 1
    ow = (width + left + right - (kw - 1) * dilations[1] - 1) // strides[1] + 1
    y = np.zeros((batch, oh, ow, cout), np.int64)
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    per_group = cout // groups
    for i in range(oh):
        for j in range(ow):
            for p in range(kh):
                for q in range(kw):
                    r = i * strides[0] + p * dilations[0] - top
                    c = j * strides[1] + q * dilations[1] - left
                    if not (0 <= r < height and 0 <= c < width):
                        continue
                    for g in range(groups):
                        ins = slice(g * cin, (g + 1) * cin)
                        outs = slice(g * per_group, (g + 1) * per_group)
                        y[:, i, j, outs] += x[:, r, c, ins] @ w[p, q, :, outs]
                        if dy is not None:
                            dx[:, r, c, ins] += dy[:, i, j, outs] @ w[p, q, :, outs].T
                            dw[p, q, :, outs] += x[:, r, c, ins].T @ dy[:, i, j, outs]
    return y, dx, dw


CASES = {
    "plain": {},
    "valid": {"padding": "VALID"},
    "strides": {"strides": 2},
    "uneven strides": {"strides": (1, 3), "padding": "VALID"},
    "dilations": {"dilations": (2, 1)},
    "dilations valid": {"dilations": 2, "padding": "VALID"},
    "explicit": {"padding": ((1, 0), (2, 3))},
    "groups": {"groups": 2},
    "depthwise": {"groups": 4, "strides": 2},
    "groups and dilations": {"groups": 2, "dilations": 2},
    "one by one": {"kernel": (1, 1)},
    "even kernel": {"kernel": (2, 4), "strides": 2},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_all_three_passes_are_exact_sums_rounded_once(run, case):
    case = {"kernel": (3, 3), "strides": 1, "dilations": 1, "groups": 1, **case}
    kernel, groups = case.pop("kernel"), case["groups"]
    rng = np.random.default_rng(0)
    x = on_grid(rng, (2, 7, 8, 4), Q8)
    w = on_grid(rng, (*kernel, 4 // groups, 4), Q8)
    strides, dilations = (np.broadcast_to(case[n], 2) for n in ("strides", "dilations"))
    padding = case.get("padding", "SAME")
    pads = {
        "SAME": [same_pads(e, k, s, d) for e, k, s, d in zip((7, 8), kernel, strides, dilations)],
        "VALID": [(0, 0), (0, 0)],
    }.get(padding if isinstance(padding, str) else None, padding)
    y = loops(x, w, None, strides, dilations, pads, groups)[0]
    dy = on_grid(rng, y.shape, Q8)
    want = loops(x, w, dy, strides, dilations, pads, groups)

    @run
    def passes(x, w, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = lp.conv2d(x, w, GEMM, **case)
        return y, *tape.gradient(y, [x, w], output_gradients=dy)

    got = passes(*(tf.constant(as_float(v, Q8)) for v in (x, w, dy)))
    for name, g, exact in zip(("y", "dx", "dfilters"), got, want):
        np.testing.assert_array_equal(g, convert(exact, 12, OUT), err_msg=name)


def test_native_policy_is_tf_conv2d():
    x, w = tf.random.normal((2, 9, 9, 3)), tf.random.normal((3, 3, 3, 5))
    got = lp.conv2d(x, w, lp.Policy.float32(), strides=2)
    np.testing.assert_array_equal(got, tf.nn.conv2d(x, w, 2, "SAME"))


def test_unknown_batch_and_image_size():
    rng = np.random.default_rng(0)
    x, w = (as_float(on_grid(rng, s, Q8), Q8) for s in ((2, 7, 8, 4), (3, 3, 4, 4)))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 4]), tf.TensorSpec(w.shape)])
    def passes(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = lp.conv2d(x, w, GEMM, strides=2)
        return y, *tape.gradient(y, [x, w])

    with tf.GradientTape() as tape:
        xs, ws = tf.constant(x), tf.constant(w)
        tape.watch([xs, ws])
        y = lp.conv2d(xs, ws, GEMM, strides=2)
    for got, want in zip(passes(x, w), [y, *tape.gradient(y, [xs, ws])]):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "ours, tensorflows",
    [
        ({"strides": (1, 2)}, {"strides": [1, 1, 2, 1]}),
        ({"dilations": (2, 1)}, {"dilations": np.array([1, 2, 1, 1])}),
        ({"padding": ((1, 0), (2, 3))}, {"padding": [[0, 0], [1, 0], [2, 3], [0, 0]]}),
    ],
    ids=["strides", "dilations", "padding"],
)
def test_tensorflows_spelling_means_the_same(ours, tensorflows):
    rng = np.random.default_rng(0)
    x, w = (as_float(on_grid(rng, s, Q8), Q8) for s in ((2, 7, 8, 4), (3, 3, 4, 4)))
    np.testing.assert_array_equal(
        lp.conv2d(x, w, GEMM, **tensorflows), lp.conv2d(x, w, GEMM, **ours)
    )


IMAGES, FILTERS = np.zeros((1, 5, 5, 4), np.float32), np.zeros((3, 3, 4, 2), np.float32)


@pytest.mark.parametrize(
    "x, filters, options, message",
    [
        (IMAGES.astype(int), FILTERS, {}, "x has dtype int64"),
        (IMAGES, FILTERS.astype(np.float64), {}, "filters has dtype float64"),
        (IMAGES[0], FILTERS, {}, "four axes"),
        (IMAGES[..., :3], FILTERS, {}, "do not match"),
        (IMAGES, FILTERS, {"strides": 0}, "strides = 0"),
        (IMAGES, FILTERS, {"strides": None}, "strides = None"),
        (IMAGES, FILTERS, {"dilations": 2.0}, "dilations = 2.0"),
        (IMAGES, FILTERS, {"dilations": (1, 2, 3)}, "dilations"),
        (IMAGES, FILTERS, {"padding": "FULL"}, "padding = 'FULL'"),
        (IMAGES, FILTERS, {"padding": ((1, -1), (0, 0))}, "padding"),
        (
            IMAGES,
            FILTERS,
            {"strides": [2, 1, 1, 1]},
            r"strides = \[2, 1, 1, 1\] must be .*width, 1",
        ),
        (IMAGES, FILTERS, {"dilations": [1, 1, 1, 2]}, r"dilations = \[1, 1, 1, 2\]"),
        (IMAGES, FILTERS, {"padding": [[0, 0], [1, 1], [1, 1], [0, 1]]}, r"padding = .*\[0, 0\]\]"),
        (IMAGES, FILTERS, {"padding": [[0, 0], [1, 1], [0, 0]]}, "padding = "),
        (IMAGES, FILTERS, {"groups": 3}, "groups = 3"),
    ],
)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_bad_input_is_named(x, filters, options, message, mode):
    call = lambda: lp.conv2d(x, filters, GEMM, **options)  # noqa: E731
    with pytest.raises(ValueError, match=message):
        (tf.function(call) if mode == "graph" else call)()


@pytest.mark.parametrize(
    "policy",
    [
        lp.Policy.fp8(9),
        lp.Policy.fixed_point(lp.FixedPointFormat(2, 6), rounding="nearest_even"),
        lp.Policy.bf16(),
        lp.Policy.hopper(),
        lp.Policy.mx(),
        lp.Policy.float32(),
    ],
    ids=["narrow", "wide", "native", "aligned", "mx", "float32"],
)
@pytest.mark.parametrize(
    "x, filters, y",
    [
        ((1, 5, 5, 2), (7, 7, 2, 4), (1, 0, 0, 4)),
        ((1, 5, 5, 0), (3, 3, 0, 4), (1, 3, 3, 4)),
        ((1, 5, 5, 2), (3, 3, 2, 0), (1, 3, 3, 0)),
        ((1, 5, 5, 2), (0, 3, 2, 4), (1, 6, 3, 4)),
    ],
    ids=["large window", "no channels", "no outputs", "no taps"],
)
def test_nothing_to_sum_gives_zeros_whatever_the_policy(policy, x, filters, y):
    x, filters = tf.ones(x), tf.ones(filters)
    with tf.GradientTape() as tape:
        tape.watch([x, filters])
        got = lp.conv2d(x, filters, policy, padding="VALID")
    assert got.shape == y and not np.any(got)
    dx, dfilters = tape.gradient(got, [x, filters])
    assert dx.shape == x.shape and dfilters.shape == filters.shape
    assert not np.any(dx) and not np.any(dfilters)


@pytest.mark.parametrize("groups", [1, 4], ids=["plain", "depthwise"])
@pytest.mark.parametrize("shape", [(0, 7, 9, 4), (1, 2, 2, 4)], ids=["batch", "image"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_native_gradient_of_nothing_is_zero(groups, shape, mode):
    filters = tf.ones((3, 3, 4 // groups, 4))

    def dfilters(x):
        with tf.GradientTape() as tape:
            tape.watch(filters)
            y = lp.conv2d(x, filters, lp.Policy.bf16(), padding="VALID", groups=groups)
        return tape.gradient(y, filters)

    if mode == "graph":
        dfilters = tf.function(dfilters, input_signature=[tf.TensorSpec([None, None, None, 4])])
    used = [tf.fill(filters.shape, 7.0 + i) for i in range(50)]
    del used  # memory that is not zero
    np.testing.assert_array_equal(dfilters(tf.zeros(shape)), tf.zeros(filters.shape))


@pytest.mark.parametrize("groups", [1, 4], ids=["plain", "depthwise"])
@pytest.mark.parametrize("known", [(None, None), (2, 2)], ids=["unknown", "known"])
@pytest.mark.parametrize("policy", [lp.Policy.float32(), lp.Policy.bf16()], ids=["float32", "bf16"])
def test_native_result_of_nothing_has_its_shape(policy, known, groups):
    filters = tf.ones((3, 3, 4 // groups, 4))

    @tf.function(input_signature=[tf.TensorSpec([None, *known, 4])])
    def convolve(x):
        return lp.conv2d(x, filters, policy, padding="VALID", groups=groups)

    for height, width in [(7, 9), (2, 2)] if known[0] is None else [known]:
        for batch in (0, 1):
            y = convolve(tf.zeros((batch, height, width, 4)))
            assert y.shape == (batch, max(height - 2, 0), max(width - 2, 0), 4)


def test_empty_batch_gives_empty_result_and_zero_gradient():
    x, w = tf.zeros((0, 5, 5, 4)), tf.constant(FILTERS)
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = lp.conv2d(x, w, GEMM)
    assert y.shape == (0, 5, 5, 2)
    np.testing.assert_array_equal(tape.gradient(y, w), FILTERS)
