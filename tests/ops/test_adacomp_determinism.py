"""AdaComp's packets have the same bits on any number of threads and with any instruction set."""

import pytest
from determinism import digest

SCRIPT = "adacomp_digest.py"


@pytest.fixture(scope="module")
def portable_on_one_thread():
    return digest(SCRIPT, "portable", 1)


@pytest.mark.parametrize("isa, threads", [("portable", 2), ("avx2", 2), ("avx512", 3)])
def test_same_bits(portable_on_one_thread, isa, threads):
    assert digest(SCRIPT, isa, threads) == portable_on_one_thread
