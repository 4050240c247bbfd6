//! Lines: what a process agent may write on its standard output.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    #[cfg(fuzzing)]
    let _ = shoal::node::runtime::fuzzing::line(line);
    #[cfg(not(fuzzing))]
    let _ = line;
});
