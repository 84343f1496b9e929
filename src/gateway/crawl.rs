//! All pages of a query as one document: how are they fetched, do they belong together, and what do they make?
//!
//! The document has the vendor's shape, with all orders on one page. Number tokens stay as the vendor wrote them;
//! `data.sign` is left out, as it belongs to one page.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::cache::{Filled, Key, NotStored, PageOfAll, Pages, Terms};
use super::call::Unanswered;
use super::error::{Error, InvalidAnswer, Sent};
use super::page::{OrderId, Page, Position};
use super::params::{Object, Params, Value, parse_object, write_object};
use super::progress::Progress;
use super::route::Policy;
use super::{Call, Errand, Gateway, response};
use crate::clock::Moment;
use crate::config::CRAWLS;

/// Orders on a page where the caller names no `page_size`.
const PAGE_SIZE: u64 = 100;

/// All pages of one query may take one in so many of the calls that are left of the day.
const CRAWL_SHARE: u64 = 10;

/// The pages that have come so far.
#[derive(Debug)]
pub struct Crawl {
    query: Params,
    pages: Vec<PageOfAll>,
    /// The page of each order. One that stands on a page twice is the vendor's affair.
    page_of: HashMap<OrderId, u64>,
    bytes: usize,
    /// Why the document may not be kept.
    not_stored: Option<NotStored>,
}

/// Why a page cannot be added.
#[derive(Debug, PartialEq, Eq)]
pub struct Moved;

/// Who may crawl now: one of a tenant, and [`CRAWLS`] in all. Who waits is served in the order they came, and so many
/// may wait.
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

    /// Waits for a place for the tenant with this label; it is free again when what is returned is dropped. None if too
    /// many wait.
    pub async fn take(&self, tenant: usize) -> Option<[SemaphorePermit<'_>; 2]> {
        let _in_line = self.line.try_acquire().ok()?;
        let of_tenant = self.by_tenant[tenant].acquire().await;
        let of_all = self.all.acquire().await;
        Some([of_tenant, of_all].map(|place| place.expect("no semaphore is closed")))
    }
}

