#!/usr/bin/env bash
# Sets up this source tree on a fresh Debian or Ubuntu machine: system packages, a virtual
# environment, the build. Each step is skipped where it is done already. `make` calls it.
# usage: [PYTHON=python3.11] tools/setup.sh [default|addons]
#   default: .venv with the current TensorFlow; the source tree is importable there.
#   addons:  .venv-addons with TensorFlow 2.15 and tensorflow-addons; tf_lowprec is installed there.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

leg=${1:-default}
case $leg in
  default) venv=.venv ;;
  addons) venv=.venv-addons ;;
  *) fail "leg '$leg' must be default or addons" ;;
esac

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3.11 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
       "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
fi

# --- system packages -----------------------------------------------------------------------------
missing=()
command -v g++ >/dev/null 2>&1 || missing+=(g++)
if ! command -v bazel >/dev/null 2>&1 && ! command -v bazelisk >/dev/null 2>&1 &&
   [ ! -x .tools/node_modules/.bin/bazel ]; then
  missing+=(bazel-bootstrap)
fi
[ -e /usr/include/gtest/gtest.h ] || missing+=(libgtest-dev)
if [ -z "$python" ]; then
  missing+=(python3.11 python3.11-venv)
elif [ ! -x $venv/bin/python ] && ! "$python" -c 'import ensurepip' 2>/dev/null; then
  missing+=(python3.11-venv)
fi

if [ ${#missing[@]} -gt 0 ]; then
  root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
      root=(sudo)
    else
      root=(none)
    fi
  fi
  if [ "${root[0]:-}" != none ] && command -v apt-get >/dev/null 2>&1; then
    say "installing Debian packages: ${missing[*]}"
    "${root[@]}" apt-get update -qq >&2
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
  else
    for package in "${missing[@]}"; do
      case $package in
        bazel-bootstrap)
          command -v npm >/dev/null 2>&1 ||
            fail "Bazel is missing and you are not root: install Bazel or Bazelisk, or npm"
          say "no root: taking Bazel from npm into .tools"
          npm install --silent --no-fund --no-audit --prefix .tools @bazel/bazel-linux_x64@2.1.0 >&2
          mkdir -p .tools/node_modules/.bin
          (cd .tools/node_modules/.bin && ln -sf ../@bazel/bazel-linux_x64/bazel-*-x86_64 bazel)
          ;;
        libgtest-dev) say "no root and no googletest: the C++ tests will be skipped" ;;
        *) fail "needs ${missing[*]}, and you are not root: ask for apt-get install ${missing[*]}" ;;
      esac
    done
  fi
  [ -n "$python" ] || python=python3.11
fi

# --- the virtual environment ---------------------------------------------------------------------
stamp=$venv/requirements.txt
if ! cmp -s "requirements/$leg.txt" "$stamp"; then
  say "installing Python packages into $venv (TensorFlow is 600 MB: this takes a minute or two)"
  [ -x $venv/bin/python ] || "$python" -m venv $venv
  $venv/bin/python -m pip install --quiet --disable-pip-version-check -r "requirements/$leg.txt" >&2
  if [ "$leg" = default ]; then
    # The source tree itself is importable from anywhere in this environment.
    site=$($venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    pwd > "$site/tf_lowprec-source.pth"
  fi
  cp "requirements/$leg.txt" "$stamp"
fi

# --- the op library ------------------------------------------------------------------------------
say "building the op library with Bazel for $venv"
if [ "$leg" = default ]; then
  tools/build.sh $venv/bin/python tf_lowprec
else
  # Installed as users install it. The other leg's library stays in the source tree.
  tools=$PWD/.tools/node_modules/.bin
  PATH=$PATH:$tools $venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --no-deps --no-build-isolation --force-reinstall . >&2
fi
