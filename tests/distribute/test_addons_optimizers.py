"""tensorflow-addons' optimizers under AdaCompAllReduce."""

import pytest
import tensorflow as tf
from test_training import assert_replicas_agree, fit

tfa = pytest.importorskip("tensorflow_addons", reason="the addons leg has it")

OPTIMIZERS = {
    "LAMB": lambda: tfa.optimizers.LAMB(0.02),
    "Lookahead": lambda: tfa.optimizers.Lookahead(
        tf.keras.optimizers.legacy.SGD(0.05, momentum=0.9), sync_period=3
    ),
    "legacy SGD": lambda: tf.keras.optimizers.legacy.SGD(0.05, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fit_learns_and_compresses(adacomp, name):
    all_reduce, strategy = adacomp(bin_sizes=50)
    model, losses = fit(strategy, OPTIMIZERS[name])
    assert losses[-1] < 0.8 * losses[0]
    assert_replicas_agree(strategy, model)
    compressed = [s for s in all_reduce.statistics() if s.bin_size is not None]
    assert len(compressed) == 2
    assert all(s.ratio > 4 and s.steps == 6 * 16 for s in compressed)
