//! Which slip has made a signature that no reading of the rule makes?
//!
//! Each of these has been made by people who signed by hand, and none can be the rule: the vendor
//! has only the parameters to sign, not the text that they were written in. A slip is looked for in
//! four places: which fields, which text, which key or algorithm, which form of the digest. It is
//! proven by the signature, so a wrong one is never named.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::reading::{self, Key, Sample};
use crate::signing::form::{
    EmptyDepth, KeyOrder, NestedValues, SecretEncoding, Signing, Spaces, hex_decode,
};
use crate::signing::params::{GLOBALS, Object, Value, parse_object, write_object};
use crate::signing::sign::canonical_text;

/// What somebody did, and what to do instead.
#[derive(Clone)]
struct Slip {
    kind: Kind,
    told: Cow<'static, str>,
}

/// Where it was done. That decides what is to be done again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// In which parameters are signed, and in which order.
    Parameters,
    /// In how they are written.
    Text,
    /// In the code that reads the secret.
    Secret,
    /// In the file that was given to this command.
    File,
    /// In how the digest is made.
    Digest,
    /// In how the digest is written.
    Form,
}

impl Kind {
    const fn slip(self, told: &'static str) -> Slip {
        let told = Cow::Borrowed(told);
        Slip { kind: self, told }
    }

    /// What to do next. Each is true beside each other one.
    const fn next(self) -> &'static str {
        match self {
            Self::Parameters => {
                "By Linksfield's rule all parameters of the body but sign are signed, sorted by key. Correct which \
                 parameters your code signs and their order, sign again, and calibrate what comes."
            }
            Self::Text => {
                "Linksfield sees the parameters and not your text, so that cannot be its rule. Correct the text, \
                 sign again, and calibrate what comes."
            }
            Self::Secret => {
                "Linksfield has the secret as it was issued. Correct the code that reads the secret, sign again, and calibrate \
                 what comes."
            }
            Self::File => {
                "The secret that your code signs with is another than the file's, and it is the right one. Correct the \
                 file, and calibrate again: for this, no body has to be signed again."
            }
            Self::Digest => {
                "By Linksfield's rule the digest is HMAC-SHA1 with the secret as the key. Correct the code that makes \
                 it, sign again, and calibrate what comes."
            }
            Self::Form => {
                "The digest itself is not at fault here. Correct how it is written into sign, which output of [signing] \
                 has to name, and calibrate the body with that."
            }
        }
    }
}

/// A slip is farther from the right text than any reading is.
const SLIP: usize = 100;

/// So many bytes are signed in search of a slip, which bounds the time: a secret that is wrong
/// explains none, and all are tried.
const MOST_SIGNED: usize = 256 << 20;

/// The slips behind this signature, the fewest that explain it, as a text for who made them.
pub(super) fn find(sample: &Sample<'_>, secret: &SecretString) -> Option<String> {
    let (hasher, digests) = (RandomState::new(), digests(&sample.signature));
    let keyed = keyed(secret.expose_secret());
    let readings = readings(&sample.base);
    let mut best: Option<(usize, Vec<Slip>, &Signing)> = None;
    let mut seen = HashSet::new(); // by their hashes: the texts would fill the memory
    let mut signed = 0;
    'search: for (fields, of_fields) in fields(sample) {
        for (distance, form) in &readings {
            // One slip at least has been made, as no reading alone explains the signature.
            if (best.as_ref()).is_some_and(|(least, ..)| SLIP + distance >= *least) {
                break; // the others are no nearer to the default
            }
            if of_fields.is_some() && !is_usual(form) {
                continue;
            }
            let compact = canonical_text(&fields, form);
            if !seen.insert(hasher.hash_one(&compact)) {
                continue; // as under a reading nearer to the default
            }
            for (text, of_text) in texts(&compact) {
                for (mac, of_key) in &keyed {
                    signed += text.len();
                    if signed > MOST_SIGNED {
                        break 'search;
                    }
                    let digest = mac(text.as_bytes());
                    let Some((_, of_digest)) = digests.iter().find(|(one, _)| *one == digest)
                    else {
                        continue;
                    };
                    let slips = [&of_fields, &of_text, of_key].into_iter().flatten();
                    let slips: Vec<_> = slips.chain(of_digest).cloned().collect();
                    let distance = SLIP * slips.len() + distance;
                    if best.as_ref().is_none_or(|(least, ..)| distance < *least) {
                        best = Some((distance, slips, form));
                    }
                }
            }
        }
    }
    let (slips, form) = if let Some((_, slips, form)) = best {
        (slips, form)
    } else {
        let slip = of_the_body_as_it_is(sample, secret, &digests)
            .or_else(|| of_length(&sample.signature))?;
        (vec![slip], &sample.base)
    };
    Some(report(&slips, form))
}

