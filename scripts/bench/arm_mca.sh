#!/bin/sh
# Static cost of the ARM kernels, ours and llama.cpp's: docs/bench/arm_static.md. See arm_mca.py, whose options it takes.
#   scripts/bench/arm_mca.sh [--llama SDIST] [--formats Q4_0 …] [--sets i8mm …] [--out FILE] …
# Needs python3 and the packages named below (Debian).
set -eu

packages="clang-19 llvm-19 gcc-aarch64-linux-gnu libstdc++-12-dev-arm64-cross qemu-user"
for tool in python3 aarch64-linux-gnu-gcc qemu-aarch64; do
    if ! command -v "$tool" >/dev/null; then
        echo "arm_mca.sh: $tool is missing (Debian: python3 $packages)" >&2
        exit 2
    fi
done
exec python3 "$(dirname "$0")/arm_mca.py" "$@"
