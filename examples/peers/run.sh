#!/bin/sh
# This program and its peers on one machine, in one run: JSON and a page in one folder.
#
#   examples/peers/run.sh [--small] [FOLDER]
#
# QVGEN names the program (default: the release build, made if it is missing), GGML_LIBRARIES the
# folder with ggml's libraries. Each part has a limit of time; all limits together are below ten
# minutes (longer with --small, for a software adapter compiles ggml's shaders for minutes), and what
# exceeds its own keeps what it had measured and does not stop the others. The last thing printed is a
# table of what is asked for, with what was found or that it was not measured.
set -u

small=no
if [ "${1:-}" = "--small" ]; then
    small=yes
    bars=--small
    shift
fi
out=${1:-peers-out}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)

QVGEN=${QVGEN:-${CARGO_TARGET_DIR:-$root/target}/release/qvgen}
if [ ! -x "$QVGEN" ]; then
    cargo build --release --manifest-path "$root/Cargo.toml" || exit 1
fi

# part LIMIT NAME COMMAND...: runs it, says how it ended, and keeps its output.
part() {
    limit=$1
    name=$2
    shift 2
    echo "== $name (at most $limit s)"
    start=$(date +%s)
    timeout "$limit" "$@" >"$out/$name.txt" 2>&1
    status=$?
    echo "   status $status after $(($(date +%s) - start)) s"
    if [ "$status" -ne 0 ]; then
        tail -n 3 "$out/$name.txt" | sed 's/^/   /'
    fi
}

# ours LIMIT NAME ARGUMENTS...
ours() {
    limit=$1
    name=$2
    shift 2
    part "$limit" "$name" "$QVGEN" --quiet bench "$@" --json "$out/$name.json" --html "$out/$name.html"
}

if [ "$small" = yes ]; then
    # Small enough for a software adapter; CPU time is what to compare there.
    shapes=256x1536x1536,256x8960x1536
    export GGML_VK_VISIBLE_DEVICES="${GGML_VK_VISIBLE_DEVICES:-0}"
    ours 240 qvgen-matmul matmul --model wan-1.3b --tokens 256 --bits 3,4,8 --seconds 0.5
    ours 240 qvgen-attention attention --model wan-1.3b --tokens 2048 --quick
    ours 60 qvgen-step-9 step --model pocket --precisions full,w8a8,w4a4,w3a3 --frames 9 --quick
    ours 60 qvgen-step-17 step --model pocket --precisions full,w8a8,w4a4,w3a3 --frames 17 --quick
    ours 60 qvgen-cpu matmul --model wan-1.3b --tokens 256 --bits 4,8 --device cpu --seconds 0.3
    part 600 ggml-vulkan python3 "$here/ggml.py" --shapes "$shapes" \
        --types q4_0,q8_0,q3_K --seconds 0.5 --out "$out/ggml-vulkan.json"
    part 60 onnxruntime python3 "$here/ort.py" --shapes "$shapes" --out "$out/onnxruntime.json"
    part 60 first-use python3 "$here/first_use.py" "$QVGEN" --out "$out/first-use.json"
    part 30 torch python3 "$here/torch_reference.py" --shapes "$shapes" \
        --attention 2048x12x128 --out "$out/torch.json"
else
    shapes=32760x1536x1536,32760x8960x1536
    ours 90 qvgen-matmul matmul --model wan-1.3b --tokens 32760 --bits 3,4,8 --seconds 0.3
    ours 60 qvgen-attention attention --model wan-1.3b --tokens 32760 --seconds 0.5
    ours 80 qvgen-step-17 step --model wan-1.3b --size 832x480 --frames 17 \
        --precisions full,w8a8,w4a4,w3a3 --seconds 0.5
    ours 170 qvgen-step-81 step --model wan-1.3b --size 832x480 --frames 81 \
        --precisions full,w8a8,w4a4,w3a3 --seconds 0.5
    part 60 ggml-vulkan python3 "$here/ggml.py" --shapes "$shapes" --out "$out/ggml-vulkan.json"
    part 60 torch python3 "$here/torch_reference.py" --shapes "$shapes" \
        --attention 32760x12x128 --out "$out/torch.json"
    part 30 onnxruntime python3 "$here/ort.py" --shapes 256x1536x1536,256x8960x1536 \
        --out "$out/onnxruntime.json"
    ours 20 qvgen-cpu matmul --model wan-1.3b --tokens 256 --bits 4,8 --device cpu --quick
    part 20 first-use python3 "$here/first_use.py" "$QVGEN" --out "$out/first-use.json"
fi

# Every bar with what was found, or that it was not measured.
python3 "$here/bars.py" "$out" ${bars:-} | tee "$out/bars.txt"
