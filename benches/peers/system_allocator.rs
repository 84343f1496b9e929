//! The gateway with the system's allocator: what mimalloc is compared with. `benches/peers/run
//! profile` builds it.

use std::process::ExitCode;

fn main() -> ExitCode {
    linksfield_gateway::cli::run()
}
