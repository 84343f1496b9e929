//! How can an exchange end?

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestResult {
    /// A fresh page from memory.
    Hit,
    /// A page from memory that is not fresh.
    Stale,
    /// The answer of a fill that ran for somebody else.
    Coalesced,
    /// The answer, or the failure, of a fill that this request began.
    Miss,
    /// The answer of a fill that memory has no part in, as the caller asked.
    Bypass,
    /// A command.
    Command,
    /// Refused before it was either.
    Refused,
}

impl RequestResult {
    pub(super) const ALL: [Self; 7] = [
        Self::Hit,
        Self::Stale,
        Self::Coalesced,
        Self::Miss,
        Self::Bypass,
        Self::Command,
        Self::Refused,
    ];

    /// The spelling in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Coalesced => "coalesced",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::Command => "command",
            Self::Refused => "refused",
        }
    }
}
