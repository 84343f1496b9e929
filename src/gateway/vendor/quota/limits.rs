//! What does the vendor allow?

/// What the vendor allows, this process's share of it, and who may have how much of that.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Calls in any one second.
    pub per_second: Option<u32>,
    /// Connections at a time, and so calls, unless a slot takes more than one.
    pub connections: u32,
    /// Calls in a day.
    pub per_day: Option<u32>,
    /// The second after midnight UTC at which the day begins; none: any 24 hours are a day.
    pub day_begins_at: Option<u32>,
    /// Share of the day's calls that only commands on configured paths may use, from 0 to 1.
    pub command_reserve: f64,
    /// Calls that may wait.
    pub queue: usize,
    /// By the tenant's index. Where a change gives an index to another tenant, calls under way
    /// count for that one.
    pub tenants: Vec<Share>,
}

/// What a tenant may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// How much more than a tenant of weight 1, while both want calls.
    pub weight: u32,
    /// Its calls in any one second, though more were free.
    pub per_second: Option<u32>,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            weight: 1,
            per_second: None,
        }
    }
}
