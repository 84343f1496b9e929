//! The process: arguments in, exit code out.

use std::process::ExitCode;

/// Pages of all sizes come and go: with glibc's allocator a full cache of small pages took 2.2
/// times the memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    linksfield_gateway::cli::run()
}
