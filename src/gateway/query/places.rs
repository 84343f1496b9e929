//! Who may fetch all pages of a query now?

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::CRAWLS;
use crate::telemetry::TenantLabel;

/// Who may crawl now: one of a tenant, and [`CRAWLS`] in all. Who waits is served in the order they
/// came, and so many may wait.
#[derive(Debug)]
pub struct CrawlPlaces {
    line: Semaphore,
    by_tenant: Vec<Semaphore>,
    all: Semaphore,
}

impl CrawlPlaces {
    /// For so many tenants; `queue` crawls may wait.
    pub fn new(tenants: usize, queue: usize) -> Self {
        Self {
            // Those who need not wait pass through the line too.
            line: Semaphore::new(queue.saturating_add(CRAWLS).min(Semaphore::MAX_PERMITS)),
            by_tenant: (0..tenants).map(|_| Semaphore::new(1)).collect(),
            all: Semaphore::new(CRAWLS),
        }
    }

    /// Waits for a place for the tenant with this label; it is free again when what is returned is
    /// dropped. None if too many wait.
    pub async fn take(&self, tenant: TenantLabel) -> Option<[SemaphorePermit<'_>; 2]> {
        let _in_line = self.line.try_acquire().ok()?;
        let of_tenant = self.by_tenant[tenant.0].acquire().await;
        let of_all = self.all.acquire().await;
        Some([of_tenant, of_all].map(|place| place.expect("no semaphore is closed")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_crawls_may_wait_and_no_more() {
        let places = CrawlPlaces::new(2, 3);
        let _first = places.take(TenantLabel(0)).await.expect("nobody is there");
        let mut waiting: Vec<_> = (0..3 + CRAWLS)
            .map(|_| Box::pin(places.take(TenantLabel(0))))
            .collect();
        for taking in &mut waiting {
            assert!(futures::poll!(taking).is_pending());
        }
        assert!(places.take(TenantLabel(1)).await.is_none());
        waiting.pop();
        assert!(places.take(TenantLabel(1)).await.is_some(), "one has left");
    }
}
