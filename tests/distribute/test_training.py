"""Training under AdaCompAllReduce: fit and custom loops, the optimizers, what cannot work."""

import numpy as np
import pytest
import tensorflow as tf
from compat import KERAS_3, needs_keras_3

import tf_lowprec as lp

LOSS = {"from_logits": True}


def data(n=512):
    x = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(np.int32)


def dense_model():
    tf.keras.utils.set_random_seed(1)
    return tf.keras.Sequential(
        [
            tf.keras.Input((8,)),
            tf.keras.layers.Dense(64, activation="relu"),
            tf.keras.layers.Dense(64, activation="relu"),
            tf.keras.layers.Dense(2),
        ]
    )


def fit(strategy, make_optimizer, make_model=dense_model, epochs=6, **compile_arguments):
    x, y = data()
    with strategy.scope():
        model = make_model()
        loss = tf.keras.losses.SparseCategoricalCrossentropy(**LOSS)
        model.compile(make_optimizer(), loss, metrics=["accuracy"], **compile_arguments)
    history = model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, shuffle=False)
    return model, history.history["loss"]


def assert_replicas_agree(strategy, model):
    for variable in model.trainable_variables:
        value = variable.value if KERAS_3 else variable
        first, second = strategy.experimental_local_results(value)
        np.testing.assert_array_equal(first, second)


