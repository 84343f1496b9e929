//! What does an answer mean? By HTTP status *and* by the envelope's `code`, as Linksfield says most
//! things with HTTP 200.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

use hyper::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::config::Codes;
use crate::gateway::page::{OrderId, Position};
use crate::signing::params::without_mark;
use crate::words::Outcome;

/// What an envelope holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Its `data` is neither object nor array; or it is no envelope.
    NoData,
    /// Its `data` is an object or an array.
    Data,
    /// Its `data` has a `page` and a `package_order`.
    Page(Position),
}

/// What an answer means.
#[derive(Debug)]
pub struct AnswerMeaning {
    pub outcome: Outcome,
    /// Is it a JSON object with a `code`?
    pub is_envelope: bool,
    pub vendor_code: Option<Cow<'static, str>>,
    /// Does nothing say what the envelope's code means? Then the status alone decides.
    pub has_unknown_code: bool,
    pub is_json: bool,
}

impl AnswerMeaning {
    pub fn of(status: StatusCode, body: &[u8], codes: &Codes) -> Self {
        let envelope = Envelope::read(body);
        Self {
            outcome: classify(status, envelope.as_ref(), codes),
            is_envelope: envelope.is_some(),
            is_json: envelope.is_some() || is_json(body),
            has_unknown_code: envelope
                .as_ref()
                .is_some_and(|envelope| !is_known(&envelope.code, codes)),
            vendor_code: envelope.map(|envelope| presentable(envelope.code)),
        }
    }
}

impl Shape {
    /// Reads the data too, which only the answers to queries are read for.
    pub fn of(body: &[u8]) -> Self {
        let Some(data) = Envelope::read(body).and_then(|envelope| envelope.data) else {
            return Self::NoData;
        };
        match serde_json::from_str::<PagedData<'_>>(data.get()) {
            Ok(data) => Self::Page(data.position()),
            Err(_) if data.get().starts_with(['{', '[']) => Self::Data,
            Err(_) => Self::NoData,
        }
    }
}

/// The code of a success.
pub const SUCCESS: &str = "0000";

/// Stands for a code that no log may show.
pub const UNPRINTABLE: &str = "unprintable";

/// The vendor's envelope: `{"code": …, "data": …, "message": …, "success": …}`.
#[derive(Debug, Deserialize)]
struct Envelope<'a> {
    /// [`SUCCESS`], or another; the vendor's table is not public.
    #[serde(borrow)]
    code: Cow<'a, str>,
    success: Option<bool>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    fn read(body: &'a [u8]) -> Option<Self> {
        read_json(body)
    }
}

/// RFC 8259, section 8.1: what is not UTF-8 is no JSON, and what is may have a byte order mark
/// before it. (serde looks only at the strings that somebody reads.)
fn read_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    serde_json::from_str(str::from_utf8(without_mark(body)).ok()?).ok()
}

fn is_json(body: &[u8]) -> bool {
    read_json::<IgnoredAny>(body).is_some()
}

/// The code as it may stand in a log: it comes from outside. That of a success, which most are, is
/// shared.
fn presentable(code: Cow<'_, str>) -> Cow<'static, str> {
    let is_plain = |code: &str| {
        let mut bytes = code.bytes();
        bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if code == SUCCESS {
        Cow::Borrowed(SUCCESS)
    } else if code.len() <= 32 && is_plain(&code) {
        Cow::Owned(code.into_owned())
    } else {
        Cow::Borrowed(UNPRINTABLE)
    }
}

/// `data` of a paged answer, as far as it must be there.
#[derive(Deserialize)]
struct PagedData<'a> {
    page: PageNumbers,
    #[serde(borrow)]
    package_order: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct PageNumbers {
    cur_page_no: u64,
    page_size: u64,
    total_count: u64,
    total_pages: u64,
}

/// What tells one order from another. An order whose code is missing contradicts nothing.
#[derive(Deserialize)]
struct Order<'a> {
    #[serde(rename = "orderCode", borrow)]
    code: &'a RawValue,
    #[serde(rename = "deviceId", borrow)]
    device: Option<&'a RawValue>,
}

impl PagedData<'_> {
    fn position(&self) -> Position {
        let orders = self.package_order.iter();
        Position {
            number: self.page.cur_page_no,
            size: self.page.page_size,
            total_count: self.page.total_count,
            total_pages: self.page.total_pages,
            orders: orders.filter_map(|order| order_id(order)).collect(),
        }
    }
}

