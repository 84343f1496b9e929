//! Which `code` means what? One table, and the envelope that carries its rows.
//!
//! **Simulated:** the vendor's table is not public but for `0000`, so every other code here is made
//! up, begins with `SIM-`, and must not be taken for one of Linksfield's. As at the vendor, what
//! goes wrong in the business comes with HTTP 200.

use serde::Serialize;
use serde_json::value::RawValue;

/// A row: the code, the HTTP status it comes with, and its message in both languages.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// The envelope's `code`.
    pub code: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The message in Chinese, the vendor's default.
    pub chinese: &'static str,
    /// The message in English.
    pub english: &'static str,
}

const fn row(
    code: &'static str,
    status: u16,
    chinese: &'static str,
    english: &'static str,
) -> Code {
    Code {
        code,
        status,
        chinese,
        english,
    }
}

/// The only documented one.
pub const SUCCESS: Code = row("0000", 200, "成功", "success");
/// The body is no JSON object, or one with a key twice.
pub const INVALID_BODY: Code = row(
    "SIM-4000",
    200,
    "请求体不是有效的JSON对象",
    "the body is not a valid JSON object",
);
/// A required parameter is absent or empty.
pub const MISSING_PARAMETER: Code = row("SIM-4001", 200, "缺少参数", "missing parameter");
/// A parameter has the wrong type or is out of its range.
pub const INVALID_PARAMETER: Code = row("SIM-4002", 200, "参数无效", "invalid parameter");
/// No account has this `access_code`.
pub const UNKNOWN_ACCESS_CODE: Code =
    row("SIM-4010", 200, "access_code不存在", "unknown access_code");
/// The signature is not that of the parameters.
pub const BAD_SIGNATURE: Code = row("SIM-4011", 200, "签名错误", "bad signature");
/// The timestamp is too far from now.
pub const STALE_TIMESTAMP: Code = row(
    "SIM-4012",
    200,
    "时间戳超出允许范围",
    "timestamp out of the allowed window",
);
/// No endpoint here.
pub const UNKNOWN_PATH: Code = row("SIM-4040", 404, "接口不存在", "unknown path");
/// The account has no such order.
pub const UNKNOWN_ORDER: Code = row("SIM-4041", 200, "订单不存在", "unknown order");
/// The account has no such SIM.
pub const UNKNOWN_DEVICE: Code = row("SIM-4042", 200, "设备不存在", "unknown device");
/// Every endpoint is POST.
pub const METHOD_NOT_ALLOWED: Code = row("SIM-4050", 405, "请求方法不支持", "method not allowed");
/// The order, or every order of the SIM, is in a state that does not allow it.
pub const WRONG_STATE: Code = row(
    "SIM-4090",
    200,
    "当前订单状态不允许该操作",
    "not allowed in the order's current state",
);
/// The body is larger than 1 MiB.
pub const BODY_TOO_LARGE: Code = row("SIM-4130", 413, "请求体过大", "the body is too large");
/// The body is not declared as `application/json`.
pub const UNSUPPORTED_MEDIA_TYPE: Code = row(
    "SIM-4150",
    415,
    "仅支持application/json",
    "only application/json is supported",
);
/// More calls in a second than one source address may make.
pub const TOO_MANY_IN_A_SECOND: Code = row(
    "SIM-4290",
    429,
    "请求过于频繁",
    "too many requests in a second",
);
/// More calls in a day than one source address may make.
pub const TOO_MANY_IN_A_DAY: Code = row(
    "SIM-4291",
    429,
    "当日请求次数已用完",
    "the day's requests are spent",
);
/// More connections than one source address may have.
pub const TOO_MANY_CONNECTIONS: Code = row("SIM-4292", 429, "连接数过多", "too many connections");
/// A failure that somebody asked for.
pub const SIMULATED_FAILURE: Code = row("SIM-5000", 500, "模拟的故障", "a simulated failure");

/// What a message is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Chinese,
    English,
}

