//! `[idempotency]`: what is remembered of commands that came with a key.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::written;

/// The default of `max_keys`.
const MAX_KEYS: NonZeroUsize = NonZeroUsize::new(100_000).expect("above 0");

/// `[idempotency]`: what is remembered of commands that came with an `idempotency-key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdempotencyKeys {
    /// How long, from the end of the command.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// So many keys; beyond, new ones are refused.
    pub max_keys: NonZeroUsize,
    /// Memory, and room on disk, that their answers may take; beyond, new keys are refused.
    #[serde(serialize_with = "written::size")]
    pub max_size: ByteSize,
}

impl Default for IdempotencyKeys {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(24 * 3600),
            max_keys: MAX_KEYS,
            max_size: ByteSize::mib(64),
        }
    }
}
