"""The papers' networks."""

from tf_lowprec.models.gupta2015 import cifar10_cnn, mnist_cnn, mnist_dnn

__all__ = ["cifar10_cnn", "mnist_cnn", "mnist_dnn"]
