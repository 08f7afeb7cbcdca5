#!/usr/bin/env bash
# Prints the Bazel to use: bazelisk or bazel on the PATH, or the one that tools/setup.sh fetched.
cd "$(dirname "$0")/.." || exit 1
for candidate in bazelisk bazel "$PWD/.tools/node_modules/.bin/bazel"; do
  if command -v "$candidate"; then exit 0; fi
done
echo "Bazel is not on the PATH. Get it with one of
  apt-get install bazel-bootstrap        (Debian, Ubuntu)
  npm install -g @bazel/bazelisk         (anywhere; downloads the version in .bazeliskrc)
or run \`make\` in a source tree, which does so." >&2
exit 1
