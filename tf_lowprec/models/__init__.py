"""The papers' networks."""

from tf_lowprec.models.alexnet import alexnet
from tf_lowprec.models.gupta2015 import cifar10_cnn, mnist_cnn, mnist_dnn
from tf_lowprec.models.resnet import resnet8, resnet18, resnet20, resnet32, resnet_cifar

__all__ = [
    "alexnet",
    "cifar10_cnn",
    "mnist_cnn",
    "mnist_dnn",
    "resnet8",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet_cifar",
]
