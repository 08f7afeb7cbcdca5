"""FWD, BWD and GRAD of the MNIST DNN through the array, in lp's own training step."""

import numpy as np
import pytest
from test_accelerator import FLAT

import tf_lowprec as lp
from hardware.cosim.accelerator import Accelerator
from hardware.cosim.training import compare

# FWD, GRAD and BWD of three layers. An eager gradient takes the BWD of the first one too.
PRODUCTS = 9


@pytest.fixture(scope="module")
def flat():
    with Accelerator(FLAT, seed=3, optimize="-O1") as accelerator:
        yield accelerator


@pytest.mark.parametrize("rounding", ["nearest_even", "nearest_up", "stochastic"])
@pytest.mark.parametrize("outputs", [(6, 10), (2, 14)], ids=str)
def test_a_training_step_equals_the_ops(flat, rounding, outputs):
    rng = np.random.default_rng(0)
    images, labels = rng.random((6, 28, 28)).astype(np.float32), rng.integers(0, 10, 6)
    products, same_weights = compare(
        flat, rounding, images, labels, outputs=lp.FixedPointFormat(*outputs), units=(24, 17)
    )
    assert len(products) == PRODUCTS
    assert all(product.equal for product in products)
    assert same_weights == (rounding != "stochastic")
