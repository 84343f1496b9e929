//! `[cache]`: the pages in memory.

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::written;

/// `[cache]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Memory that cached answers may take.
    #[serde(serialize_with = "written::size")]
    pub max_size: ByteSize,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            max_size: ByteSize::mib(64),
        }
    }
}
