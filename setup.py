"""Builds the op library with Bazel for the TensorFlow of the environment that installs us."""

import os
import pathlib
import re
import subprocess
import sys

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).resolve().parent


def environment():
    """This process' environment without the isolation that pip puts around a build.

    pip hides the environment's packages, TensorFlow among them, behind PYTHONPATH.
    """
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONNOUSERSITE")}


def tensorflow():
    """(distribution, version) of the installed TensorFlow; version None if there is none."""
    script = """
from importlib import metadata
for name in ("tensorflow", "tensorflow-cpu"):
    try:
        print(name, metadata.version(name))
        break
    except metadata.PackageNotFoundError:
        pass
"""
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True
    ).stdout.split()
    return tuple(found) if found else ("tensorflow", None)


class BuildWithBazel(build_py):
    def run(self):
        super().run()
        if tensorflow()[1] is None:
            sys.exit(
                "tf_lowprec builds against the TensorFlow of the environment, and there is none in "
                f"{sys.prefix}: pip install tensorflow==2.21.0 there first"
            )
        destination = ROOT / "tf_lowprec" if self.editable_mode else None
        destination = destination or pathlib.Path(self.build_lib) / "tf_lowprec"
        command = [str(ROOT / "tools" / "build.sh"), sys.executable, str(destination)]
        if subprocess.run(command, env=environment()).returncode != 0:
            sys.exit("tf_lowprec: the op library could not be built; the reason stands above")


class BinaryDistribution(Distribution):
    """A wheel for one platform: it holds a shared library."""

    def has_ext_modules(self):
        return True


name, version = tensorflow()
setup(
    version=re.search(r'__version__ = "(.*)"', (ROOT / "tf_lowprec/__init__.py").read_text())[1],
    # The library loads in the TensorFlow it was built for and in no other.
    install_requires=[f"{name}=={version}" if version else name, "numpy", "matplotlib", "rich"],
    cmdclass={"build_py": BuildWithBazel},
    distclass=BinaryDistribution,
)
