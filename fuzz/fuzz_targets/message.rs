//! Hands inputs of libFuzzer to the target `message`, changed by the mutator that knows its checksums.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|bytes: &[u8]| {
    quorate_fuzz::message(bytes);
});

fuzz_mutator!(|bytes: &mut [u8], size: usize, max_size: usize, seed: u32| {
    quorate_fuzz::change(quorate_fuzz::target("message"), bytes, size, max_size, seed)
});
