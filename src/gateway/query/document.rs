//! All pages of a query as one document: do they belong together, and what do they make?
//!
//! The document has the vendor's shape, with all orders on one page. Number tokens stay as the
//! vendor wrote them; `data.sign` is left out, as it belongs to one page.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;

use super::cache::{Filled, NotStored, PageOfAll, Pages};
use crate::clock::Moment;
use crate::gateway::error::{Error, InvalidAnswer};
use crate::gateway::page::{OrderId, Page, Position};
use crate::signing::params::{Object, Params, Value, parse_object, write_object};
use crate::words::Outcome;

/// Orders on a page where the caller names no `page_size`.
const PAGE_SIZE: u64 = 100;

/// The pages that have come so far.
#[derive(Debug)]
pub struct Document {
    query: Params,
    pub(super) pages: Vec<PageOfAll>,
    /// The page of each order. One that stands on a page twice is the vendor's affair.
    page_of: HashMap<OrderId, u64>,
    pub(super) bytes: usize,
    /// What the first page says.
    pub(super) cut: Option<Cut>,
    /// Why the document may not be kept.
    pub(super) not_stored: Option<NotStored>,
}

/// How a query is cut into pages.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// The orders of its first page.
    pub orders: u64,
    /// How many pages there are.
    pub pages: u64,
    /// Has the vendor used another size than it was asked for? It may say so, or give fewer orders
    /// while there are more.
    pub is_another_size: bool,
}

/// Why a page cannot be added.
#[derive(Debug, PartialEq, Eq)]
pub struct Moved;

/// Of a page that came as a success.
pub(super) fn invalid(reason: InvalidAnswer) -> Error {
    Error::UpstreamInvalidAnswer {
        status: StatusCode::OK,
        outcome: Outcome::Success,
        reason,
    }
}