impl Gateway {
    /// All pages, one after the other; once more from the beginning if the orders have changed meanwhile.
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
        let _place = self.0.brakes.unless_applied(&call.subject(), place).await?;
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
        let mut crawl = Crawl::new(call.params.clone());
        while let Some(params) = crawl.next() {
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
            let answered = match self.ask(&call, errand.clone(), progress).await {
                Ok(answered) => answered,
                Err(Unanswered { error, later }) => {
                    if let Some(later) = later {
                        let (number, policy) = (crawl.pages.len() as u64 + 1, policy.clone());
                        let (cache, page_key) = (self.0.cache.clone(), key.page(number));
                        let filled = later.filled(true, progress.clone());
                        tokio::spawn(async move {
                            if let Ok(filled) = filled.await {
                                cache.keep_page(&page_key, filled, terms, &policy);
                            }
                        });
                    }
                    return Err(error);
                }
            };
            let filled = response::to_filled(answered.answer, true, answered.sent_at)?;
            drop((answered.line, answered.permit));
            let position = match (filled.not_stored, &filled.pages) {
                (None | Some(NotStored::Unframed), Pages::One(position))
                    if orders_of(&filled.page).is_some() =>
                {
                    position.clone()
                }
                (Some(NotStored::NoSuccess), _) if !filled.page.head.is_encoded() => {
                    let pages = Pages::None; // a failure, as the vendor tells it
                    return Ok(Some(Filled { pages, ..filled }));
                }
                _ => return Err(invalid(InvalidAnswer::NotAPage)),
            };
            let is_first = crawl.pages.is_empty();
            if is_first
                && let Err(error) = self
                    .may_crawl(position.total_pages, *made, policy)
                    .and_then(|()| self.may_hold(&filled.page, &position))
            {
                let first = key.page(1);
                self.0.cache.keep_page(&first, filled, terms, policy); // who asks next is refused without a call
                return Err(error);
            }
            *made += 1;
            let (bytes, most) = (
                crawl.bytes + filled.page.body.len(),
                self.0.bounds.max_document,
            );
            if bytes > most {
                let (bytes, most) = (bytes as u64, most as u64);
                return Err(Error::DocumentTooLarge { bytes, most });
            }
            crawl.not_stored = crawl.not_stored.or(filled.not_stored);
            if crawl.add(filled.page, position, filled.sent_at) == Err(Moved) {
                return Ok(None);
            }
        }
        crawl.document().map(Some)
    }

    /// The first page has come, and says how many there are: may the others be fetched? So many calls were `made` in vain
    /// before that.
    fn may_crawl(&self, pages: u64, made: u64, policy: &Policy) -> Result<(), Error> {
        let most = policy.max_pages;
        if pages > most {
            return Err(Error::TooManyPages { pages, most });
        }
        let Some(left) = self.0.quota.left_for_queries() else {
            return Ok(());
        };
        let calls = pages.saturating_sub(1);
        if calls > 0 && (made + calls) * CRAWL_SHARE > made + u64::from(left) {
            return Err(Error::CrawlTooDear { calls, left });
        }
        Ok(())
    }

    /// Would the document be small enough, if all orders are as large as those of the first page?
    fn may_hold(&self, first: &Page, position: &Position) -> Result<(), Error> {
        let (body, here) = (first.body.len() as u64, position.orders.len().max(1) as u64);
        let bytes = body.saturating_mul(position.total_count) / here;
        let most = self.0.bounds.max_document as u64;
        if bytes > most && position.total_pages > 1 {
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

/// Of a page that came with HTTP 200.
fn invalid(reason: InvalidAnswer) -> Error {
    let status = StatusCode::OK;
    Error::UpstreamInvalidAnswer { status, reason }
}

impl Crawl {
    /// What all pages of `params` are asked with, but for the number of the page.
    pub fn query(params: &Params) -> Params {
        let params = params.without("page_no");
        match params.values(["page_size"]) {
            [Some(_)] => params,
            [None] => params.with("page_size", PAGE_SIZE),
        }
    }

    /// No page yet; `query` is made by [`query`](Self::query).
    pub fn new(query: Params) -> Self {
        Self {
            query,
            pages: Vec::new(),
            page_of: HashMap::new(),
            bytes: 0,
            not_stored: None,
        }
    }

    /// The parameters of the next page; none if all have come.
    pub fn next(&self) -> Option<Params> {
        let number = self.pages.len() as u64 + 1;
        let is_there = self
            .pages
            .first()
            .is_none_or(|first| number <= first.position.total_pages);
        is_there.then(|| self.query.with("page_no", number))
    }

    /// Adds a page, if it belongs to those that are here: the next one, with the same
    /// totals and no order that was there already.
    pub fn add(
        &mut self,
        page: Arc<Page>,
        position: Position,
        sent_at: Moment,
    ) -> Result<(), Moved> {
        let is_next = position.number == self.pages.len() as u64 + 1;
        let totals = |position: &Position| (position.total_count, position.total_pages);
        let first = self.pages.first().map(|first| totals(&first.position));
        let are_new = position.orders.iter().all(|order| {
            let page = self.page_of.entry(*order).or_insert(position.number);
            *page == position.number
        });
        if !is_next || !are_new || first.is_some_and(|first| first != totals(&position)) {
            return Err(Moved);
        }
        self.bytes += page.body.len();
        self.pages.push(PageOfAll {
            position,
            page,
            sent_at,
        });
        Ok(())
    }

    /// The document; every page has come.
    fn document(self) -> Result<Filled, Error> {
        let mut orders = Vec::new();
        for page in &self.pages {
            orders.append(&mut orders_of(&page.page).ok_or(invalid(InvalidAnswer::NotAPage))?);
        }
        let total = self.pages.first().map(|first| first.position.total_count);
        if total != Some(orders.len() as u64) {
            return Err(invalid(InvalidAnswer::Miscounted));
        }
        let body = self.write(orders);
        let body = body.ok_or(invalid(InvalidAnswer::NotAPage))?;
        let first = &self.pages[0];
        let head = first.page.head.clone();
        let page = Page { head, body };
        Ok(Filled {
            page: Arc::new(page),
            not_stored: self.not_stored,
            failure: None,
            sent_at: first.sent_at,
            pages: Pages::All(self.pages),
        })
    }

    /// The first page with all orders on it; none if it is not what it was taken for.
    fn write(&self, orders: Vec<Value<'_>>) -> Option<Bytes> {
        let first = self.pages.first()?;
        let number = orders.len().to_string();
        let mut envelope = parse_object(&first.page.body).ok()?;
        let data = object(&mut envelope, "data")?;
        data.retain(|(key, _)| key != "sign");
        let counts = [
            ("cur_page_no", "1"),
            ("page_size", number.as_str()),
            ("total_count", number.as_str()),
            ("total_pages", "1"),
        ];
        for (key, count) in counts {
            *member(object(data, "page")?, key)? = Value::Number(count);
        }
        if let Some(number_of_orders) = member(data, "package_order_num") {
            *number_of_orders = Value::Number(&number);
        }
        *member(data, "package_order")? = Value::Array(orders);
        let mut text = String::with_capacity(self.bytes);
        write_object(&mut text, &envelope);
        Some(Bytes::from(text))
    }
}

/// The orders of a page; none if it is not what it was taken for.
fn orders_of(page: &Page) -> Option<Vec<Value<'_>>> {
    let mut envelope = parse_object(&page.body).ok()?;
    match member(object(&mut envelope, "data")?, "package_order")? {
        Value::Array(orders) => Some(std::mem::take(orders)),
        _ => None,
    }
}

fn member<'m, 'a>(object: &'m mut Object<'a>, key: &str) -> Option<&'m mut Value<'a>> {
    let mut members = object.iter_mut();
    members
        .find(|(name, _): &&mut (Cow<'a, str>, _)| name == key)
        .map(|(_, value)| value)
}

fn object<'m, 'a>(parent: &'m mut Object<'a>, key: &str) -> Option<&'m mut Object<'a>> {
    match member(parent, key)? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::page::Head;

    fn page(number: u64, orders: &[u64], total: u64) -> (Arc<Page>, Position) {
        let items: Vec<_> = orders
            .iter()
            .map(|order| format!(r#"{{"orderCode":"L{order}","price":1.50,"x":1e-7}}"#))
            .collect();
        let total_pages = total.div_ceil(2);
        let body = format!(
            r#"{{"code":"0000","data":{{"sign":"s{number}","page":{{"cur_page_no":{number},"page_size":2,"total_count":{total},"total_pages":{total_pages}}},"package_order_num":{},"package_order":[{}]}},"message":"成功","success":true}}"#,
            orders.len(),
            items.join(",")
        );
        let page = Page {
            head: Head::of(StatusCode::OK).shared(),
            body: body.into(),
        };
        let position = Position {
            number,
            total_count: total,
            total_pages,
            orders: orders.to_vec(),
        };
        (Arc::new(page), position)
    }

    fn crawl(pages: &[(&[u64], u64)]) -> Result<Result<Filled, Error>, Moved> {
        let query = Crawl::query(&Params::parse(br#"{"device_id":"A","page_no":7}"#).unwrap());
        let mut crawl = Crawl::new(query);
        for (number, (orders, total)) in (1..).zip(pages) {
            let params = crawl.next().expect("one more page");
            let expected = format!(r#"{{"device_id":"A","page_no":{number},"page_size":100}}"#);
            assert_eq!(params.as_str(), expected);
            let (page, position) = page(number, orders, *total);
            crawl.add(page, position, Moment::now())?;
        }
        assert!(crawl.next().is_none(), "that was all");
        Ok(crawl.document())
    }

    #[test]
    fn the_document_is_one_page_with_all_orders_and_their_digits() {
        let document = crawl(&[(&[1, 2], 3), (&[3], 3)]).unwrap().unwrap();
        let text = std::str::from_utf8(&document.page.body).unwrap();
        let order = |number| format!(r#"{{"orderCode":"L{number}","price":1.50,"x":1e-7}}"#);
        let expected = format!(
            r#"{{"code":"0000","data":{{"page":{{"cur_page_no":1,"page_size":3,"total_count":3,"total_pages":1}},"package_order_num":3,"package_order":[{},{},{}]}},"message":"成功","success":true}}"#,
            order(1),
            order(2),
            order(3)
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn no_orders_make_a_document_of_no_orders() {
        let document = crawl(&[(&[], 0)]).unwrap().unwrap();
        let text = std::str::from_utf8(&document.page.body).unwrap();
        assert!(text.contains(r#""package_order_num":0,"package_order":[]}"#));
    }

    #[test]
    fn pages_that_have_moved_make_no_document() {
        assert_eq!(crawl(&[(&[1, 2], 4), (&[3, 4], 5)]).unwrap_err(), Moved);
        assert_eq!(crawl(&[(&[1, 2], 4), (&[2, 3], 4)]).unwrap_err(), Moved);
    }

    #[test]
    fn pages_without_all_orders_make_no_document() {
        let miscounted = crawl(&[(&[1, 2], 4), (&[3], 4)]).unwrap().unwrap_err();
        let reason = miscounted.to_string();
        assert!(reason.contains("another number of orders"), "{reason}");
    }

    #[tokio::test]
    async fn so_many_crawls_may_wait_and_no_more() {
        let places = CrawlPlaces::new(2, 3);
        let _first = places.take(0).await.expect("nobody is there");
        let mut waiting: Vec<_> = (0..3 + CRAWLS).map(|_| Box::pin(places.take(0))).collect();
        for taking in &mut waiting {
            assert!(futures::poll!(taking).is_pending());
        }
        assert!(places.take(1).await.is_none());
        waiting.pop();
        assert!(places.take(1).await.is_some(), "one has left");
    }

    #[test]
    fn a_page_size_that_the_caller_names_is_kept() {
        let params = Params::parse(br#"{"page_size":"7","page_no":1}"#).unwrap();
        assert_eq!(Crawl::query(&params).as_str(), r#"{"page_size":"7"}"#);
    }
}
