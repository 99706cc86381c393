#!/bin/sh
# Greedy generation on real weights must be the same on this machine and on 64-bit ARM under qemu-user, down to the bits of each
# log-probability: the engine defines its arithmetic that way.
#   scripts/test_parity_aarch64.sh MODEL.gguf [N_TOKENS]
# Needs what test_aarch64.sh built, and a native build in build/ (test_native.sh).
set -eu

cd "$(dirname "$0")/.."
model=$1
n_tokens=${2:-8}
prompt='<|im_start|>user
Name three rivers.<|im_end|>
<|im_start|>assistant
'
build/tool_greedy "$model" "$n_tokens" "" "$prompt" >build/greedy-native.txt
for cpu in max cortex-a76 cortex-a53; do
    QEMU_CPU=$cpu qemu-aarch64 -L /usr/aarch64-linux-gnu build-aarch64/tool_greedy "$model" "$n_tokens" "" "$prompt" >build/greedy-$cpu.txt
    if ! cmp -s build/greedy-native.txt "build/greedy-$cpu.txt"; then
        echo "test_parity_aarch64.sh: $cpu differs from the native run:" >&2
        diff build/greedy-native.txt "build/greedy-$cpu.txt" >&2 || true
        exit 1
    fi
    echo "$cpu: $n_tokens tokens, the same bits as natively"
done
