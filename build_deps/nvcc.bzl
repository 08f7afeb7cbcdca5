"""CUDA sources, compiled by nvcc to objects that anything may link."""

load("@local_config_cuda//:cuda.bzl", "NVCC")
load("//build_deps:copts.bzl", "NVCC_COPTS")

def nvcc_object(name, src, hdrs = [], **kwargs):
    """`name`: the object file of `src`, for all of NVCC_COPTS's architectures."""
    native.genrule(
        name = name,
        srcs = [src] + hdrs,
        outs = [src[:-len(".cc")] + ".o"],
        cmd = "%s -x cu -c $(location %s) -o $@ -I. %s" % (NVCC, src, " ".join(NVCC_COPTS)),
        **kwargs
    )
