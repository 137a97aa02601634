#!/bin/sh
# Has libFuzzer look for what breaks a reader: fuzz.sh SECONDS [READER...]; without names, each reader in turn.
#
# The coverage that libFuzzer goes by is LLVM's, which every compiler of Rust can put in; so this needs no nightly one, and
# does without the sanitizers, which look for what only 'unsafe' can do. What is found lies in target/fuzz/found/READER; put
# it into fuzz/seeds/READER, where 'make test' gives it to the reader from then on.
set -eu
cd "$(dirname "$0")/.."
seconds=$1
shift
coverage='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks'
host=$(rustc -vV | sed -n 's/^host: //p')
# Naming the host keeps the flags from what only runs while it is built.
RUSTFLAGS=$(echo $coverage) CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_INCREMENTAL=false \
    cargo build --quiet --release --package fuzz --features libfuzzer --target "$host" --target-dir target/fuzz
program=target/fuzz/$host/release/fuzz
[ $# -gt 0 ] || set -- $(ls fuzz/seeds)
for reader in "$@"; do
    mkdir -p "target/fuzz/corpus/$reader" "target/fuzz/found/$reader"
    echo "== $reader: $seconds s" >&2
    FUZZ_READER=$reader "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 -max_len=65536 \
        -print_final_stats=1 -artifact_prefix="target/fuzz/found/$reader/" "target/fuzz/corpus/$reader" "fuzz/seeds/$reader" 2>&1 |
        sed -n '/^stat::number_of_executed_units\|^stat::peak_rss\|panicked\|ERROR\|SUMMARY\|written to\|FUZZ_READER\|#.*DONE/p' >&2
    [ -z "$(ls "target/fuzz/found/$reader")" ] || { echo "fuzz: what breaks '$reader' is in target/fuzz/found/$reader" >&2; exit 1; }
done