impl Language {
    /// English if the most wanted language is some English, else the vendor's default.
    pub(super) fn wanted(accept_language: &str) -> Self {
        let mut best: Option<(f32, &str)> = None;
        for range in accept_language.split(',') {
            let (tag, weight) = range.split_once(';').unwrap_or((range, ""));
            let weight = weight
                .trim()
                .strip_prefix("q=")
                .map_or(1.0, |q| q.parse().unwrap_or(0.0));
            if weight > best.map_or(0.0, |(best, _)| best) {
                best = Some((weight, tag.trim()));
            }
        }
        let english = best.is_some_and(|(_, tag)| {
            let primary = tag.split('-').next().unwrap_or(tag);
            primary.eq_ignore_ascii_case("en")
        });
        if english {
            Self::English
        } else {
            Self::Chinese
        }
    }

    pub(super) const fn tag(self) -> &'static str {
        match self {
            Self::Chinese => "zh-CN",
            Self::English => "en-US",
        }
    }
}

/// A row, and what in the request it is about.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: &'static Code,
    pub(super) subject: Option<String>,
}

impl Refusal {
    pub(super) fn of(code: &'static Code, subject: &str) -> Self {
        Self {
            code,
            subject: Some(subject.to_owned()),
        }
    }
}

impl From<&'static Code> for Refusal {
    fn from(code: &'static Code) -> Self {
        Self {
            code,
            subject: None,
        }
    }
}

/// The vendor's four fields, in the order of its page.
#[derive(Serialize)]
struct Envelope<'a> {
    code: &'a str,
    data: Option<&'a RawValue>,
    message: &'a str,
    success: bool,
}

/// A whole answer, before it is known how much of it the client will get.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) language: Language,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn success(data: &RawValue, language: Language) -> Self {
        let message = SUCCESS.message(language);
        Self::envelope(
            SUCCESS.status,
            SUCCESS.code,
            Some(data),
            message,
            true,
            language,
        )
    }

    pub(super) fn refusal(refusal: &Refusal, language: Language) -> Self {
        let Refusal { code, subject } = refusal;
        let message = code.message(language);
        let message = match (subject, language) {
            (None, _) => message.to_owned(),
            (Some(subject), Language::Chinese) => format!("{message}：{subject}"),
            (Some(subject), Language::English) => format!("{message}: {subject}"),
        };
        Self::envelope(code.status, code.code, None, &message, false, language)
    }

    /// A failure that was asked for, with the status and code that were asked for.
    pub(super) fn failure(status: Option<u16>, code: Option<&str>, language: Language) -> Self {
        let message = SIMULATED_FAILURE.message(language);
        // A code alone is a failure of the business, and those come with 200.
        let status = status.unwrap_or(if code.is_some() {
            SUCCESS.status
        } else {
            SIMULATED_FAILURE.status
        });
        let code = code.unwrap_or(SIMULATED_FAILURE.code);
        Self::envelope(status, code, None, message, false, language)
    }

    fn envelope(
        status: u16,
        code: &str,
        data: Option<&RawValue>,
        message: &str,
        success: bool,
        language: Language,
    ) -> Self {
        let envelope = Envelope {
            code,
            data,
            message,
            success,
        };
        let body = serde_json::to_vec(&envelope).expect("strings and JSON become JSON");
        Self {
            status,
            language,
            body,
        }
    }
}

impl Code {
    const fn message(&self, language: Language) -> &'static str {
        match language {
            Language::Chinese => self.chinese,
            Language::English => self.english,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_chinese_unless_english_is_wanted_most() {
        for chinese in ["", "*", "zh-CN", "zh-CN,en;q=0.8", "fr", "en;q=0", "zh-CH"] {
            assert_eq!(Language::wanted(chinese), Language::Chinese, "{chinese}");
        }
        for english in ["en-US", "EN-US", "en", "zh;q=0.5, en-US;q=0.9"] {
            assert_eq!(Language::wanted(english), Language::English, "{english}");
        }
    }

    #[test]
    fn a_refusal_says_what_it_is_about() {
        let refusal = Refusal::of(&MISSING_PARAMETER, "page_no");
        let answer = Answer::refusal(&refusal, Language::English);
        assert_eq!(
            String::from_utf8(answer.body).unwrap(),
            r#"{"code":"SIM-4001","data":null,"message":"missing parameter: page_no","success":false}"#
        );
    }
}
