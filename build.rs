//! Tells the binary which revision it is built from: of the variable that image builds set, else of git.

use std::path::Path;
use std::process::Command;

const VARIABLE: &str = "LINKSFIELD_GATEWAY_REVISION";

#[expect(
    clippy::disallowed_methods,
    reason = "a build script reads the environment of the build"
)]
fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    // Grows with each commit and each checkout. In a worktree it is not below .git, which is a file there.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    if let Some(log) = log.filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    let revision = std::env::var(VARIABLE)
        .ok()
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env={VARIABLE}={revision}");
}

fn git(arguments: &[&str]) -> Option<String> {
    let told = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(told.stdout).ok()?;
    (told.status.success()).then(|| text.trim().to_owned())
}