fn order_id(order: &RawValue) -> Option<OrderId> {
    let order: Order<'_> = serde_json::from_str(order.get()).ok()?;
    if matches!(order.code.get(), "null" | "\"\"") {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (order.code.get(), order.device.map(RawValue::get)).hash(&mut hasher);
    Some(hasher.finish())
}

fn is_known(code: &str, codes: &Codes) -> bool {
    let Codes {
        bad_signature,
        throttled,
        transient,
        caller_error,
    } = codes;
    let mut lists = [bad_signature, throttled, transient, caller_error].into_iter();
    code == SUCCESS || lists.any(|list| list.iter().any(|listed| listed == code))
}

/// The table: status and `code` → meaning.
fn classify(status: StatusCode, envelope: Option<&Envelope<'_>>, codes: &Codes) -> Outcome {
    let listed = |list: &[String]| {
        envelope.is_some_and(|envelope| list.iter().any(|code| **code == *envelope.code))
    };
    let succeeded =
        envelope.is_some_and(|envelope| envelope.code == SUCCESS && envelope.success == Some(true));
    match status.as_u16() {
        401 | 403 => Outcome::BadSignature,
        429 => Outcome::Throttled,
        // A server in between has lost patience, with the request's body or with the vendor.
        408 | 500.. => Outcome::Transient,
        _ if listed(&codes.bad_signature) => Outcome::BadSignature,
        _ if listed(&codes.throttled) => Outcome::Throttled,
        _ if listed(&codes.transient) => Outcome::Transient,
        200 if succeeded => Outcome::Success,
        400..=499 => Outcome::CallerError,
        _ if listed(&codes.caller_error) => Outcome::CallerError,
        _ => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_code_decide_together() {
        let codes = Codes {
            bad_signature: vec!["1001".into()],
            throttled: vec!["2002".into()],
            transient: vec!["3003".into()],
            caller_error: vec!["4004".into()],
        };
        let ok = r#"{"code":"0000","data":{},"message":"成功","success":true}"#;
        let code = |code: &str| {
            format!(r#"{{"code":"{code}","data":null,"message":"x","success":false}}"#)
        };
        let rows = [
            (200, ok.to_owned(), Outcome::Success),
            (
                200,
                r#"{"code":"0000","success":false}"#.to_owned(),
                Outcome::Unknown,
            ),
            (200, r#"{"code":"0000"}"#.to_owned(), Outcome::Unknown),
            (200, code("1001"), Outcome::BadSignature),
            (200, code("2002"), Outcome::Throttled),
            (200, code("3003"), Outcome::Transient),
            (200, code("4004"), Outcome::CallerError),
            (200, code("4711"), Outcome::Unknown),
            (201, ok.to_owned(), Outcome::Unknown),
            (400, code("4711"), Outcome::CallerError),
            (404, "no envelope".to_owned(), Outcome::CallerError),
            (408, String::new(), Outcome::Transient),
            (400, code("2002"), Outcome::Throttled),
            (401, ok.to_owned(), Outcome::BadSignature),
            (403, code("4711"), Outcome::BadSignature),
            (429, String::new(), Outcome::Throttled),
            (500, ok.to_owned(), Outcome::Transient),
            (503, String::new(), Outcome::Transient),
        ];
        for (status, body, expected) in rows {
            let status = StatusCode::from_u16(status).unwrap();
            let meaning = AnswerMeaning::of(status, body.as_bytes(), &codes);
            assert_eq!(meaning.outcome, expected, "{status} {body}");
        }
    }

    #[test]
    fn a_code_is_known_that_is_in_a_list_or_that_of_a_success() {
        let codes = Codes {
            caller_error: vec!["4004".into()],
            ..Codes::default()
        };
        for (code, is_unknown) in [("4711", true), ("4004", false), ("0000", false)] {
            for status in [StatusCode::OK, StatusCode::BAD_REQUEST] {
                let body = format!(r#"{{"code":"{code}","success":false}}"#);
                let meaning = AnswerMeaning::of(status, body.as_bytes(), &codes);
                assert_eq!(meaning.has_unknown_code, is_unknown, "{status} {code}");
            }
        }
        assert!(!AnswerMeaning::of(StatusCode::OK, b"[]", &codes).has_unknown_code);
    }

    #[test]
    fn what_is_no_envelope_is_none() {
        for body in [
            "",
            "[]",
            "null",
            "<html>",
            r#"{"success":true}"#,
            r#"{"code":0}"#,
            r#"{"code":"0000""#,
            r#"{"code":"0000"} x"#,
            r#"{"code":"0000","code":"0001"}"#,
        ] {
            let meaning = AnswerMeaning::of(StatusCode::OK, body.as_bytes(), &Codes::default());
            assert!(!meaning.is_envelope, "{body}");
        }
    }

    fn shape_of(data: &str) -> Shape {
        let body = format!(r#"{{"code":"0000","data":{data},"success":true}}"#);
        Shape::of(body.as_bytes())
    }

    #[test]
    fn a_page_has_numbers_and_orders() {
        let numbers = r#""page":{"cur_page_no":2,"page_size":2,"total_count":7,"total_pages":4}"#;
        let orders = r#"[{"orderCode":"L1","deviceId":"A"},{"orderCode":"L1","deviceId":"B"},{"x":1},7,
            {"orderCode":null},{"orderCode":""}]"#;
        let shape = shape_of(&format!(r#"{{{numbers},"package_order":{orders}}}"#));
        let Shape::Page(position) = shape else {
            panic!("{shape:?}")
        };
        let totals = (position.total_count, position.total_pages);
        assert_eq!((position.number, position.size, totals), (2, 2, (7, 4)));
        assert_eq!(position.orders.len(), 2, "those that can be told apart");
        assert_ne!(position.orders[0], position.orders[1]);
    }

    #[test]
    fn what_lacks_a_part_of_a_page_is_data_or_none() {
        let rows = [
            (
                r#"{"page":{"cur_page_no":1,"page_size":2,"total_count":0,"total_pages":0}}"#,
                Shape::Data,
            ),
            (r#"{"package_order":[]}"#, Shape::Data),
            (
                r#"{"page":{"cur_page_no":"1","page_size":2,"total_count":0,"total_pages":0},"package_order":[]}"#,
                Shape::Data,
            ),
            ("[]", Shape::Data),
            ("{}", Shape::Data),
            ("null", Shape::NoData),
            (r#""text""#, Shape::NoData),
        ];
        for (data, expected) in rows {
            assert_eq!(shape_of(data), expected, "{data}");
        }
    }
}
