"""lp.conv2d with narrow accumulators: modes, empty tensors, bad input, and the layer."""

import numpy as np
import pytest
import tensorflow as tf
from cases import assert_same_bits
from ops.test_conv2d_narrow import SEED, check, convolve, expected, policy_of

import tf_lowprec as lp

GEMM = lp.Gemm(
    lp.FP8_E5M2,
    lp.FP8_E4M3FN,
    lp.Accumulator(lp.FloatFormat(6, 5), 6, "stochastic"),
    lp.BF16,
    "stochastic",
)
POLICY = policy_of(GEMM)
NEAREST = lp.Policy.fp8(9)
CASES = [
    {"strides": 2},
    {"groups": 3, "padding": ((2, 0), (0, 1))},
    {"dilations": (1, 2), "padding": "VALID"},
]


def operands(options, batch=2):
    rng = np.random.default_rng(1)
    groups = options.get("groups", 1)
    x, w = (
        rng.normal(size=s).astype(np.float32) for s in ((batch, 5, 6, 6), (3, 2, 6 // groups, 3))
    )
    y = lp.conv2d(x, w, NEAREST, **options)
    return x, w, rng.normal(size=y.shape).astype(np.float32)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_runs_everywhere(run, options):
    arrays = operands(options)
    passes = run(lambda x, w, dy: convolve(x, w, dy, POLICY, **options))
    got = passes(*(tf.constant(v) for v in arrays))
    for g, want in zip(got, expected(*arrays, POLICY, **options)):
        assert_same_bits(g, want)


@pytest.mark.parametrize("known", [[None, 5, 6, 6], [None, None, None, 6], [None] * 4, None])
def test_shapes_that_show_at_run_time_only(known):
    options = {"strides": 2, "padding": ((1, 2), (0, 1))}
    arrays = operands(options)
    specs = [tf.TensorSpec(known and known[: v.ndim]) for v in arrays]
    specs[0] = tf.TensorSpec(known or [None] * 4)
    specs[1] = tf.TensorSpec(arrays[1].shape)
    specs[2] = tf.TensorSpec([None] * 4)
    passes = tf.function(
        lambda x, w, dy: convolve(x, w, dy, POLICY, **options), input_signature=specs
    )
    for batch in (2, 1):
        arrays = operands(options, batch)
        for g, want in zip(passes(*arrays), expected(*arrays, POLICY, **options)):
            assert_same_bits(g, want)


def test_static_shapes():
    spec = tf.TensorSpec([None, 7, 8, 4])

    @tf.function(input_signature=[spec])
    def passes(x):
        w = tf.ones((3, 3, 2, 6))
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = lp.conv2d(x, w, NEAREST, strides=(2, 3), groups=2)
        assert y.shape.as_list() == [None, 4, 3, 6]
        dx, dw = tape.gradient(y, [x, w])
        assert dx.shape[1:] == (7, 8, 4) and dw.shape == (3, 3, 2, 6)
        return dx

    assert passes(tf.ones((2, 7, 8, 4))).shape == (2, 7, 8, 4)


# x, filters and options where a sum has no terms, or there is nothing to sum up.
EMPTY = {
    "no images": ((0, 5, 5, 4), (3, 3, 4, 2), {}),
    "filter larger than the image": ((2, 3, 4, 1), (5, 5, 1, 2), {"padding": "VALID"}),
    "filter wider than the image": ((2, 6, 4, 1), (5, 5, 1, 2), {"padding": "VALID"}),
    "dilated filter larger than the image": (
        (1, 4, 4, 2),
        (3, 3, 2, 2),
        {"padding": "VALID", "dilations": 2},
    ),
    "no input channels": ((1, 3, 3, 0), (3, 3, 0, 2), {}),
    "no output channels": ((1, 3, 3, 2), (3, 3, 2, 0), {}),
    "no rows": ((1, 0, 3, 2), (3, 3, 2, 2), {}),
    "no columns": ((1, 3, 0, 2), (3, 3, 2, 2), {}),
    "no rows but padding": ((1, 0, 3, 2), (2, 2, 2, 2), {"padding": ((2, 2), (0, 0))}),
}


@pytest.mark.parametrize("x_shape, w_shape, options", EMPTY.values(), ids=EMPTY.keys())
@pytest.mark.parametrize("chunk", [None, 3])
def test_empty_tensors_and_sums(x_shape, w_shape, options, chunk):
    gemm = lp.Gemm(
        lp.FP8_E5M2,
        lp.FP8_E5M2,
        lp.Accumulator(lp.FloatFormat(6, 5), chunk, "stochastic"),
        lp.BF16,
        "stochastic",
    )
    ones = lambda shape: np.ones(shape, np.float32)  # noqa: E731
    got = check(ones(x_shape), ones(w_shape), ones, policy_of(gemm), **options)
    assert not any(np.any(v.numpy().view(np.uint32)) for v in got)


IMAGES, FILTERS = np.zeros((1, 5, 5, 4), np.float32), np.zeros((3, 3, 4, 2), np.float32)


@pytest.mark.parametrize(
    "x, filters, options, message",
    [
        (IMAGES.astype(int), FILTERS, {}, "x has dtype int64"),
        (IMAGES[0], FILTERS, {}, "four axes"),
        (IMAGES, FILTERS[0], {}, "four axes"),
        (IMAGES[..., :3], FILTERS, {}, "do not match"),
        (IMAGES, FILTERS, {"groups": 2}, "do not match"),
        (IMAGES[..., :12], FILTERS, {"groups": 3}, "groups = 3"),
        (IMAGES, FILTERS, {"groups": 0}, "groups = 0"),
        (IMAGES, FILTERS, {"strides": (1, 0)}, "strides"),
        (IMAGES, FILTERS, {"dilations": -1}, "dilations = -1"),
        (IMAGES, FILTERS, {"padding": "FULL"}, "padding = 'FULL'"),
        (IMAGES, FILTERS, {"padding": ((1, 1),)}, "padding"),
        (IMAGES, FILTERS, {"padding": ((1, 1), (0, -1))}, "padding"),
        (IMAGES, FILTERS, {"padding": ((1, 1), (0, 1.5))}, "padding"),
        (IMAGES, FILTERS, {"seed": (1, 2, 3)}, "seed"),
    ],
)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_bad_input_is_named(x, filters, options, message, mode):
    call = lambda: lp.conv2d(x, filters, POLICY, **{"seed": SEED, **options})  # noqa: E731
    with pytest.raises(ValueError, match=message):
        (tf.function(call) if mode == "graph" else call)()


# Numbers whose sizes do not fit 64 bits, or no memory.
@pytest.mark.parametrize(
    "options",
    [
        {"padding": ((2**40, 0), (2**40, 0))},
        {"padding": ((2**62, 2**62), (0, 0))},
        {"dilations": 2**62},
        {"strides": 2**63 - 1},
    ],
    ids=str,
)
def test_absurd_sizes_are_refused(options):
    with pytest.raises((ValueError, tf.errors.OpError)):
        lp.conv2d(IMAGES, FILTERS, NEAREST, **options)


@pytest.mark.parametrize("channels", [3, 8])
def test_channels_that_show_at_run_time_only(channels):
    function = tf.function(
        lambda x: lp.conv2d(x, FILTERS, NEAREST), input_signature=[tf.TensorSpec([None] * 4)]
    )
    assert function(IMAGES).shape == (1, 5, 5, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="do not match"):
        function(np.zeros((1, 5, 5, channels), np.float32))


@pytest.mark.parametrize("shape", [(1, 4, 5, 2), (1, 5, 5, 4), (2, 5, 5, 2), (5, 5, 2)])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_errors_of_another_shape_are_refused(shape, mode):
    """What a tape lets through, the ops check."""
    from tf_lowprec.ops._library import ops

    attributes = {
        "seed": [0, 0],
        "strides": [1, 1],
        "dilations": [1, 1],
        "padding": "SAME",
        "accumulator": lp.FloatFormat(6, 5).spec,
    }
    dy = np.zeros(shape, np.float32)
    calls = [
        lambda dy: ops.lowprec_conv2d_backprop_input(
            dy=dy, filters=FILTERS, sizes=[1, 5, 5, 4], **attributes
        ),
        lambda dy: ops.lowprec_conv2d_backprop_filter(
            x=IMAGES, dy=dy, sizes=[3, 3, 4, 2], **attributes
        ),
    ]
    for call in calls:
        if mode == "graph":
            call = tf.function(call, input_signature=[tf.TensorSpec(None)])
        with pytest.raises(tf.errors.InvalidArgumentError, match="dy"):
            call(dy)


@pytest.mark.parametrize("of", ["x", "filters"])
def test_second_derivatives_are_refused_by_name(of):
    x, filters = tf.ones((1, 4, 4, 2)), tf.ones((3, 3, 2, 2))
    target = {"x": x, "filters": filters}[of]
    with tf.GradientTape() as outer:
        outer.watch([x, filters])
        with tf.GradientTape() as inner:
            inner.watch(target)
            y = tf.reduce_sum(lp.conv2d(x, filters, NEAREST) ** 2)
        first = inner.gradient(y, target)
    with pytest.raises(NotImplementedError, match="Lowprec>Conv2DBackprop.* has no gradient"):
        outer.gradient(first, [x, filters])


def small_model(policy):
    return tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 3)),
            lp.layers.Conv2D(4, 3, strides=2, padding="same", precision=policy, seed=1),
            tf.keras.layers.ReLU(),
            lp.layers.Conv2D(4, 3, groups=2, dilation_rate=(1, 1), precision=policy, seed=2),
            tf.keras.layers.GlobalAveragePooling2D(),
        ]
    )


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_layers_train_and_round_trip(tmp_path, rounding):
    policy = lp.Policy.fp8((5, 6, 7), chunk=(64, None, 16), accumulator_rounding=rounding)
    model = small_model(policy)
    model.compile(tf.keras.optimizers.SGD(0.5), "mse")
    rng = np.random.default_rng(2)
    x, y = (rng.normal(size=s).astype(np.float32) for s in ((6, 8, 8, 3), (6, 4)))
    before = model.get_weights()
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    layers = [layer for layer in loaded.layers if isinstance(layer, lp.layers.Conv2D)]
    assert [layer.precision for layer in layers] == [policy] * 2
    for _ in range(2):
        losses = [m.train_on_batch(x, y) for m in (model, loaded)]
        assert np.isfinite(losses[0]) and losses[0] == losses[1]
    after = model.get_weights()
    assert all(np.any(a != b) for a, b in zip(before, after) if a.ndim == 4)
    for a, b in zip(after, loaded.get_weights()):
        np.testing.assert_array_equal(a, b)

    model.save(tmp_path / "trained.keras")
    loaded = tf.keras.models.load_model(tmp_path / "trained.keras")
    assert_same_bits(loaded(x), model(x).numpy())
