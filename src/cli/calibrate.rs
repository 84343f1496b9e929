//! Which reading of the vendor's signing rule do known-good signed bodies follow?
//!
//! The rule leaves much open (linksfield-api.md, section 2.6). For each body every combination of
//! the keys of `[signing]` is tried; there are some hundred thousand, and the time grows with the
//! body: a short one is best. What reproduces all of them is the answer.

mod proposal;
mod reading;
mod slip;

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use secrecy::SecretString;
use serde_json::value::RawValue;

use self::reading::{Key, OUTPUT, Sample, all_keys};
use super::{Done, Failed, print, print_warnings, standard_input};
use crate::config::read_secret;
use crate::signing::form::Signing;

pub(super) fn run(secret_file: &Path) -> Done {
    let (secret, warnings) = read_secret("--secret-file", secret_file)?;
    print_warnings(&warnings);
    let input = standard_input()?;
    print(&calibrate(&input, &secret)?.report())
}

/// What the bodies have shown.
struct Calibration {
    /// What reproduces every signature; at least one, the nearest to the default first.
    readings: Vec<Signing>,
    access_code: String,
    bodies: usize,
}

/// Tries every reading with each of the bodies, which stand one after another.
fn calibrate(input: &[u8], secret: &SecretString) -> Result<Calibration, Failed> {
    let texts = bodies(input)?;
    let mut samples = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let sample = Sample::parse(text);
        samples.push(sample.map_err(|Failed(reason)| of_body(index, texts.len(), &reason))?);
    }
    let mut readings = samples[0].readings(secret);
    for sample in &samples[1..] {
        readings.retain(|form| sample.is_signed_by(form, secret));
    }
    if readings.is_empty() {
        return Err(refusal(&samples, secret));
    }
    readings.sort_by_key(|form| {
        let place = all_keys().map(|key| (key.get)(form)).collect::<Vec<_>>();
        (
            all_keys().filter(|key| !key.is_default(form)).count(),
            place,
        )
    });
    Ok(Calibration {
        readings,
        access_code: samples[0].access_code.clone(),
        bodies: samples.len(),
    })
}

const NO_BODY: &str = "standard input holds no body: give at least one, as it was signed";

/// The text of each body.
fn bodies(input: &[u8]) -> Result<Vec<&str>, Failed> {
    let text = std::str::from_utf8(input)
        .map_err(|error| format!("not UTF-8 after byte {}", error.valid_up_to()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text); // some shells write one into a file
    let mut bodies = Vec::new();
    for body in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
        let body = body.map_err(|error| format!("body {}: {error}", bodies.len() + 1))?;
        bodies.push(body.get());
    }
    if bodies.is_empty() {
        return Err(Failed(NO_BODY.into()));
    }
    Ok(bodies)
}

/// A lone body needs no number.
fn of_body(index: usize, bodies: usize, reason: &str) -> Failed {
    Failed(match bodies {
        1 => reason.to_owned(),
        _ => format!("body {}: {reason}", index + 1),
    })
}

const NO_MATCH: &str = "\
No reading of the signing rule reproduces this signature. What may be wrong, the likeliest first:
 - the secret: is it the one of this body's access_code? Only one newline at the end of the file is dropped.
 - the body: it must be as it was signed, complete with access_code, timestamp, version and sign; a body that was
   edited afterwards, or a timestamp taken from another request, cannot match.
 - the account: the Cube and Mall families sign in other ways, which this version does not know.";

/// Says of each body without a reading what slip has made its signature, if one is known; else
/// which contradict each other.
fn refusal(samples: &[Sample<'_>], secret: &SecretString) -> Failed {
    let each = samples.iter().map(|sample| sample.readings(secret));
    let each: Vec<HashSet<Signing>> = each.map(HashSet::from_iter).collect();
    let mut told = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        if each[index].is_empty() {
            let reason = slip::find(sample, secret).unwrap_or_else(|| NO_MATCH.to_owned());
            told.push(of_body(index, samples.len(), &reason).0);
        }
    }
    if told.is_empty() {
        return contradiction(&each);
    }
    Failed(told.join("\n\n"))
}

