#!/bin/sh
# Builds the engine and its C tests with strict warnings and runs them natively.
#   scripts/test_native.sh [ctest options, e.g. -R kernels]
# BUILD: build folder (build). SANITIZE: sanitizers, e.g. address,undefined or thread. CC: compiler. JOBS: parallel jobs (2).
set -eu

cd "$(dirname "$0")/.."
build=${BUILD:-build}
cmake -S . -B "$build" -DCACTUS_DEV=ON -DCACTUS_SANITIZE="${SANITIZE:-}" ${CC:+-DCMAKE_C_COMPILER="$CC"} >/dev/null
cmake --build "$build" --parallel "${JOBS:-2}"
exec ctest --test-dir "$build" --output-on-failure "$@"