fn report(slips: &[Slip], form: &Signing) -> String {
    let mut lines = vec![
        "No reading of the signing rule reproduces this signature, but this is how it was made:"
            .to_owned(),
    ];
    lines.extend(slips.iter().map(|slip| format!(" - {}", slip.told)));
    let also = non_defaults(form);
    lines.extend(
        also.iter()
            .map(|line| format!(" - Besides, the text is as [signing] has it with {line}.")),
    );
    let kinds: BTreeSet<Kind> = slips.iter().map(|slip| slip.kind).collect();
    lines.extend(kinds.into_iter().map(|kind| kind.next().to_owned()));
    lines.join("\n")
}

/// Parameters as somebody may have taken them, the right ones first.
fn fields<'a>(sample: &Sample<'a>) -> Vec<(Object<'a>, Option<Slip>)> {
    let right = &sample.fields;
    let mut all = vec![(right.clone(), None)];
    let globals = ["access_code", "timestamp", "version"];
    for chosen in 1_u8..8 {
        let is_chosen = |key: &str| {
            let place = globals.iter().position(|global| *global == key);
            place.is_some_and(|place| chosen & 1 << place != 0)
        };
        let without = right.iter().filter(|(key, _)| !is_chosen(key));
        let names: Vec<&str> = globals.into_iter().filter(|key| is_chosen(key)).collect();
        let told = format!(
            "The text was made without {}: put that in before you sign.",
            names.join(" and ")
        );
        let slip = Slip {
            kind: Kind::Parameters,
            told: told.into(),
        };
        all.push((without.cloned().collect(), Some(slip)));
    }
    for empty in [Value::String("".into()), Value::Null] {
        let mut fields = right.clone();
        fields.push(("sign".into(), empty));
        let told = "The text has a sign of its own, without a value: leave the key out.";
        all.push((fields, Some(Kind::Parameters.slip(told))));
    }
    let (global, own): (Object<'_>, Object<'_>) = right
        .iter()
        .cloned()
        .partition(|(key, _)| GLOBALS.contains(&&**key));
    let mut sorted = own.clone();
    sorted.sort_by(|(left, _), (right, _)| left.cmp(right));
    let unsorted = "The keys are not in order: sort all of them, access_code, timestamp and version among the others.";
    for own in [own, sorted] {
        for global in orders(&global) {
            let first = [global.clone(), own.clone()].concat();
            for fields in [first, [own.clone(), global].concat()] {
                all.push((fields, Some(Kind::Parameters.slip(unsorted))));
            }
        }
    }
    all
}

/// The six orders of three members.
fn orders<'a>(members: &Object<'a>) -> Vec<Object<'a>> {
    let [a, b, c] = &members[..] else {
        return vec![members.clone()];
    };
    let orders = [
        [a, b, c],
        [a, c, b],
        [b, a, c],
        [b, c, a],
        [c, a, b],
        [c, b, a],
    ];
    orders
        .into_iter()
        .map(|order| order.into_iter().cloned().collect())
        .collect()
}

/// Those of the text, each with its distance from the default, the nearest first: a slip can be
/// made beside each of them.
fn readings(base: &Signing) -> Vec<(usize, Signing)> {
    let mut all: Vec<(usize, Signing)> = reading::forms_of_text(base)
        .map(|form| (non_default_keys(&form).count(), form))
        .collect();
    all.sort_by_key(|(distance, _)| *distance);
    all
}

