#!/bin/sh
# Builds the C tests for 64-bit ARM in build-aarch64 and runs them under qemu-user, on three CPUs: all of them on one that has
# everything, those that kernels decide on one with dotprod but without i8mm and on one with neither.
#   scripts/test_aarch64.sh [ctest options, e.g. -R kernels]
# Needs cmake and Debian's gcc-aarch64-linux-gnu and qemu-user. JOBS: parallel compile jobs (2).
set -eu

cd "$(dirname "$0")/.."
for tool in cmake ctest aarch64-linux-gnu-gcc qemu-aarch64; do
    if ! command -v "$tool" >/dev/null; then
        echo "test_aarch64.sh: $tool is missing (Debian: cmake gcc-aarch64-linux-gnu qemu-user)" >&2
        exit 2
    fi
done

cmake -S . -B build-aarch64 -DCMAKE_TOOLCHAIN_FILE=scripts/toolchain-aarch64.cmake -DCACTUS_DEV=ON
cmake --build build-aarch64 --parallel "${JOBS:-2}"

failed=
for cpu in max cortex-a76 cortex-a53; do
    echo "== $cpu"
    only=.
    [ "$cpu" = max ] || only='kernels|attention|recurrent|streams|quantize'
    QEMU_CPU=$cpu ctest --test-dir build-aarch64 --output-on-failure -R "$only" "$@" || failed="$failed $cpu"
done
if [ -n "$failed" ]; then
    echo "test_aarch64.sh: tests failed on$failed" >&2
    exit 1
fi
