#!/bin/sh
# Builds the fuzzers with AddressSanitizer and runs each for an equal share of the time.
#
#   tests/fuzz/run.sh SECONDS [TARGET...]
#
# Seeds are in corpus/TARGET; what the fuzzers find worth keeping goes to the target folder, as do inputs that crash.
# Those are printed with the way to run them again, and the exit status is 1.
set -eu

usage() {
    echo "usage: tests/fuzz/run.sh SECONDS [TARGET...]" >&2
    exit 2
}

[ $# -ge 1 ] || usage
seconds=$1
shift
case "$seconds" in
    '' | *[!0-9]* | 0) usage ;;
esac

folder=$(cd "$(dirname "$0")" && pwd)
shared=${CARGO_TARGET_DIR:-$folder/../../target}
mkdir -p "$shared/fuzz"
target_dir=$(cd "$shared/fuzz" && pwd)
triple=$(rustc --version --verbose | sed -n 's/^host: //p')

# The toolchain is a stable one, and sanitizers are not: RUSTC_BOOTSTRAP lifts the guard. The flags are those that
# cargo-fuzz gives; the target is named so that they hold for the program and not for what builds it.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address -Cforce-frame-pointers \
-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"

# Every target, unless some are named.
if [ $# -eq 0 ]; then
    cd "$folder/targets"
    set -- *.rs
    cd "$folder"
fi
for target in "$@"; do
    shift
    set -- "$@" "${target%.rs}"
done

# shellcheck disable=SC2046  # a list of words
cargo build --release --manifest-path "$folder/Cargo.toml" --target "$triple" --target-dir "$target_dir" \
    $(printf -- '--bin %s ' "$@")

share=$((seconds / $#))
[ "$share" -gt 0 ] || share=1

failed=
for target in "$@"; do
    program=$target_dir/$triple/release/$target
    found=$target_dir/corpus/$target
    artifacts=$target_dir/artifacts/$target
    seeds=$folder/corpus/$target
    log=$target_dir/$target.log
    mkdir -p "$found" "$artifacts"
    [ -d "$seeds" ] || { echo "fuzz: $target has no seeds in $seeds" >&2; exit 1; }
    if "$program" -max_total_time="$share" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$artifacts/" "$found" "$seeds" >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        echo "fuzz: $target: $runs runs in $share s, nothing found"
    else
        failed="$failed $target"
        tail -n 60 "$log"
        artifact=$(sed -n 's/^.*Test unit written to //p' "$log" | tail -n 1)
        echo "fuzz: $target FAILED; the input is ${artifact:-not known, see $log}"
        [ -z "$artifact" ] || echo "fuzz: again: $program $artifact"
    fi
done
if [ -n "$failed" ]; then
    echo "fuzz: failed:$failed" >&2
    exit 1
fi