/// Is it one that people's own code is often in? Only these are tried together with other
/// parameters, as all readings times all sets of parameters are more than somebody waits for.
fn is_usual(form: &Signing) -> bool {
    form.key_order != KeyOrder::CaseInsensitive
        && form.empty_depth == EmptyDepth::TopLevel
        && form.nested_values == NestedValues::Json
        && form.spaces == Spaces::Kept
}

fn non_default_keys(form: &Signing) -> impl Iterator<Item = &'static Key> {
    reading::all_keys().filter(|key| !key.is_default(form))
}

/// Where a reading is not the default, as lines of `[signing]`.
fn non_defaults(form: &Signing) -> Vec<String> {
    let table = reading::table(form);
    let line = |key: &Key| Some(format!("{} = {}", key.name, table.get(key.name)?));
    non_default_keys(form).filter_map(line).collect()
}

/// The same text as other writers have it, the compact one first.
fn texts(compact: &str) -> Vec<(String, Option<Slip>)> {
    const PYTHON: &str = "The text has a blank after each comma and colon, as Python's json.dumps writes it: call \
        json.dumps(parameters, sort_keys=True, separators=(',', ':'), ensure_ascii=False).";
    const BLANKS: &str =
        "The text has a blank after each comma or colon: write it without any between its parts.";
    const LINES: &str =
        "The text stands on several lines: write it on one, without indentation or blanks.";
    const DELETE: &str =
        "U+007F is escaped in the text, as Python's json.dumps does: pass ensure_ascii=False.";
    let slip = |told| Some(Kind::Text.slip(told));
    let mut texts = vec![
        (compact.to_owned(), None),
        (spaced(compact, ", ", ": "), slip(PYTHON)),
        (spaced(compact, ",", ": "), slip(BLANKS)),
        (spaced(compact, ", ", ":"), slip(BLANKS)),
        (indented(compact, 2), slip(LINES)),
        (indented(compact, 4), slip(LINES)),
    ];
    if compact.contains('\u{7f}') {
        let escaped = |text: &str| text.replace('\u{7f}', "\\u007f");
        for (text, told) in texts.clone() {
            texts.push((escaped(&text), told.or_else(|| slip(DELETE))));
        }
    }
    if let Some(pairs) = pairs(compact) {
        let told = "The text has the form key=value&key=value: write it as a JSON object.";
        texts.push((pairs, slip(told)));
    }
    texts
}

/// Compact JSON with other separators. Within strings nothing changes.
pub(super) fn spaced(compact: &str, comma: &str, colon: &str) -> String {
    outside_strings(compact, |text, character| match character {
        ',' => text.push_str(comma),
        ':' => text.push_str(colon),
        '\0' => {} // a string begins
        _ => text.push(character),
    })
}

/// Compact JSON, one member a line, so many blanks deeper at each level.
fn indented(compact: &str, step: usize) -> String {
    let mut depth = 0;
    let mut opened = false;
    outside_strings(compact, |text, character| {
        let ends = matches!(character, '}' | ']');
        depth -= usize::from(ends);
        if (opened && !ends) || (ends && !opened) || character == ',' {
            if character == ',' {
                text.push(',');
            }
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', depth * step));
        }
        opened = matches!(character, '{' | '[');
        depth += usize::from(opened);
        match character {
            ',' | '\0' => {} // written, or where a string begins
            ':' => text.push_str(": "),
            _ => text.push(character),
        }
    })
}

/// Writes a JSON text anew: what is in no string by `write`, which also sees NUL where a string
/// begins.
fn outside_strings(json: &str, mut write: impl FnMut(&mut String, char)) -> String {
    let mut text = String::with_capacity(2 * json.len());
    let (mut in_string, mut escaped) = (false, false);
    for character in json.chars() {
        match (in_string, character) {
            (false, '"') => {
                write(&mut text, '\0');
                text.push('"');
                in_string = true;
            }
            (false, _) => write(&mut text, character),
            (true, _) => {
                text.push(character);
                in_string = escaped || character != '"';
                escaped = !escaped && character == '\\';
            }
        }
    }
    text
}