OPTIMIZERS = {
    "SGD with momentum": lambda: tf.keras.optimizers.SGD(0.05, momentum=0.9),
    "Adam": lambda: tf.keras.optimizers.Adam(0.005),
    "clipping": lambda: tf.keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=1.0),
    "LowPrecision": lambda: lp.optimizers.LowPrecision(
        tf.keras.optimizers.SGD(0.05, momentum=0.9), lp.FixedPointFormat(4, 20), seed=1
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fit_learns_and_compresses(adacomp, name):
    all_reduce, strategy = adacomp(bin_sizes=50)
    model, losses = fit(strategy, OPTIMIZERS[name])
    assert losses[-1] < 0.6 * losses[0]
    assert_replicas_agree(strategy, model)
    statistics = all_reduce.statistics()
    assert len(statistics) == 6
    compressed = [s for s in statistics if s.bin_size is not None]
    assert [s.num_elements for s in compressed] == [8 * 64, 64 * 64]
    assert all(s.steps == 6 * 16 and s.gradients == 2 * s.steps for s in statistics)
    assert all(s.ratio > 4 for s in compressed)


def test_several_steps_per_execution(adacomp):
    all_reduce, strategy = adacomp(bin_sizes=50)
    model, losses = fit(strategy, OPTIMIZERS["Adam"], steps_per_execution=4)
    assert losses[-1] < 0.6 * losses[0]
    assert {s.steps for s in all_reduce.statistics()} == {6 * 16}


def test_statistics_know_the_variables_by_path(adacomp):
    all_reduce, strategy = adacomp(bin_sizes={"hidden": 64}, exclude="other")

    def model():
        layers = [tf.keras.layers.Dense(64, name=n) for n in ("hidden", "other", "last")]
        return tf.keras.Sequential([tf.keras.Input((8,)), *layers])

    fit(strategy, OPTIMIZERS["Adam"], model, epochs=1)
    sizes = {s.name.split("/", 1)[-1] if KERAS_3 else s.name: s for s in all_reduce.statistics()}
    assert sizes["hidden/kernel"].bin_size == 64
    assert sizes["other/kernel"].bin_size is None
    assert sizes["last/kernel"].bin_size == 500
    table = all_reduce.statistics().table()
    assert "hidden/kernel" in table and "dense" in table


def test_convolution_batch_normalization_and_embedding(adacomp):
    all_reduce, strategy = adacomp()

    def model():
        tf.keras.utils.set_random_seed(1)
        return tf.keras.Sequential(
            [
                tf.keras.Input((8,)),
                tf.keras.layers.Reshape((4, 2, 1)),
                tf.keras.layers.Conv2D(32, 3, padding="same", use_bias=False),
                tf.keras.layers.BatchNormalization(synchronized=True),
                tf.keras.layers.Activation("relu"),
                tf.keras.layers.Conv2D(32, 3, padding="same"),
                tf.keras.layers.Flatten(),
                tf.keras.layers.Dense(2),
            ]
        )

    model, losses = fit(strategy, OPTIMIZERS["Adam"], model)
    assert losses[-1] < 0.8 * losses[0]
    assert_replicas_agree(strategy, model)
    sizes = [s.bin_size for s in all_reduce.statistics()]
    assert sizes == [50, None, None, 50, None, 500, None]


def test_statistics_and_metrics_are_those_of_the_dense_op(adacomp):
    """With a rate of 0 nothing else can differ; all are large enough to be compressed."""

    def model():
        tf.keras.utils.set_random_seed(1)
        return tf.keras.Sequential(
            [
                tf.keras.Input((8,)),
                tf.keras.layers.Dense(512),
                tf.keras.layers.BatchNormalization(synchronized=True),
                tf.keras.layers.Dense(2),
            ]
        )

    def trained(strategy):
        found, losses = fit(strategy, lambda: tf.keras.optimizers.SGD(0.0), model, epochs=2)
        return [*found.get_weights(), losses, found.history.history["accuracy"]]

    all_reduce, strategy = adacomp(min_elements=0)
    # Named: what TensorFlow 2.15 takes by itself, CollectiveAllReduce, adds in another way.
    dense = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    for got, want in zip(trained(strategy), trained(dense), strict=True):
        np.testing.assert_array_equal(got, want)
    assert all(s.compressed for s in all_reduce.statistics())


def test_a_pattern_that_matches_nothing_is_warned_of(adacomp):
    _, strategy = adacomp(exclude=["bias$", "densee"])
    with pytest.warns(UserWarning, match="exclude: 'densee' matches none") as caught:
        fit(strategy, OPTIMIZERS["Adam"], epochs=1)
    assert len([w for w in caught if "matches none" in str(w.message)]) == 1


def test_embedding_goes_dense(adacomp):
    all_reduce, strategy = adacomp()
    x = np.random.default_rng(0).integers(0, 100, (256, 5))
    with strategy.scope():
        model = tf.keras.Sequential(
            [
                tf.keras.Input((5,), dtype="int32"),
                tf.keras.layers.Embedding(100, 16),
                tf.keras.layers.Flatten(),
                tf.keras.layers.Dense(64),
            ]
        )
        model.compile(tf.keras.optimizers.SGD(0.1), "mse")
    model.fit(x, np.ones((256, 64)), batch_size=32, verbose=0)
    embedding, kernel, _ = all_reduce.statistics()
    assert embedding.bin_size is None
    index_bytes = embedding.bytes / (8 * 32 * 5) - 16 * 4
    assert index_bytes in (4, 8)
    assert kernel.ratio > 1


def mixed_precision_fit(strategy, poison=None):
    """Trains under mixed_float16 with a dynamic loss scale; `poison` breaks one gradient."""
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        x, y = data(256)
        with strategy.scope():
            model = dense_model()
            loss = tf.keras.losses.SparseCategoricalCrossentropy(**LOSS)
            model.compile(tf.keras.optimizers.SGD(0.05, momentum=0.9), loss)
        if poison is not None:
            x[poison] = 1e30  # infinite in float16
        history = model.fit(x, y, batch_size=32, epochs=1, verbose=0, shuffle=False)
        return model, history
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


def test_mixed_precision_with_loss_scaling(adacomp):
    all_reduce, strategy = adacomp(bin_sizes=50)
    model, _ = mixed_precision_fit(strategy)
    assert "LossScale" in type(model.optimizer).__name__
    assert all(np.all(np.isfinite(w)) for w in model.get_weights())
    steps = {s.steps for s in all_reduce.statistics()}
    assert len(steps) == 1 and 1 <= steps.pop() <= 8


@pytest.mark.parametrize("replica", [0, 1])
def test_loss_scaling_skips_a_step_that_is_not_finite(adacomp, replica):
    all_reduce, strategy = adacomp(bin_sizes=50)
    model, _ = mixed_precision_fit(strategy, poison=16 * replica)  # in the first batch
    assert all(np.all(np.isfinite(w)) for w in model.get_weights())
    for state in all_reduce.states:
        assert all(np.all(np.isfinite(r)) for r in state.residues)


def test_variables_that_are_not_keras_s(adacomp):
    all_reduce, strategy = adacomp(bin_sizes=50)
    with strategy.scope():
        v = tf.Variable(tf.ones([40, 40]), name="mine")
        optimizer = tf.keras.optimizers.SGD(0.1)
        optimizer.build([v])

    @tf.function
    def step():
        strategy.run(lambda: optimizer.apply_gradients([(tf.ones([40, 40]), v)]))

    step()
    np.testing.assert_allclose(v.numpy(), np.full((40, 40), 0.8), rtol=1e-6)
    assert [g.name for g in all_reduce.statistics()] == ["mine"]


def test_custom_loop(adacomp):
    all_reduce, strategy = adacomp(bin_sizes=50)
    x, y = data()
    with strategy.scope():
        model = dense_model()
        optimizer = tf.keras.optimizers.SGD(0.05, momentum=0.9)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(reduction="none", **LOSS)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)

    def replica_step(batch):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(loss(batch[1], model(batch[0], training=True))) / 32
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return value

    @tf.function
    def step(batch):
        values = strategy.run(replica_step, (batch,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)

    losses = [
        np.mean([step(b) for b in strategy.experimental_distribute_dataset(batches)])
        for _ in range(6)
    ]
    assert losses[-1] < 0.6 * losses[0]
    assert_replicas_agree(strategy, model)
    assert {s.steps for s in all_reduce.statistics()} == {6 * 16}


def test_variable_without_a_gradient_is_left_alone(adacomp):
    all_reduce, strategy = adacomp(bin_sizes=50)

    def model():
        inputs = tf.keras.Input((8,))
        hidden = tf.keras.layers.Dense(64, activation="relu")(inputs)
        used = tf.keras.layers.Dense(2)(hidden)
        unused = tf.keras.layers.Dense(64)(tf.stop_gradient(hidden) if not KERAS_3 else hidden)
        return tf.keras.Model(inputs, used), tf.keras.Model(inputs, unused)

    with strategy.scope():
        used, unused = model()
        optimizer = tf.keras.optimizers.SGD(0.1)
        variables = used.trainable_variables + unused.layers[-1].trainable_variables

    def replica_step():
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(used(tf.ones((4, 8))) ** 2)
        gradients = tape.gradient(value, variables)
        assert gradients[-1] is None
        optimizer.apply_gradients(zip(gradients, variables))

    strategy.run(tf.function(replica_step) if not KERAS_3 else replica_step)
    assert len(all_reduce.statistics()) == 4


# What cannot work says so.


@needs_keras_3
@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"gradient_accumulation_steps": 4}, ["gradient_accumulation_steps = 4", "None"]),
        (
            {"use_ema": True, "ema_overwrite_frequency": 2},
            ["ema_overwrite_frequency = 2", "None"],
        ),
    ],
)
def test_optimizer_settings_that_cannot_work(adacomp, arguments, words):
    _, strategy = adacomp()
    with pytest.raises(ValueError) as raised:
        fit(strategy, lambda: tf.keras.optimizers.SGD(0.1, **arguments), epochs=1)
    assert all(word in str(raised.value) for word in words)


def test_xla_says_so(adacomp):
    _, strategy = adacomp()
    with pytest.raises(Exception, match="jit_compile"):
        fit(strategy, OPTIMIZERS["Adam"], epochs=1, jit_compile=True)
