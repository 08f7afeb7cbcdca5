"""Training over several devices with fewer gradient bytes: AdaComp."""

from tf_lowprec.distribute.all_reduce import AdaCompAllReduce
from tf_lowprec.distribute.backup import BackupAndRestore
from tf_lowprec.distribute.callback import CompressionLogger
from tf_lowprec.distribute.multi_worker import MultiWorkerMirroredStrategy
from tf_lowprec.distribute.settings import AdaComp
from tf_lowprec.distribute.statistics import GradientStatistics, Statistics
from tf_lowprec.distribute.virtual_learners import VirtualLearners

__all__ = [
    "AdaComp",
    "AdaCompAllReduce",
    "BackupAndRestore",
    "CompressionLogger",
    "GradientStatistics",
    "MultiWorkerMirroredStrategy",
    "Statistics",
    "VirtualLearners",
]
