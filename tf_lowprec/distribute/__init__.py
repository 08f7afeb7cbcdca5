"""Training over several devices with fewer gradient bytes: AdaComp."""

from tf_lowprec.distribute.all_reduce import AdaCompAllReduce
from tf_lowprec.distribute.settings import AdaComp
from tf_lowprec.distribute.statistics import GradientStatistics, Statistics

__all__ = [
    "AdaComp",
    "AdaCompAllReduce",
    "GradientStatistics",
    "Statistics",
]
