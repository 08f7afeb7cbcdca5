"""The fixtures themselves: each mode is what it says."""

import tensorflow as tf


def test_two_replicas_has_two(two_replicas):
    assert two_replicas.num_replicas_in_sync == 2


def test_run_calls_with_arguments(run):
    assert run(lambda x: x + 1)(tf.constant(1)).numpy() == 2


def test_run_is_eager_in_eager_mode_only(run, request):
    seen = []
    run(lambda x: seen.append(tf.executing_eagerly()) or x)(tf.constant(1))
    assert seen[0] == (request.node.callspec.params["run"] == "eager")
