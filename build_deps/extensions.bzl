"""MODULE.bazel's way to what WORKSPACE configures."""

load("//build_deps:tf_configure.bzl", "cuda_configure", "gtest_configure", "tf_configure")

def _configure(_):
    tf_configure(name = "local_config_tf")
    cuda_configure(name = "local_config_cuda")
    gtest_configure(name = "gtest")

configure = module_extension(implementation = _configure)