impl Document {
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
            cut: None,
            not_stored: None,
        }
    }

    /// What its first page says, or if that has come has said: this is a page, with so many orders
    /// on it.
    pub fn cut(&self, position: &Position, orders: u64) -> Cut {
        if let Some(cut) = self.cut {
            return cut;
        }
        let total = position.total_count;
        let is_another_size = self.query.number("page_size").is_some_and(|asked| {
            let is_short = orders != asked && orders < total;
            position.size != asked || is_short
        });
        let pages = if is_another_size {
            // As long as there are more, a page is as large as pages are.
            total
                .div_ceil(orders.max(1))
                .clamp(1, if orders == 0 { 1 } else { u64::MAX })
        } else {
            position.total_pages
        };
        Cut {
            orders,
            pages,
            is_another_size,
        }
    }

    /// Of a size that the vendor has chosen, all pages must be as large as the first, but for the
    /// last one.
    pub fn check_size(&self, position: &Position, orders: u64) -> Result<(), Error> {
        let (Some(cut), Some(first)) = (self.cut, self.pages.first()) else {
            return Ok(());
        };
        let number = self.pages.len() as u64 + 1;
        let is_last = number >= cut.pages;
        let is_another = position.number != number;
        let has_moved = is_another || position.total_count != first.position.total_count;
        if !cut.is_another_size || is_last || has_moved || orders == cut.orders {
            return Ok(());
        }
        Err(invalid(InvalidAnswer::Uneven {
            orders,
            first: cut.orders,
            size: self.query.number("page_size"),
        }))
    }

    /// The parameters of the next page; none if all have come.
    pub fn next(&self) -> Option<Params> {
        let number = self.pages.len() as u64 + 1;
        let is_there = self.cut.is_none_or(|cut| number <= cut.pages);
        is_there.then(|| {
            let query = self.query.with("page_no", number);
            match self.cut {
                // Named, it is not capped, so nobody counts in another one.
                Some(cut) if cut.is_another_size => query.with("page_size", cut.orders),
                _ => query,
            }
        })
    }

    /// Adds a page, if it belongs to those that are here: the next one, with the same
    /// totals and no order that was there already.
    pub fn add(
        &mut self,
        page: Arc<Page>,
        position: Position,
        cut: Cut,
        sent_at: Moment,
    ) -> Result<(), Moved> {
        let is_next = position.number == self.pages.len() as u64 + 1;
        let totals = |position: &Position| {
            let pages = position.total_pages;
            (
                position.total_count,
                (!cut.is_another_size).then_some(pages),
            ) // by the size that was asked for, or by that used
        };
        let first = self.pages.first().map(|first| totals(&first.position));
        let are_new = position.orders.iter().all(|order| {
            let page = self.page_of.entry(*order).or_insert(position.number);
            *page == position.number
        });
        if !is_next || !are_new || first.is_some_and(|first| first != totals(&position)) {
            return Err(Moved);
        }
        self.bytes += page.body.len();
        self.cut = Some(cut);
        self.pages.push(PageOfAll {
            position,
            page,
            sent_at,
        });
        Ok(())
    }

    /// The document; every page has come.
    pub fn finish(self) -> Result<Filled, Error> {
        let mut orders = Vec::new();
        for page in &self.pages {
            orders.append(&mut orders_of(&page.page).ok_or(invalid(InvalidAnswer::NotAPage))?);
        }
        let total = self.pages.first().map(|first| first.position.total_count);
        if total != Some(orders.len() as u64) {
            return Err(invalid(InvalidAnswer::Miscounted {
                orders: orders.len() as u64,
                total: total.unwrap_or_default(),
                first: self.cut.map_or(0, |cut| cut.orders),
                size: self.query.number("page_size"),
            }));
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
            pages: match self.cut {
                Some(cut) if cut.is_another_size => Pages::AllOfAnotherSize,
                _ => Pages::All(self.pages),
            },
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
pub(super) fn orders_of(page: &Page) -> Option<Vec<Value<'_>>> {
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
            size: 2,
            total_count: total,
            total_pages,
            orders: orders.to_vec(),
        };
        (Arc::new(page), position)
    }

    fn crawl(pages: &[(&[u64], u64)]) -> Result<Result<Filled, Error>, Moved> {
        crawl_of(br#"{"device_id":"A","page_no":7,"page_size":2}"#, 2, pages)
    }

    /// Pages of two orders, asked for by these parameters; after the first one with this size.
    fn crawl_of(
        asked: &[u8],
        size: u64,
        pages: &[(&[u64], u64)],
    ) -> Result<Result<Filled, Error>, Moved> {
        let query = Document::query(&Params::parse(asked).unwrap());
        let first_size = query.number("page_size").unwrap();
        let mut crawl = Document::new(query);
        for (number, (orders, total)) in (1..).zip(pages) {
            let params = crawl.next().expect("one more page");
            let size = if number == 1 { first_size } else { size };
            let expected = format!(r#"{{"device_id":"A","page_no":{number},"page_size":{size}}}"#);
            assert_eq!(params.as_str(), expected);
            let (page, position) = page(number, orders, *total);
            let cut = crawl.cut(&position, orders.len() as u64);
            crawl.add(page, position, cut, Moment::now())?;
        }
        assert!(crawl.next().is_none(), "that was all");
        Ok(crawl.finish())
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
    fn a_size_that_the_vendor_caps_is_asked_for_from_the_second_page_on() {
        let asked = br#"{"device_id":"A"}"#;
        let document = crawl_of(asked, 2, &[(&[1, 2], 5), (&[3, 4], 5), (&[5], 5)]);
        let document = document.unwrap().unwrap();
        assert!(matches!(document.pages, Pages::AllOfAnotherSize));
        let one_page = crawl_of(asked, 2, &[(&[1, 2], 2)]).unwrap().unwrap();
        assert!(matches!(one_page.pages, Pages::AllOfAnotherSize));
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
        let told = "another number of orders (3) than total_count says (4): the first page has 2";
        assert!(reason.contains(told), "{reason}");
        assert!(
            reason.contains("a page_size of 2 was asked for"),
            "{reason}"
        );
    }

    #[test]
    fn a_page_size_that_the_caller_names_is_kept() {
        let params = Params::parse(br#"{"page_size":"7","page_no":1}"#).unwrap();
        assert_eq!(Document::query(&params).as_str(), r#"{"page_size":"7"}"#);
    }
}
