"""lp.Watch: when it observes, what TensorBoard gets, and that training stays as it was."""

import time

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp

X = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(32, 2)).astype(np.float32)


def model():
    tf.keras.utils.set_random_seed(0)
    net = tf.keras.Sequential(
        [tf.keras.Input((6,)), lp.layers.Dense(2, precision=lp.Policy.fp8(5), name="dense")]
    )
    net.compile("sgd", "mse")
    return net


def fit(net, *callbacks):
    net.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=list(callbacks), shuffle=False)
    return net.get_weights()


def test_training_stays_as_it_was():
    watch = lp.Watch((X, Y), every=3)
    for mine, stock in zip(fit(model(), watch), fit(model()), strict=True):
        np.testing.assert_array_equal(mine, stock)
    assert [batch for batch, _ in watch.history] == [3, 6, 9, 12, 15]
    assert {row.which for row in watch.latest} == {"FWD", "BWD", "GRAD"}


def test_tensorboard_gets_every_scalar(tmp_path):
    watch = lp.Watch((X, Y), log_dir=tmp_path, every=16)
    fit(model(), watch)
    tags = {}
    for file in tmp_path.iterdir():
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                tags[value.tag] = (event.step, float(tf.make_ndarray(value.tensor)))
    (row,) = [row for row in watch.latest if row.which == "GRAD"]
    assert tags["precision/dense/GRAD/underflow"] == (16, pytest.approx(row.underflow))
    assert {tag.split("/")[-1] for tag in tags} >= {"saturated", "swamped", "vrr", "noise"}


def test_the_budget_spaces_observations(monkeypatch):
    """Observations of 1 s and batches of 1 s: a quarter of the time is every fourth second."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    watch = lp.Watch((X, Y), budget=0.25)

    class Observer:
        def observe(self, seed):
            clock[0] += 1
            return ()

    watch._observer = Observer()
    for batch in range(40):
        clock[0] += 1
        watch.on_train_batch_end(batch)
    assert [batch for batch, _ in watch.history] == list(range(2, 41, 3))
    assert len(watch.history) / clock[0] <= 0.25


def test_a_short_training_is_observed_once():
    watch = lp.Watch((X, Y), budget=1e-9)
    net = model()
    net.fit(X[:4], Y[:4], batch_size=4, verbose=0, callbacks=[watch])
    assert len(watch.history) == 1


@pytest.mark.parametrize(
    "argument",
    [
        {"budget": 0},
        {"budget": 1.5},
        {"budget": "5%"},
        {"every": 0},
        {"every": 0.5},
        {"samples": 0},
    ],
)
def test_wrong_arguments_are_named(argument):
    with pytest.raises(ValueError, match=f"{next(iter(argument))} = "):
        lp.Watch((X, Y), **argument)
