"""Residues in checkpoints: equal to the bit, or their sum with another number of replicas."""

import numpy as np
import pytest
import tensorflow as tf
from test_all_reduce import gradients, reduce, variable
from test_training import OPTIMIZERS, data, dense_model

from tf_lowprec.distribute.residue import GradientState


def model_under(strategy):
    with strategy.scope():
        model = dense_model()
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(OPTIMIZERS["SGD with momentum"](), loss)
    return model


def train(model, epochs=1):
    x, y = data(256)
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, shuffle=False)


def residues(all_reduce):
    return [r.numpy() for state in all_reduce.states for r in state.residues]


def assert_equal(some, others):
    assert len(some) == len(others) > 0
    for a, b in zip(some, others):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("restore", ["before the first step", "after a step"])
def test_training_goes_on_with_the_same_bits(adacomp, tmp_path, restore):
    straight, strategy = adacomp(bin_sizes=50)
    model = model_under(strategy)
    train(model)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer, adacomp=straight.state)
    path = checkpoint.write(str(tmp_path / "checkpoint"))
    saved = residues(straight)
    assert all(np.any(r != 0) for r in saved)
    train(model)

    resumed, strategy = adacomp(bin_sizes=50)
    again = model_under(strategy)
    if restore == "after a step":
        train(again)
    checkpoint = tf.train.Checkpoint(model=again, optimizer=again.optimizer, adacomp=resumed.state)
    checkpoint.read(path)
    if restore == "after a step":
        assert_equal(residues(resumed), saved)
    train(again)
    assert_equal(residues(resumed), residues(straight))
    assert_equal(again.get_weights(), model.get_weights())


def state_with(residues, bin_size=50):
    state = GradientState("kernel", residues.shape[1:], ["CPU:0"] * len(residues), bin_size)
    for residue, value in zip(state.residues, residues):
        residue.assign(value)
    return state


@pytest.mark.parametrize("before, after", [(3, 1), (3, 2), (5, 2), (2, 2), (2, 3), (1, 4)])
def test_another_number_of_replicas_keeps_the_sum(tmp_path, before, after):
    old = state_with(np.arange(before * 4, dtype=np.float32).reshape(before, 4) + 1)
    old.steps.assign(7)
    path = tf.train.Checkpoint(state=old).write(str(tmp_path / "checkpoint"))
    new = state_with(np.full((after, 4), 99, np.float32))
    tf.train.Checkpoint(state=new).read(path).assert_consumed()
    got, want = (np.array([r.numpy() for r in s.residues]) for s in (new, old))
    np.testing.assert_array_equal(got.sum(axis=0), want.sum(axis=0))
    if before <= after:
        np.testing.assert_array_equal(got[:before], want)
        assert not got[before:].any()
    assert new.steps.numpy() == 7


def test_another_model_is_refused(tmp_path):
    old = state_with(np.ones((2, 4), np.float32))
    path = tf.train.Checkpoint(state=old).write(str(tmp_path / "checkpoint"))
    new = state_with(np.ones((2, 5), np.float32))
    with pytest.raises(ValueError, match="kernel have 4 elements, but it has 5"):
        tf.train.Checkpoint(state=new).read(path)


def test_dense_variables_have_nothing_to_save(tmp_path):
    state = GradientState("bias", (10,), ["CPU:0"] * 2, None)
    path = tf.train.Checkpoint(state=state).write(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(state=GradientState("bias", (10,), ["CPU:0"], None)).read(path)


def test_variables_that_are_gone_are_forgotten(adacomp, tmp_path):
    all_reduce, strategy = adacomp(bin_sizes=50)
    first = variable(strategy)
    reduce(strategy, [(gradients(0), first)])
    del first
    second = variable(strategy)
    reduce(strategy, [(gradients(1), second)])
    path = tf.train.Checkpoint(adacomp=all_reduce.state).write(str(tmp_path / "checkpoint"))
    assert len(all_reduce.states) == len(all_reduce.statistics()) == 1

    resumed, again = adacomp(bin_sizes=50)
    tf.train.Checkpoint(adacomp=resumed.state).read(path)
    restored = variable(again)
    reduce(again, [(gradients(2), restored)])
    reduce(strategy, [(gradients(2), second)])
    assert_equal(residues(resumed), residues(all_reduce))


def test_residues_of_another_name_are_reported(tmp_path, caplog):
    old = GradientState("conv/kernel", (4,), ["CPU:0"], 50)
    path = tf.train.Checkpoint(state=old).write(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(state=GradientState("dense/kernel", (4,), ["CPU:0"], 50)).read(path)
    assert "conv/kernel go to dense/kernel" in caplog.text
