"""Virtual learners do what as many machines would, to the bit."""

import adacomp_oracle as oracle
import numpy as np
import pytest
import tensorflow as tf
from test_training import data, dense_model

import tf_lowprec as lp

AdaComp, VirtualLearners = lp.distribute.AdaComp, lp.distribute.VirtualLearners
LOSS = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def learners(number, compression, optimizer=None):
    model = dense_model()
    return model, VirtualLearners(
        model, optimizer or tf.keras.optimizers.SGD(0.05, momentum=0.9), LOSS, number, compression
    )


def train(virtual, epochs=6, batch=64):
    x, y = data()
    return [
        float(
            np.mean(
                [
                    virtual.train_step(x[i : i + batch], y[i : i + batch])
                    for i in range(0, 512, batch)
                ]
            )
        )
        for _ in range(epochs)
    ]


@pytest.mark.parametrize("number", [1, 8])
@pytest.mark.parametrize("compression", [None, AdaComp(50), AdaComp(50, encoding="entropy")])
def test_learns(number, compression):
    model, virtual = learners(number, compression)
    losses = train(virtual)
    assert losses[-1] < 0.6 * losses[0]
    statistics = virtual.statistics()
    assert all(s.steps == 48 and s.gradients == 48 * number for s in statistics)
    kernels = [s for s in statistics if s.num_elements >= 256]
    if compression is None:
        assert statistics.ratio == 1
    else:
        assert all(s.ratio > 4 and 0 < s.sent_per_bin < 25 for s in kernels)


def quadratic(labels, outputs):
    """Its gradient for the kernel is the mean of x * labels, whatever the weights."""
    return tf.reduce_mean(tf.reduce_sum(labels * outputs, axis=1))


def linear_model(n):
    model = tf.keras.Sequential(
        [
            tf.keras.Input((1,)),
            tf.keras.layers.Dense(n, use_bias=False, kernel_initializer="zeros"),
        ]
    )
    return model


@pytest.mark.parametrize("number", [1, 4])
def test_bits_of_the_twin(number):
    n, rng = 400, np.random.default_rng(0)
    model = linear_model(n)
    sgd = tf.keras.optimizers.SGD(1.0)
    virtual = VirtualLearners(model, sgd, quadratic, number, AdaComp(50))
    residues = np.zeros((number, n), np.float32)
    kernel, size = np.zeros(n, np.float32), 0
    for _ in range(4):
        gradients = rng.normal(size=(number, n)).astype(np.float32)
        total = np.zeros(n, np.float32)
        for i in range(number):
            packet, residues[i] = oracle.encode(gradients[i], residues[i], 50)
            total = total + oracle.decode(packet, n)
            size += packet.nbytes
        kernel = kernel - total / np.float32(number)
        virtual.train_step(np.ones((number, 1), np.float32), gradients)
        np.testing.assert_array_equal(model.get_weights()[0].ravel(), kernel)
        half = int(virtual.half.numpy()) * number
        np.testing.assert_array_equal(virtual.residues[0][half : half + number], residues)
    assert virtual.statistics().bytes == size


def test_gradient_that_is_not_finite_leaves_all_residues():
    model = linear_model(300)
    virtual = VirtualLearners(model, tf.keras.optimizers.SGD(1.0), quadratic, 4, AdaComp(50))
    ones, labels = np.ones((4, 1), np.float32), np.random.default_rng(0).normal(size=(4, 300))
    labels = labels.astype(np.float32)
    virtual.train_step(ones, labels)

    def residues():
        half = int(virtual.half.numpy()) * 4
        return virtual.residues[0].numpy()[half : half + 4]

    before = residues()
    labels[2, 7] = np.inf
    virtual.train_step(ones, labels)
    np.testing.assert_array_equal(residues(), before)
    assert np.all(np.isnan(model.get_weights()[0]))
    assert [s.skipped for s in virtual.statistics()] == [1]


