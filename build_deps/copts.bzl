"""Compiler flags of our own C++: warnings are errors, and arithmetic is what the source says."""

COPTS = [
    "-std=c++17",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-parameter",
    "-Wno-sign-compare",  # TensorFlow's macros
    "-ffp-contract=off",  # the FMAs are the ones we write
    "-fno-math-errno",
    "-fno-trapping-math",
] + select({
    "//build_deps:sanitize": ["-O1"],  # the unrolled loops take GCC minutes otherwise
    "//conditions:default": ["-O3"],
})

# The same for nvcc: no contraction, no flushing, IEEE division.
NVCC_COPTS = [
    "-O2",
    "-std=c++17",
    "-fmad=false",
    "-ftz=false",
    "-prec-div=true",
    "-Werror all-warnings",
    "-Xcompiler -fPIC",
    "-gencode arch=compute_80,code=sm_80",
    "-gencode arch=compute_90,code=sm_90",
    "-gencode arch=compute_90,code=compute_90",
]
