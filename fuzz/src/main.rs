//! libFuzzer on one reader: `FUZZ_READER` is its name, all else is libFuzzer's own; `scripts/fuzz.sh` builds and calls it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static READER: LazyLock<fuzz::Reader> = LazyLock::new(|| {
    let wanted = std::env::var("FUZZ_READER").unwrap_or_default();
    let known: Vec<_> = fuzz::readers().collect();
    let found = known.iter().find(|(name, _)| *name == wanted).map(|&(_, reader)| reader);
    found.unwrap_or_else(|| {
        let names: Vec<_> = known.iter().map(|&(name, _)| name).collect();
        eprintln!("FUZZ_READER is '{wanted}', and has to be one of {}", names.join(", "));
        std::process::exit(2)
    })
});

fuzz_target!(|bytes: &[u8]| READER(bytes));
