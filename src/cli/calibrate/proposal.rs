//! Which bodies would settle what is open?
//!
//! They are requests of the vendor's documentation, each field of its documented type, so that a
//! typed client can send them. U+007F, which tells fastjson from the others best, is not in them:
//! Python's `json.dumps` escapes it by default, which no reading does.

use std::collections::HashMap;

use super::reading::{Key, OUTPUT, all_keys};
use crate::signing::form::{Signing, Timestamp, TimestampType};
use crate::signing::params::parse_object;
use crate::signing::sign::canonical_text;

/// A body that comes out differently under different readings. Its keys are in no order on purpose.
pub(super) struct Proposal {
    /// Who can send it.
    pub(super) meant_for: &'static str,
    parameters: &'static str,
}

static PROPOSALS: [Proposal; 4] = [
    Proposal {
        meant_for: "POST /package/queryOrder",
        parameters: r#""page_size": 2, "page_no": 0, "order_type": null, "order_status": " ", "order_id": "", "device_id": "中国 /<=\u2028""#,
    },
    Proposal {
        meant_for: "POST /package/batchOrderPackages",
        parameters: r#""package_code": "PACKAGE20180428000007", "deviceList": ["89860012018111220455"]"#,
    },
    Proposal {
        meant_for: "POST /package/batchOrderPackages, with an empty list",
        parameters: r#""package_code": "PACKAGE20180428000007", "deviceList": []"#,
    },
    Proposal {
        meant_for: "Only if your code can sign what no documented request has (an object in a parameter, keys that differ by case)",
        parameters: r#""nested": {"c": "2", "b": null, "a": "1"}, "device_id": "1", "deviceList": ["2"]"#,
    },
];

impl Proposal {
    /// The whole body, to be signed with the account and in the form that the bodies so far have
    /// shown.
    pub(super) fn body(&self, form: &Signing, access_code: &str) -> String {
        let timestamp = match form.timestamp {
            Timestamp::Seconds => "1700000000",
            Timestamp::Milliseconds => "1700000000000",
        };
        let timestamp = match form.timestamp_type {
            TimestampType::String => quoted(timestamp),
            TimestampType::Number => timestamp.to_owned(),
        };
        format!(
            r#"{{"version": {}, "access_code": {}, "timestamp": {timestamp}, {}}}"#,
            quoted(&form.version),
            quoted(access_code),
            self.parameters
        )
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What would help.
pub(super) struct Proposed {
    pub(super) bodies: Vec<&'static Proposal>,
    /// The keys that may stay open all the same.
    pub(super) open: Vec<&'static Key>,
}

/// The proposals that tell some of these readings apart, each of which does so after those before
/// it.
pub(super) fn propose(readings: &[Signing]) -> Proposed {
    let mut bodies = Vec::new();
    let mut alike: Vec<Vec<&Signing>> = vec![readings.iter().collect()];
    for proposal in &PROPOSALS {
        let split = split(&alike, proposal);
        if split.len() > alike.len() {
            bodies.push(proposal);
            alike = split;
        }
    }
    let is_open = |key: &&Key| {
        alike.iter().any(|group| {
            let values = group.iter().map(|form| (key.get)(form));
            values.clone().min() != values.max()
        })
    };
    // Which output it is, no text can tell.
    let open = all_keys().filter(|key| key.name != OUTPUT.name);
    Proposed {
        bodies,
        open: open.filter(is_open).collect(),
    }
}

/// The readings that even this body would not tell apart.
fn split<'a>(alike: &[Vec<&'a Signing>], proposal: &Proposal) -> Vec<Vec<&'a Signing>> {
    let mut split = Vec::new();
    for group in alike {
        let mut texts: HashMap<String, Vec<&Signing>> = HashMap::new();
        for form in group {
            let body = proposal.body(form, "P000270");
            let fields = parse_object(body.as_bytes()).unwrap_or_default();
            let text = canonical_text(&fields, form);
            texts.entry(text).or_default().push(form);
        }
        split.extend(texts.into_values());
    }
    split
}