/// Says which body is the first not to be signed as those before it, and in which keys they differ.
fn contradiction(each: &[HashSet<Signing>]) -> Failed {
    let pairs = (1..each.len()).flat_map(|last| (0..last).map(move |other| (other, last)));
    let mut disjoint = pairs.filter(|(other, last)| each[*other].is_disjoint(&each[*last]));
    let Some((other, last)) = disjoint.next() else {
        let all = "These bodies were not all signed in one way, although no two of them contradict each other. Leave \
            out one after another to find which.";
        return Failed(all.into());
    };
    let (of_other, of_last) = (format!("body {}", other + 1), format!("body {}", last + 1));
    let mut lines = vec![format!(
        "{of_last} contradicts {of_other}: no one reading of the signing rule reproduces both."
    )];
    for (key, values) in values(&each[last]) {
        let others = values_of(&key, &each[other]);
        if values.is_disjoint(&others) {
            lines.push(format!(
                " - {key} is {} by {of_other}, {} by {of_last}",
                either(&others),
                either(&values)
            ));
        }
    }
    lines.push("Were they signed by the same code, and for the same API?".into());
    Failed(lines.join("\n"))
}

/// Each key of `[signing]` with the values that it has in some of these readings.
fn values(readings: &HashSet<Signing>) -> Vec<(String, BTreeSet<String>)> {
    let keys = reading::table(&Signing::default());
    let of_key = |key: String| {
        let values = values_of(&key, readings);
        (key, values)
    };
    keys.into_iter().map(|(key, _)| of_key(key)).collect()
}

fn values_of(key: &str, readings: &HashSet<Signing>) -> BTreeSet<String> {
    let value = |form: &Signing| Some(reading::table(form).get(key)?.to_string());
    readings.iter().filter_map(value).collect()
}

fn either(values: &BTreeSet<String>) -> String {
    values
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" or ")
}

impl Calibration {
    /// The matching section nearest to the default.
    fn section(&self) -> &Signing {
        &self.readings[0]
    }

    /// The keys that have more than one matching value.
    fn unsettled(&self) -> Vec<&'static Key> {
        all_keys()
            .filter(|key| {
                let value = (key.get)(self.section());
                self.readings.iter().any(|form| (key.get)(form) != value)
            })
            .collect()
    }

    fn report(&self) -> String {
        let these = match self.bodies {
            1 => "this signature".to_owned(),
            number => format!("these {number} signatures"),
        };
        let mut lines = vec![match self.readings.len() {
            1 => format!("# One reading of the rule reproduces {these}."),
            number => format!(
                "# {number} readings of the rule reproduce {these}; this is the nearest to the default."
            ),
        }];
        lines.push("[signing]".into());
        lines.extend(
            self.section_as_toml()
                .into_iter()
                .map(|(name, value)| format!("{name} = {value}")),
        );
        let unsettled = self.unsettled();
        if !unsettled.is_empty() {
            let body = if self.bodies == 1 {
                "This body"
            } else {
                "These bodies"
            };
            lines.push(format!("\n# {body} cannot settle: {}.", names(&unsettled)));
            lines.extend(self.proposals());
        }
        if unsettled.iter().any(|key| key.name == OUTPUT.name) {
            lines.push(
                "# output needs a signature with a character in it that one alphabet of Base64 has and the other has not: +, /, - or _.\n\
                 # Another timestamp will bring one."
                    .into(),
            );
        }
        lines.join("\n") + "\n"
    }

    /// The bodies that would settle more, and what none of them would.
    fn proposals(&self) -> Vec<String> {
        let proposed = proposal::propose(&self.readings);
        let mut lines = Vec::new();
        if !proposed.bodies.is_empty() {
            lines.push(
                "# What would is below. Sign it with your present code (it need not be sent), add the result to what you\n\
                 # gave now, one body after another, and calibrate all of it at once."
                    .into(),
            );
            for proposal in proposed.bodies {
                lines.push(format!("# {}:", proposal.meant_for));
                lines.push(format!(
                    "# {}",
                    proposal.body(self.section(), &self.access_code)
                ));
            }
        }
        if lines.is_empty() && !proposed.open.is_empty() {
            lines.push(format!(
                "# No usual text tells the readings of {} apart: leave that as it is.",
                names(&proposed.open)
            ));
        }
        lines
    }

    /// `timestamp` and `version` always, of the others those that are not the default.
    fn section_as_toml(&self) -> Vec<(String, toml::Value)> {
        let default = reading::table(&Signing::default());
        let is_told = |(key, value): &(String, toml::Value)| {
            matches!(key.as_str(), "timestamp" | "version") || default.get(key) != Some(value)
        };
        let table = reading::table(self.section());
        table.into_iter().filter(is_told).collect()
    }
}

fn names(keys: &[&Key]) -> String {
    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
