//! The upstream, the gateway and the client of the tests.

pub mod answer;
pub mod client;
pub mod frames;
pub mod gateway;
pub mod shell;
pub mod shim;
pub mod upstream;

use std::time::Duration;

pub use self::answer::{Gate, failure, page, success};
pub use self::client::{Reply, connect};
pub use self::gateway::{Gateway, gateway, gateway_to};
pub use self::shim::Shim;
pub use self::upstream::{Upstream, upstream};

pub const ACCESS_CODE: &str = "P000270";
pub const SECRET: &str = "demo-secret-0001";

/// No test waits longer for anything: what has not happened by then will not.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await; // between two looks at a condition
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, waiting).await.is_ok(),
        "never: {what}"
    );
}

/// A success with a text of this length in its data.
pub fn raw_success(text: &str) -> answer::Answer {
    success(&serde_json::json!({ "text": text }))
}