fn pairs(compact: &str) -> Option<String> {
    let fields = parse_object(compact.as_bytes()).ok()?;
    let pair = |(key, value): &(Cow<'_, str>, Value<'_>)| {
        if let Value::String(text) = value {
            return format!("{key}={text}");
        }
        let mut json = String::new();
        write_object(&mut json, &vec![("".into(), value.clone())]);
        format!("{key}={}", &json[4..json.len() - 1]) // of {"":…}
    };
    Some(fields.iter().map(pair).collect::<Vec<_>>().join("&"))
}

type Digester = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// What may have made the digest of a text: the right one first.
fn keyed(secret: &str) -> Vec<(Digester, Option<Slip>)> {
    let mut all: Vec<(Digester, Option<Slip>)> = Vec::new();
    let mut add = |secret: &str, slip: Option<&Slip>| {
        let keys = SecretEncoding::ALL
            .iter()
            .map(|encoding| encoding.decode(&secret.into()));
        all.extend(keys.flatten().map(|key| (hmac_sha1(&key), slip.cloned())));
    };
    add(secret, None);
    let line = Kind::Secret
        .slip("The secret was read with the end of its line: take that off before you sign.");
    let and =
        Kind::Secret.slip("The secret has a & at its end, as other APIs want it: take it off.");
    let held = Kind::File.slip(
        "The secret's file holds more than the secret, blanks or quotes around it: take them out of the file.",
    );
    let bare = secret.trim_matches(|character: char| {
        character.is_whitespace() || matches!(character, '"' | '\'' | '\u{feff}' | '\0')
    });
    for (key, slip) in [
        (&*format!("{secret}\n"), line.clone()),
        (&format!("{secret}\r\n"), line),
        (&format!("{secret}&"), and),
        (bare, held),
    ] {
        if key != secret {
            add(key, Some(&slip));
        }
    }
    let secret: Vec<u8> = secret.into();
    let [swapped, after, before, sha256] = [(); 4].map(|()| secret.clone());
    let other = |digester, told| (digester, Some(Kind::Digest.slip(told)));
    all.extend([
        other(
            Box::new(move |text: &[u8]| hmac_sha1(text)(&swapped)) as Digester,
            "Key and text of the HMAC are swapped: the key is the secret.",
        ),
        other(
            Box::new(move |text| Sha1::digest([text, &after].concat()).to_vec()),
            "It is SHA-1 of the text and the secret: take HMAC-SHA1 with the secret as the key.",
        ),
        other(
            Box::new(move |text| Sha1::digest([&before, text].concat()).to_vec()),
            "It is SHA-1 of the secret and the text: take HMAC-SHA1 with the secret as the key.",
        ),
        other(
            Box::new(move |text| {
                let mac = Hmac::<Sha256>::new_from_slice(&sha256);
                let mac = mac.expect("HMAC takes keys of every length");
                mac.chain_update(text).finalize().into_bytes().to_vec()
            }),
            "It is HMAC-SHA256: take HMAC-SHA1.",
        ),
    ]);
    all
}

fn hmac_sha1(key: &[u8]) -> Digester {
    let mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes keys of every length");
    Box::new(move |text| {
        let mac = mac.clone().chain_update(text);
        mac.finalize().into_bytes().to_vec()
    })
}

/// A digest that a signature may stand for, and what is wrong with how it is written.
type Written = (Vec<u8>, Vec<Slip>);