def test_checkpoint_goes_on_with_the_same_bits(tmp_path):
    def made():
        optimizer = tf.keras.optimizers.Adam(0.01)
        model, virtual = learners(4, AdaComp(50), optimizer)
        return model, virtual, tf.train.Checkpoint(model=model, opt=optimizer, learners=virtual)

    model, virtual, checkpoint = made()
    train(virtual, 1)
    path = checkpoint.write(str(tmp_path / "checkpoint"))
    train(virtual, 1)
    again, resumed, checkpoint = made()
    checkpoint.read(path)
    train(resumed, 1)
    for got, want in zip(again.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(got, want)


def test_batches_of_two_sizes():
    _, virtual = learners(4, AdaComp(50))
    x, y = data()
    for batch in (64, 32, 64):
        assert np.isfinite(virtual.train_step(x[:batch], y[:batch]))


def test_regularizers_count():
    """The gradient of the loss is 0, and that of the regularizer 2 * 0.25 * weights."""
    model = tf.keras.Sequential(
        [
            tf.keras.Input((1,)),
            tf.keras.layers.Dense(
                300,
                use_bias=False,
                kernel_initializer="ones",
                kernel_regularizer=tf.keras.regularizers.L2(0.25),
            ),
        ]
    )
    virtual = VirtualLearners(model, tf.keras.optimizers.SGD(1.0), quadratic, 4)
    loss = virtual.train_step(np.ones((4, 1), np.float32), np.zeros((4, 300), np.float32))
    assert loss == 0.25 * 300
    np.testing.assert_array_equal(model.get_weights()[0], np.full((1, 300), 0.5))


@pytest.mark.parametrize("number", [1, 2, 8])
def test_moving_statistics_are_the_mean_of_the_learners(number):
    model = tf.keras.Sequential(
        [tf.keras.Input((1,)), tf.keras.layers.BatchNormalization(momentum=0.5)]
    )
    virtual = VirtualLearners(
        model, tf.keras.optimizers.SGD(0.0), lambda labels, outputs: tf.reduce_mean(outputs), number
    )
    x = np.arange(16, dtype=np.float32)[:, None]
    for _ in range(2):
        virtual.train_step(x, x)
    mean, variance = model.get_weights()[2:]
    within = np.mean([part.var() for part in np.split(x, number)])
    np.testing.assert_allclose(mean, [0.75 * x.mean()], rtol=1e-6)
    np.testing.assert_allclose(variance, [0.25 + 0.75 * within], rtol=1e-6)


def test_optimizer_that_scales_the_loss_is_refused():
    scaled = lp.optimizers.loss_scaling(tf.keras.optimizers.SGD(0.05), 128.0)
    with pytest.raises(ValueError, match="scales the loss"):
        learners(2, None, scaled)


def test_any_other_method():
    def halves(name, shape):
        """Sends half of what there is, and says that it takes a byte."""
        if "kernel" not in name:
            return None
        return lambda g, r: ((g + r) / 2, (g + r) / 2, 1, g.shape[0], False)

    _, virtual = learners(2, halves)
    losses = train(virtual)
    assert losses[-1] < 0.7 * losses[0]
    assert {s.bytes for s in virtual.statistics() if "kernel" in s.name} == {48 * 2}


@pytest.mark.parametrize(
    "arguments, word", [((0, None), "learners = 0"), ((2.5, None), "2.5"), ((2, 50), "= 50")]
)
def test_wrong_argument(arguments, word):
    with pytest.raises(ValueError, match=word):
        learners(*arguments)


def test_batch_that_cannot_be_shared():
    _, virtual = learners(4, None)
    with pytest.raises(ValueError, match="x has 6 examples.*4 learners"):
        virtual.train_step(np.zeros((6, 8)), np.zeros(6))


X, Y = np.zeros((8, 8), np.float32), np.zeros(8, np.int32)


@pytest.mark.parametrize(
    "x, y, words",
    [
        (X, np.zeros(16, np.int32), ["y has 16 examples", "as many as x, 8"]),
        (X, Y[:4], ["y has 4 examples"]),
        (X, Y[:1], ["y has 1 examples"]),
        (X, {"a": Y}, ["y is a dict", "one array"]),
        (X, None, ["y is a NoneType", "one array"]),
        (X, 3.0, ["y is one number"]),
        ([X, X], Y, ["x is a list of arrays", "one input"]),
        ({"a": X}, Y, ["x is a dict", "one array"]),
        (3.0, Y, ["x is one number", "first axis"]),
    ],
)
def test_batch_that_is_none(x, y, words):
    _, virtual = learners(4, None)
    with pytest.raises(ValueError) as raised:
        virtual.train_step(x, y)
    assert all(word in str(raised.value) for word in words)


def learner_of(loss):
    return VirtualLearners(dense_model(), tf.keras.optimizers.SGD(0.05), loss, 4)


def test_loss_that_is_no_number():
    virtual = learner_of(lambda labels, outputs: tf.reduce_sum(outputs, axis=1))
    with pytest.raises(ValueError, match=r"loss returned the shape \(.*tf.reduce_mean"):
        virtual.train_step(X, Y)


@pytest.mark.parametrize("loss", ["no such loss", None, 3])
def test_loss_that_is_none(loss):
    with pytest.raises(ValueError, match=f"loss = {loss!r} .*tf.keras.losses"):
        learner_of(loss)


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_loss_by_name(shape):
    """Labels without the outputs' last axis are not broadcast."""
    model = linear_model(1)
    model.set_weights([np.ones((1, 1), np.float32)])
    virtual = VirtualLearners(model, tf.keras.optimizers.SGD(0.0), "mse", 2)
    x = np.arange(8, dtype=np.float32)[:, None]
    assert virtual.train_step(x, x.reshape(shape) + 3) == 9


def test_warm_up_is_dense(tmp_path):
    """And leaves the residues; a checkpoint knows how much of it is done."""

    def made(compression):
        model, virtual = learners(4, compression)
        return model, virtual, tf.train.Checkpoint(model=model, learners=virtual)

    x, y = data(64)
    model, virtual, checkpoint = made(AdaComp(50, warmup_steps=2))
    dense, without, _ = made(None)
    for steps in (1, 2):
        virtual.train_step(x, y)
        without.train_step(x, y)
        for got, want in zip(model.get_weights(), dense.get_weights()):
            np.testing.assert_array_equal(got, want)
        assert not any(np.any(residues) for residues in virtual.residues)
        for s, want in zip(virtual.statistics(), without.statistics()):
            assert (s.steps, s.compressed, s.sent, s.bytes) == (steps, 0, 0, want.bytes)
            assert s.gradients == 4 * steps
    path = checkpoint.write(str(tmp_path / "checkpoint"))
    _, resumed, checkpoint = made(AdaComp(50, warmup_steps=2))
    checkpoint.read(path)
    for them in (virtual, resumed):
        them.reset_statistics()
        them.train_step(x, y)
        assert all(np.any(residues) for residues in them.residues)
        for s in them.statistics():
            assert s.compressed == (0 if s.bin_size is None else 4)


def embedding_model():
    tf.keras.utils.set_random_seed(1)
    return tf.keras.Sequential(
        [
            tf.keras.Input((5,), dtype="int32"),
            tf.keras.layers.Embedding(100, 16),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(20),
        ]
    )


def test_embeddings_go_dense():
    models = [embedding_model(), embedding_model()]
    x = np.random.default_rng(0).integers(0, 100, (8, 5)).astype(np.int32)
    y = np.arange(8)
    virtual = [
        VirtualLearners(model, tf.keras.optimizers.SGD(1.0), LOSS, 4, compression)
        for model, compression in zip(models, (AdaComp(50), None))
    ]
    for them in virtual:
        them.train_step(x, y)
    embedding, kernel, _ = virtual[0].statistics()
    assert embedding.bin_size is None and embedding.compressed == 0 and embedding.sent == 0
    assert embedding.bytes == 4 * (2 * 5) * (16 * 4 + 4)  # rows and their indices
    assert kernel.bin_size == 50 and kernel.compressed == 4
    np.testing.assert_array_equal(models[0].get_weights()[0], models[1].get_weights()[0])
    half = int(virtual[0].half.numpy()) * 4
    assert not np.any(virtual[0].residues[0]) and np.all(virtual[0].residues[1][half : half + 4])


@pytest.mark.parametrize("dtype, size", [("float64", 8), ("bfloat16", 2)])
def test_other_dtypes_go_dense(dtype, size):
    def made(compression):
        tf.keras.utils.set_random_seed(1)
        layer = tf.keras.layers.Dense(300, use_bias=False, dtype=dtype)
        model = tf.keras.Sequential([tf.keras.Input((4,)), layer])
        sgd = tf.keras.optimizers.SGD(0.5)
        loss = tf.keras.losses.MeanSquaredError()
        return model, VirtualLearners(model, sgd, loss, 2, compression)

    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    y = np.ones((8, 300), np.float32)
    (model, virtual), (other, dense) = made(AdaComp(50)), made(None)
    before = model.get_weights()[0]
    assert virtual.train_step(x, y) == dense.train_step(x, y) > 0
    np.testing.assert_array_equal(model.get_weights()[0], other.get_weights()[0])
    assert np.any(model.get_weights()[0] != before)
    (s,) = virtual.statistics()
    assert s.bin_size is None and s.bytes == 2 * size * 1200


@pytest.mark.parametrize("trainable", [True, False])
def test_layer_that_is_frozen_later(trainable):
    model = dense_model()
    model.layers[1].trainable = not trainable
    virtual = VirtualLearners(model, tf.keras.optimizers.SGD(0.05), LOSS, 4, AdaComp(50))
    virtual.train_step(X, Y)
    model.layers[1].trainable = trainable
    before = model.get_weights()
    with pytest.raises(ValueError, match="model.trainable_variables changed .*make it anew"):
        virtual.train_step(X, Y)
    for got, want in zip(model.get_weights(), before):
        np.testing.assert_array_equal(got, want)
    model.layers[1].trainable = not trainable
    virtual.train_step(X, Y)


@pytest.mark.parametrize("infinite", ["first", "second"])
def test_each_variable_counts_its_own_gradients_that_are_not_finite(infinite):
    """One that goes dense keeps all residues too."""
    inputs = tf.keras.Input((1,))
    outputs = [
        tf.keras.layers.Dense(300, use_bias=False, name=name)(inputs)
        for name in ("first", "second")
    ]
    model = tf.keras.Model(inputs, tf.keras.layers.Concatenate()(outputs))
    settings = AdaComp(50, exclude="second")
    virtual = VirtualLearners(model, tf.keras.optimizers.SGD(0.0), quadratic, 4, settings)
    labels = np.random.default_rng(0).normal(size=(4, 600)).astype(np.float32)
    virtual.train_step(np.ones((4, 1), np.float32), labels)
    before = virtual.residues[0].numpy(), int(virtual.half.numpy())
    start = before[1] * 4
    labels[2, 7 if infinite == "first" else 307] = np.inf
    virtual.train_step(np.ones((4, 1), np.float32), labels)
    assert int(virtual.half.numpy()) == before[1]
    np.testing.assert_array_equal(
        virtual.residues[0][start : start + 4], before[0][start : start + 4]
    )
    skipped = {s.name.split("/")[-2]: s.skipped for s in virtual.statistics()}
    assert skipped == {"first": int(infinite == "first"), "second": int(infinite == "second")}


def test_a_pattern_that_matches_nothing_is_warned_of():
    model = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(3, name="last")])
    with pytest.warns(UserWarning, match="exclude: 'lsat' matches none .*last/kernel"):
        lp.distribute.VirtualLearners(
            model, tf.keras.optimizers.SGD(), "mse", 2, lp.distribute.AdaComp(exclude="lsat")
        )
