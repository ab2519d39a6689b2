#![no_main]
#[path = "../../crates/estargz/tests/fuzz/harness.rs"]
#[allow(dead_code, reason = "each target drives one of them")]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::blob(data));