/// The forms of `signing.output` first.
fn digests(signature: &str) -> Vec<Written> {
    let has = |case: fn(&u8) -> bool| signature.as_bytes().iter().any(case);
    let is_mixed = has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase);
    let mixed = Kind::Form
        .slip("The signature's hexadecimal digits are of both cases: write all of them in one.");
    let of_hex_digits = is_mixed.then_some(mixed);
    let mut all = Vec::from_iter(base64(&STANDARD, signature, None));
    all.extend(hex_decode(signature).map(|digest| (digest, Vec::from_iter(of_hex_digits))));
    let trimmed = signature.trim();
    let unescaped = ["%2B", "%2b", "%2F", "%2f", "%3D", "%3d"]
        .iter()
        .zip(["+", "+", "/", "/", "=", "="])
        .fold(trimmed.to_owned(), |text, (from, to)| {
            text.replace(from, to)
        });
    let of_hex = base64(
        &STANDARD,
        trimmed,
        Some(
            "The signature is Base64 of the digest's hexadecimal digits: take Base64 of its bytes (in PHP: hash_hmac(…, true)).",
        ),
    );
    all.extend(
        of_hex.and_then(|(hex, slips)| Some((hex_decode(std::str::from_utf8(&hex).ok()?)?, slips))),
    );
    for (engine, text, told) in [
        (
            &STANDARD,
            trimmed,
            "The signature has a line's end or a blank around it: take that off.",
        ),
        (
            &STANDARD_NO_PAD,
            trimmed,
            "The signature has lost the = at its end: leave the padding on.",
        ),
        (
            &STANDARD,
            &unescaped,
            "The signature is escaped as in a URL (%2B, %3D): in a JSON body it stands as it is.",
        ),
        (
            &STANDARD,
            &trimmed.replace(' ', "+"),
            "Each + of the signature has become a blank: it went through a form or a URL unescaped.",
        ),
    ] {
        all.extend(base64(engine, text, Some(told)));
    }
    all
}

/// What a text is in Base64, of either alphabet, and if of both, that.
fn base64(engine: &GeneralPurpose, text: &str, told: Option<&'static str>) -> Option<Written> {
    let digest = engine.decode(reading::from_url_safe(text)).ok()?;
    let is_mixed = text.contains(['+', '/']) && text.contains(['-', '_']);
    let mixed = "The signature is of both alphabets of Base64, that with + and / and that with - and _ in their places: write \
        all of it in one.";
    let told = told.into_iter().chain(is_mixed.then_some(mixed));
    Some((digest, told.map(|told| Kind::Form.slip(told)).collect()))
}

/// Was the body's own text signed, whatever its form, but for its signature?
fn of_the_body_as_it_is(
    sample: &Sample<'_>,
    secret: &SecretString,
    digests: &[Written],
) -> Option<Slip> {
    let (text, key) = (sample.text, "\"sign\"");
    let start = text.rfind(key)?;
    let value = format!("\"{}\"", sample.signature);
    let length = text.get(start..)?.find(&value)? + value.len();
    let (before, after) = (text.get(..start)?, text.get(start + length..)?);
    let last = before
        .trim_end()
        .strip_suffix(',')
        .map(|before| [before, after].concat());
    let first = after
        .trim_start()
        .strip_prefix(',')
        .map(|after| [before, after.trim_start()].concat());
    let tight = last.as_ref().map(|text| {
        let object = text.trim_end().strip_suffix('}').unwrap_or(text);
        format!("{}}}", object.trim_end())
    });
    let digest = hmac_sha1(secret.expose_secret().as_bytes());
    let made_it = |text: &String| {
        digests
            .iter()
            .any(|(one, _)| *one == digest(text.as_bytes()))
    };
    let own = "The body's own text was signed, with its blanks and in its order: write the parameters that are not empty anew, \
        compact and with sorted keys, and sign that.";
    let mut texts = [last, first, tight].into_iter().flatten();
    texts
        .any(|text| made_it(&text))
        .then(|| Kind::Text.slip(own))
}

/// HMAC-SHA1 has 20 bytes.
fn of_length(signature: &str) -> Option<Slip> {
    let digests = digests(signature);
    let lengths: Vec<usize> = digests.iter().map(|(digest, _)| digest.len()).collect();
    let usual = [(16, "MD5"), (32, "SHA-256"), (64, "SHA-512")];
    let (length, name) = usual
        .into_iter()
        .find(|(length, _)| lengths.contains(length))?;
    let is_right = lengths.contains(&20);
    (!is_right).then(|| Slip {
        kind: Kind::Digest,
        told: format!("The digest has {length} bytes, as {name} has; HMAC-SHA1 has 20: take that.")
            .into(),
    })
}
