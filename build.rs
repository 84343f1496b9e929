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
    let log = Path::new(".git/logs/HEAD"); // grows with each commit and each checkout
    if log.exists() {
        println!("cargo::rerun-if-changed={}", log.display());
    }
    let revision = std::env::var(VARIABLE)
        .ok()
        .or_else(of_git)
        .unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env={VARIABLE}={revision}");
}

fn of_git() -> Option<String> {
    let told = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()?;
    let revision = String::from_utf8(told.stdout).ok()?;
    (told.status.success()).then(|| revision.trim().to_owned())
}
