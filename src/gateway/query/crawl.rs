//! All pages of a query: who may fetch them now, and how are they fetched?

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Queries;
use super::cache::{Filled, Key, NotStored, Pages, Terms};
use super::document::{Cut, Document, Moved, invalid, orders_of};
use super::fill::{Expected, filled_later, to_filled};
use crate::clock::Moment;
use crate::gateway::error::{Error, InvalidAnswer};
use crate::gateway::page::{Page, Position};
use crate::gateway::progress::Progress;
use crate::gateway::request::Call;
use crate::gateway::request::route::Policy;
use crate::gateway::vendor::call::{Errand, Unanswered};
use crate::words::Sent;

/// All pages of one query may take one in so many of the calls that are left of the day.
const CRAWL_SHARE: u64 = 10;

impl Queries {
    /// All pages, one after the other; once more from the beginning if the orders have changed
    /// meanwhile.
    pub(super) async fn crawl(
        &self,
        call: &Call,
        policy: &Policy,
        errand: &Errand,
        progress: &Progress,
    ) -> Result<Filled, Error> {
        let place = async {
            let place = self.0.crawls.take(call.tenant.label);
            let place = timeout_at(errand.patience, place).await;
            place.ok().flatten().ok_or(Error::Overloaded {
                retry_after: Duration::from_secs(1),
            })
        };
        let _place = self
            .0
            .vendor
            .lasting()
            .brakes()
            .unless_applied(&call.subject(), place)
            .await?;
        if let Some(pages) = self.0.cache.total_pages(&self.whole_key(call), policy) {
            self.may_crawl(pages, 0, policy)?; // before the first call, where that is known
        }
        let mut made = 0;
        for _ in 0..2 {
            let crawled = self.crawl_once(call, policy, errand, progress, &mut made);
            match crawled.await {
                Ok(Some(filled)) => return Ok(filled),
                Ok(None) => {}
                Err(error) if progress.sent() == Sent::Yes => {
                    return Err(Error::MidCrawl(error.into()));
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::PagesMoved)
    }

    /// All pages, or what the vendor says instead; none if they do not belong together.
    async fn crawl_once(
        &self,
        call: &Call,
        policy: &Policy,
        errand: &Errand,
        progress: &Progress,
        made: &mut u64,
    ) -> Result<Option<Filled>, Error> {
        let key = self.whole_key(call);
        let mut document = Document::new(call.params.clone());
        while let Some(params) = document.next() {
            let call = Call {
                params,
                ..call.clone()
            };
            if Instant::now() >= errand.patience {
                return Err(Error::UpstreamTimeout(progress.sent()));
            }
            let terms = Terms {
                validity: key.begin(Moment::now()),
                configuration: self.0.configuration,
                is_private: false,
                is_forced: false,
            };
            let answered = match self.0.vendor.ask(&call, errand.clone(), progress).await {
                Ok(answered) => answered,
                Err(Unanswered { error, later }) => {
                    let is_another_size = document.cut.is_some_and(|cut| cut.is_another_size);
                    if let Some(later) = later.filter(|_| !is_another_size) {
                        let (number, policy) = (document.pages.len() as u64 + 1, policy.clone());
                        let (cache, page_key) = (self.0.cache.clone(), key.page(number));
                        let filled =
                            filled_later(later, Expected::PageOf(call.params), progress.clone());
                        tokio::spawn(async move {
                            if let Ok(filled) = filled.await {
                                cache.keep_page(&page_key, filled, terms, &policy);
                            }
                        });
                    }
                    return Err(error);
                }
            };
            let expected = Expected::AnyPage;
            let filled = to_filled(answered.answer, &expected, answered.sent_at)?;
            drop((answered.stream, answered.permit));
            let orders = orders_of(&filled.page).map(|orders| orders.len() as u64);
            let (position, orders) = match (filled.not_stored, &filled.pages, orders) {
                (None | Some(NotStored::Unframed), Pages::One(position), Some(orders)) => {
                    (position.clone(), orders)
                }
                (Some(NotStored::NoSuccess), ..) if !filled.page.head.is_encoded() => {
                    let pages = Pages::None; // a failure, as the vendor tells it
                    return Ok(Some(Filled { pages, ..filled }));
                }
                _ => return Err(invalid(InvalidAnswer::NotAPage)),
            };
            let cut = document.cut(&position, orders);
            if document.pages.is_empty()
                && let Err(error) = self
                    .may_crawl(cut.pages, *made, policy)
                    .and_then(|()| self.may_hold(&filled.page, &position, &cut))
            {
                if !cut.is_another_size {
                    let first = key.page(1);
                    self.0.cache.keep_page(&first, filled, terms, policy); // who asks next is refused without a call
                }
                return Err(error);
            }
            document.check_size(&position, orders)?;
            *made += 1;
            let (bytes, most) = (document.bytes + filled.page.body.len(), self.0.max_document);
            if bytes > most {
                let (bytes, most) = (bytes as u64, most as u64);
                return Err(Error::DocumentTooLarge { bytes, most });
            }
            document.not_stored = document.not_stored.or(filled.not_stored);
            if document.add(filled.page, position, cut, filled.sent_at) == Err(Moved) {
                return Ok(None);
            }
        }
        document.finish().map(Some)
    }

    /// The first page has come, and says how many there are: may the others be fetched? So many
    /// calls were `made` in vain before that.
    fn may_crawl(&self, pages: u64, made: u64, policy: &Policy) -> Result<(), Error> {
        let most = policy.max_pages;
        if pages > most {
            return Err(Error::TooManyPages { pages, most });
        }
        let Some(left) = self.0.vendor.lasting().quota().left_for_queries() else {
            return Ok(());
        };
        let calls = pages.saturating_sub(1);
        if calls > 0 && (made + calls) * CRAWL_SHARE > made + u64::from(left) {
            return Err(Error::CrawlTooDear { calls, left });
        }
        Ok(())
    }

    /// Would the document be small enough, if all orders are as large as those of the first page?
    fn may_hold(&self, first: &Page, position: &Position, cut: &Cut) -> Result<(), Error> {
        let body = first.body.len() as u64;
        let bytes = body.saturating_mul(position.total_count) / cut.orders.max(1);
        let most = self.0.max_document as u64;
        if bytes > most && cut.pages > 1 {
            return Err(Error::DocumentTooLarge { bytes, most });
        }
        Ok(())
    }

    /// The key of the document; `call` asks for all pages.
    fn whole_key(&self, call: &Call) -> Key {
        let scope = self.0.scopes.of(&call.tenant, &call.target.route).clone();
        Key::whole(scope, call.language.tag.clone(), &call.params)
    }
}
