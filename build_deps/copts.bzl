"""Compiler flags of our own C++: warnings are errors, and arithmetic is what the source says."""

COPTS = [
    "-std=c++17",
    "-O3",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-parameter",
    "-Wno-sign-compare",  # TensorFlow's macros
    "-ffp-contract=off",  # the FMAs are the ones we write
    "-fno-math-errno",
    "-fno-trapping-math",
]
