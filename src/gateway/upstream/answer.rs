//! What does an answer mean? By HTTP status *and* by the envelope's `code`, as Linksfield says most things with HTTP 200.

use std::borrow::Cow;

use hyper::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::config::Codes;

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// HTTP 200, `code` "0000", `success` true.
    Success,
    /// The vendor says that the request is wrong.
    CallerError,
    /// The vendor does not accept the signature.
    BadSignature,
    /// The vendor's limits are reached.
    Throttled,
    /// The vendor fails for now.
    Transient,
    /// Anything else, an unconfigured business code above all.
    Unknown,
}

impl Outcome {
    /// The spelling in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::CallerError => "caller_error",
            Self::BadSignature => "bad_signature",
            Self::Throttled => "throttled",
            Self::Transient => "transient",
            Self::Unknown => "unknown",
        }
    }
}

/// The vendor's envelope: `{"code": …, "data": …, "message": …, "success": …}`.
#[derive(Debug, Deserialize)]
pub struct Envelope<'a> {
    /// `"0000"` is success; the vendor's table is not public.
    #[serde(borrow)]
    pub code: Cow<'a, str>,
    success: Option<bool>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    /// Reads an envelope; none if the body is not one.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// Is `data` what a query answers: an object or an array, and for `pages` one with `page` and `package_order`?
    pub fn has_shape(&self, pages: bool) -> bool {
        let Some(data) = self.data.map(RawValue::get) else {
            return false;
        };
        if pages {
            serde_json::from_str::<PagedData>(data).is_ok()
        } else {
            data.starts_with(['{', '['])
        }
    }
}

/// `data` of a paged answer, as far as it must be there.
#[derive(Deserialize)]
struct PagedData {
    #[serde(rename = "page")]
    _page: PageNumbers,
    #[serde(rename = "package_order")]
    _package_order: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
struct PageNumbers {
    #[serde(rename = "cur_page_no")]
    _cur_page_no: u64,
    #[serde(rename = "page_size")]
    _page_size: u64,
    #[serde(rename = "total_count")]
    _total_count: u64,
    #[serde(rename = "total_pages")]
    _total_pages: u64,
}

/// The table: status and `code` → meaning.
pub fn classify(status: StatusCode, envelope: Option<&Envelope<'_>>, codes: &Codes) -> Outcome {
    let listed = |list: &[String]| envelope.is_some_and(|envelope| list.iter().any(|code| **code == *envelope.code));
    let succeeded = envelope.is_some_and(|envelope| envelope.code == "0000" && envelope.success == Some(true));
    match status.as_u16() {
        401 | 403 => Outcome::BadSignature,
        429 => Outcome::Throttled,
        500.. => Outcome::Transient,
        _ if listed(&codes.bad_signature) => Outcome::BadSignature,
        _ if listed(&codes.throttled) => Outcome::Throttled,
        _ if listed(&codes.transient) => Outcome::Transient,
        200 if succeeded => Outcome::Success,
        400..=499 => Outcome::CallerError,
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
        };
        let ok = r#"{"code":"0000","data":{},"message":"成功","success":true}"#;
        let code = |code: &str| format!(r#"{{"code":"{code}","data":null,"message":"x","success":false}}"#);
        let rows = [
            (200, ok.to_owned(), Outcome::Success),
            (200, r#"{"code":"0000","success":false}"#.to_owned(), Outcome::Unknown),
            (200, r#"{"code":"0000"}"#.to_owned(), Outcome::Unknown),
            (200, code("1001"), Outcome::BadSignature),
            (200, code("2002"), Outcome::Throttled),
            (200, code("3003"), Outcome::Transient),
            (200, code("4711"), Outcome::Unknown),
            (201, ok.to_owned(), Outcome::Unknown),
            (400, code("4711"), Outcome::CallerError),
            (404, "no envelope".to_owned(), Outcome::CallerError),
            (400, code("2002"), Outcome::Throttled),
            (401, ok.to_owned(), Outcome::BadSignature),
            (403, code("4711"), Outcome::BadSignature),
            (429, String::new(), Outcome::Throttled),
            (500, ok.to_owned(), Outcome::Transient),
            (503, String::new(), Outcome::Transient),
        ];
        for (status, body, expected) in rows {
            let status = StatusCode::from_u16(status).unwrap();
            let outcome = classify(status, Envelope::read(body.as_bytes()).as_ref(), &codes);
            assert_eq!(outcome, expected, "{status} {body}");
        }
    }

    #[test]
    fn what_is_no_envelope_is_none() {
        for body in [
            "", "[]", "null", "<html>", r#"{"success":true}"#, r#"{"code":0}"#, r#"{"code":"0000""#, r#"{"code":"0000"} x"#,
            r#"{"code":"0000","code":"0001"}"#,
        ] {
            assert!(Envelope::read(body.as_bytes()).is_none(), "{body}");
        }
    }

    #[test]
    fn a_page_has_numbers_and_orders() {
        let rows = [
            (r#"{"page":{"cur_page_no":1,"page_size":2,"total_count":0,"total_pages":0},"package_order":[]}"#, true, true),
            (r#"{"page":{"cur_page_no":1,"page_size":2,"total_count":0,"total_pages":0}}"#, true, false),
            (r#"{"package_order":[]}"#, true, false),
            (r#"{"page":{"cur_page_no":"1","page_size":2,"total_count":0,"total_pages":0},"package_order":[]}"#, true, false),
            ("[]", true, false),
            ("[]", false, true),
            ("{}", false, true),
            ("null", false, false),
            (r#""text""#, false, false),
        ];
        for (data, pages, expected) in rows {
            let body = format!(r#"{{"code":"0000","data":{data},"success":true}}"#);
            assert_eq!(Envelope::read(body.as_bytes()).unwrap().has_shape(pages), expected, "{data} {pages}");
        }
    }
}
