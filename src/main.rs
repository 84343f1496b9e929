//! The process: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    linksfield_gateway::cli::run()
}
