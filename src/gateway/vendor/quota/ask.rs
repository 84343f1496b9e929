//! Who asks for a permit, and for what?

use std::time::Duration;

use tokio::time::Instant;

use crate::gateway::progress::Progress;
use crate::words::Class;

/// Who asks for a permit, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The tenant's index.
    pub tenant: usize,
    /// What it is to the others of its tenant.
    pub class: Class,
    /// Is the path configured? Only then may a command use the reserve.
    pub is_listed: bool,
    /// How far the call has come, and whether somebody waits for it.
    pub progress: &'a Progress,
    /// When the answer is of no use any more.
    pub deadline: Instant,
    /// How long the call usually takes, once it has its permit.
    pub usual: Duration,
}

impl Ask<'_> {
    /// What it is now: who waits for it may have come or gone.
    pub fn class(&self) -> Class {
        self.class.of(self.progress)
    }
}

impl Class {
    /// What it is with those who wait for its progress.
    #[must_use]
    pub fn of(self, progress: &Progress) -> Self {
        match self {
            Self::Refresh if progress.is_awaited() => Self::Query,
            Self::Query if progress.is_abandoned() => Self::Refresh,
            class => class,
        }
    }
}
