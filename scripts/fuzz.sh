#!/bin/sh
# Builds the libFuzzer target native/tests/fuzz_NAME.c with clang, address and undefined-behaviour sanitizers, and runs it.
#
#     scripts/fuzz.sh NAME [SECONDS] [libFuzzer options…]        default: 60 seconds, inputs up to 64 KB
#     scripts/fuzz.sh NAME FILE                                  runs one input, to reproduce a failure
#
# The corpus grows in build-fuzz/corpus/NAME from run to run; it starts from the small files in tests/data that fit the target.
# What makes the target fail is left in build-fuzz/artifacts/NAME.
set -eu

if [ $# -lt 1 ]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 2
fi
name=$1
seconds=${2:-60}
shift
[ $# -eq 0 ] || shift
input=
if [ -f "$seconds" ]; then
    input=$(cd "$(dirname "$seconds")" && pwd)/$(basename "$seconds")
    seconds=0
fi
cd "$(dirname "$0")/.."
if [ ! -f "native/tests/fuzz_$name.c" ]; then
    echo "fuzz.sh: there is no native/tests/fuzz_$name.c; there are:" native/tests/fuzz_*.c >&2
    exit 2
fi
case $seconds in
'' | *[!0-9]*)
    echo "fuzz.sh: the second argument is a number of seconds, not $seconds" >&2
    exit 2
    ;;
esac

max_len=65536
build=build-fuzz
corpus=$build/corpus/$name
artifacts=$build/artifacts/$name

# fuzzer-no-link: the library's objects report their coverage; the target alone links libFuzzer.
cmake -S . -B "$build" -DCMAKE_C_COMPILER="${CC:-clang}" -DCMAKE_BUILD_TYPE=Release -DCACTUS_FUZZ=ON \
    -DCACTUS_SANITIZE=address,undefined,fuzzer-no-link >"$build.log" 2>&1 || {
    cat "$build.log" >&2
    exit 1
}
rm -f "$build.log"
cmake --build "$build" --target "fuzz_$name" --parallel 2

[ -z "$input" ] || exec "$build/fuzz_$name" "$input"

mkdir -p "$corpus" "$artifacts"
case $name in
gguf | model | quantize | tokenizer) patterns='*.gguf' ;;
*) patterns='*' ;;
esac
find tests/data -type f -name "$patterns" -size -"$((max_len / 1024))"k | while read -r file; do
    cp "$file" "$corpus/seed-$(basename "$file")"
done

exec "$build/fuzz_$name" -max_total_time="$seconds" -max_len="$max_len" -timeout=10 -rss_limit_mb=2048 \
    -artifact_prefix="$artifacts/" -print_final_stats=1 "$@" "$corpus"
