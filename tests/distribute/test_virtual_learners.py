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


def test_a_pattern_that_matches_nothing_is_warned_of():
    model = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(3, name="last")])
    with pytest.warns(UserWarning, match="exclude: 'lsat' matches none .*last/kernel"):
        lp.distribute.VirtualLearners(
            model, tf.keras.optimizers.SGD(), "mse", 2, lp.distribute.AdaComp(exclude="lsat")
        )
