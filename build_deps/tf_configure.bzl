"""Repository rules that find TensorFlow, CUDA and googletest on this machine."""

_PYTHON = """
import os
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
print(tf.__version__)
print(tf.sysconfig.get_include())
print(tf.sysconfig.get_lib())
print([f[3:] for f in tf.sysconfig.get_link_flags() if f.startswith("-l:")][0])
print(" ".join(f for f in tf.sysconfig.get_compile_flags() if not f.startswith("-I")))
"""

_TF_BUILD = """
package(default_visibility = ["//visibility:public"])

cc_library(
    name = "headers",
    hdrs = glob(
        ["include/**"],
        allow_empty = True,
        exclude = [
            "include/external/**",
            "include/tensorflow/compiler/**",
            "include/third_party/gpus/**",
            "include/**/*.proto",
            "include/**/BUILD",
        ],
    ),
    includes = ["include"],
)

cc_import(
    name = "framework",
    shared_library = "%s",
)
"""

def _tf_configure_impl(ctx):
    # The environment also holds TF_LOWPREC_TF_VERSION, so that an upgrade in place is noticed.
    python = ctx.os.environ.get("PYTHON_BIN_PATH") or str(ctx.which("python3"))
    result = ctx.execute([python, "-c", _PYTHON], quiet = True)
    if result.return_code != 0:
        fail("%s cannot import tensorflow; set PYTHON_BIN_PATH to a Python that can.\n%s" %
             (python, result.stderr))

    # TensorFlow may print more before: take the last lines.
    version, include, lib, framework, flags = result.stdout.strip().split("\n")[-5:]
    ctx.symlink(include, "include")
    ctx.symlink(lib + "/" + framework, framework)
    ctx.file("build_defs.bzl", "TF_VERSION = %r\nTF_COPTS = %r\n" %
                               (version, [f for f in flags.split(" ") if f]))
    ctx.file("BUILD", _TF_BUILD % framework)

tf_configure = repository_rule(
    implementation = _tf_configure_impl,
    environ = ["PYTHON_BIN_PATH", "TF_LOWPREC_TF_VERSION"],
)

_GTEST_BUILD = """
cc_library(
    name = "gtest_main",
    linkopts = ["-lgtest_main", "-lgtest", "-lpthread"],
    visibility = ["//visibility:public"],
)
"""

def _gtest_configure_impl(ctx):
    # Debian's libgtest-dev puts headers and libraries where the compiler looks anyway.
    ctx.file("BUILD", _GTEST_BUILD)

gtest_configure = repository_rule(implementation = _gtest_configure_impl)

def _cuda_configure_impl(ctx):
    nvcc = ctx.os.environ.get("TF_LOWPREC_NVCC") or ctx.which("nvcc")
    build = 'package(default_visibility = ["//visibility:public"])\n'
    top = []
    if nvcc:
        # The nvcc on the PATH may be a wrapper script: it tells where the toolkit is. None is
        # found where TF_LOWPREC_NVCC names no program, which leaves CUDA out.
        result = ctx.execute([nvcc, "--dryrun", "-c", "-x", "cu", "/dev/null", "-o", "/dev/null"])
        top = [line for line in result.stderr.split("\n") if line.startswith("#$ TOP=")]
    if top:
        ctx.symlink(top[0][len("#$ TOP="):].strip() + "/lib64/libcudart_static.a", "libcudart_static.a")
        build += 'cc_import(name = "cudart_static", static_library = "libcudart_static.a")\n'
    else:
        build += 'cc_library(name = "cudart_static")\n'
    ctx.file("BUILD", build)
    ctx.file("cuda.bzl", "NVCC = %r\n" % str(nvcc or "nvcc-was-not-found"))

cuda_configure = repository_rule(
    implementation = _cuda_configure_impl,
    environ = ["TF_LOWPREC_NVCC", "PATH"],
)
