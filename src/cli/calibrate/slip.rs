//! Which slip has made a signature that no reading of the rule makes?
//!
//! Each of these has been made by people who signed by hand, and none can be the rule: the vendor has only the parameters
//! to sign, not the text that they were written in. A slip is looked for in four places: which fields, which text, which
//! key or algorithm, which form of the digest. It is proven by the signature, so a wrong one is never named.

use std::borrow::Cow;
use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::reading::{self, Sample};
use crate::config::{
    Empty, Escapes, KeyOrder, NonAscii, Scalars, SecretEncoding, Signing, hex_decode,
};
use crate::signing::params::{GLOBALS, Object, Value, parse_object, write_object};
use crate::signing::sign::canonical_text;

/// What somebody did, and what to do instead. None where nothing is wrong.
type Told = Option<Cow<'static, str>>;

/// The slips behind this signature, the fewest that explain it, as a text for who made them.
pub(super) fn find(sample: &Sample<'_>, secret: &SecretString) -> Option<String> {
    let digests = digests(&sample.signature);
    let keyed = keyed(secret.expose_secret());
    let readings = readings(&sample.base);
    let mut best: Option<(usize, Vec<Cow<'static, str>>)> = None;
    let mut seen = HashSet::new();
    for (fields, of_fields) in fields(sample) {
        for form in &readings {
            let compact = canonical_text(&fields, form);
            if !seen.insert(compact.clone()) {
                continue; // as under a reading nearer to the default
            }
            for (text, of_text) in texts(&compact) {
                for (mac, of_key) in &keyed {
                    let digest = mac(text.as_bytes());
                    let Some((_, of_digest)) = digests.iter().find(|(one, _)| *one == digest)
                    else {
                        continue;
                    };
                    let told = [&of_fields, &of_text, of_key, of_digest];
                    let told: Vec<_> = told.into_iter().flatten().cloned().collect();
                    let distance = told.len() * 100 + distance(form);
                    if best.as_ref().is_none_or(|(least, _)| distance < *least) {
                        let also = non_defaults(form);
                        let also = also.iter().map(|line| {
                            Cow::from(format!(
                                "Besides, the text is as [signing] has it with {line}."
                            ))
                        });
                        best = Some((distance, told.into_iter().chain(also).collect()));
                    }
                }
            }
        }
    }
    let told = match best {
        Some((_, told)) => told,
        None => vec![
            of_the_body_as_it_is(sample, secret, &digests)
                .or_else(|| of_length(&sample.signature))?,
        ],
    };
    Some(format!(
        "No reading of the signing rule reproduces this signature, but this is how it was made:\n - {}\n\
         Linksfield sees the parameters and not your text, so that cannot be its rule. Correct it, sign again, and calibrate \
         what comes.",
        told.join("\n - ")
    ))
}

/// Parameters as somebody may have taken them, the right ones first.
fn fields<'a>(sample: &Sample<'a>) -> Vec<(Object<'a>, Told)> {
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
        all.push((without.cloned().collect(), Some(told.into())));
    }
    for empty in [Value::String("".into()), Value::Null] {
        let mut fields = right.clone();
        fields.push(("sign".into(), empty));
        all.push((
            fields,
            Some("The text has a sign of its own, without a value: leave the key out.".into()),
        ));
    }
    let (global, own): (Object<'_>, Object<'_>) = right
        .iter()
        .cloned()
        .partition(|(key, _)| GLOBALS.contains(&&**key));
    let mut sorted = own.clone();
    sorted.sort_by(|(left, _), (right, _)| left.cmp(right));
    for own in [own, sorted] {
        for global in orders(&global) {
            let first = [global.clone(), own.clone()].concat();
            for fields in [first, [own.clone(), global].concat()] {
                all.push((
                    fields,
                    Some("The keys are not in order: sort all of them, access_code, timestamp and version among the others.".into()),
                ));
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

/// The readings that people's own code is in, the nearest to the default first.
fn readings(base: &Signing) -> Vec<Signing> {
    let mut all = Vec::new();
    for key_order in [KeyOrder::CodeUnit, KeyOrder::AsSent] {
        for scalars in Scalars::ALL {
            for empty in Empty::ALL {
                for non_ascii in NonAscii::ALL {
                    for escapes in Escapes::ALL {
                        all.push(Signing {
                            key_order,
                            scalars: *scalars,
                            empty: *empty,
                            non_ascii: *non_ascii,
                            escapes: *escapes,
                            ..base.clone()
                        });
                    }
                }
            }
        }
    }
    all.sort_by_key(distance);
    all
}

/// From the default.
fn distance(form: &Signing) -> usize {
    let keys = reading::all_keys();
    keys.filter(|key| !key.is_default(form)).count()
}

/// Where a reading is not the default, as lines of `[signing]`.
fn non_defaults(form: &Signing) -> Vec<String> {
    let keys = reading::all_keys().filter(|key| !key.is_default(form));
    let table = reading::table(form);
    let lines = keys.filter_map(|key| Some(format!("{} = {}", key.name, table.get(key.name)?)));
    lines.collect()
}

/// The same text as other writers have it, the compact one first.
fn texts(compact: &str) -> Vec<(String, Told)> {
    const PYTHON: &str = "The text has a blank after each comma and colon, as Python's json.dumps writes it: call \
        json.dumps(parameters, sort_keys=True, separators=(',', ':'), ensure_ascii=False).";
    const BLANKS: &str =
        "The text has a blank after each comma or colon: write it without any between its parts.";
    const LINES: &str =
        "The text stands on several lines: write it on one, without indentation or blanks.";
    const DELETE: &str =
        "U+007F is escaped in the text, as Python's json.dumps does: pass ensure_ascii=False.";
    let mut texts = vec![
        (compact.to_owned(), None),
        (spaced(compact, ", ", ": "), Some(PYTHON.into())),
        (spaced(compact, ",", ": "), Some(BLANKS.into())),
        (spaced(compact, ", ", ":"), Some(BLANKS.into())),
        (indented(compact, 2), Some(LINES.into())),
        (indented(compact, 4), Some(LINES.into())),
    ];
    if compact.contains('\u{7f}') {
        let escaped = |text: &str| text.replace('\u{7f}', "\\u007f");
        for (text, told) in texts.clone() {
            texts.push((escaped(&text), told.or(Some(DELETE.into()))));
        }
    }
    if let Some(pairs) = pairs(compact) {
        let told = "The text has the form key=value&key=value: write it as a JSON object.";
        texts.push((pairs, Some(told.into())));
    }
    texts
}

/// Compact JSON with other separators. Within strings nothing changes.
fn spaced(compact: &str, comma: &str, colon: &str) -> String {
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

/// Writes a JSON text anew: what is in no string by `write`, which also sees NUL where a string begins.
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
fn keyed(secret: &str) -> Vec<(Digester, Told)> {
    let mut all: Vec<(Digester, Told)> = Vec::new();
    for encoding in SecretEncoding::ALL {
        if let Ok(key) = encoding.decode(&secret.into()) {
            all.push((hmac_sha1(&key), None));
        }
    }
    let line = "The secret was read with the end of its line: take that off before you sign.";
    let held = "The secret's file holds more than the secret, blanks or quotes around it: take them out of the file.";
    let and = "The secret has a & at its end, as other APIs want it: take it off.";
    let bare = secret.trim_matches(|character: char| {
        character.is_whitespace() || matches!(character, '"' | '\'' | '\u{feff}' | '\0')
    });
    for (key, told) in [
        (format!("{secret}\n"), line),
        (format!("{secret}\r\n"), line),
        (format!("{secret}&"), and),
        (bare.to_owned(), held),
    ] {
        if key != secret {
            all.push((hmac_sha1(key.as_bytes()), Some(told.into())));
        }
    }
    let other = |digester: Digester, told: &'static str| (digester, Some(told.into()));
    let secret: Vec<u8> = secret.into();
    let [swapped, after, before, sha256] = [(); 4].map(|()| secret.clone());
    all.extend([
        other(
            Box::new(move |text| hmac_sha1(text)(&swapped)),
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

/// The digests that a signature may stand for: the forms of `signing.output` first.
fn digests(signature: &str) -> Vec<(Vec<u8>, Told)> {
    let base64 = |text: &str| {
        STANDARD
            .decode(text.replace('-', "+").replace('_', "/"))
            .ok()
    };
    let has = |case: fn(&u8) -> bool| signature.as_bytes().iter().any(case);
    let is_mixed = has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase);
    let mixed = "The signature's hexadecimal digits are of both cases: write all of them in one.";
    let of_hex_digits = is_mixed.then_some(mixed.into());
    let mut all: Vec<(Vec<u8>, Told)> = Vec::new();
    all.extend(base64(signature).map(|digest| (digest, None)));
    all.extend(hex_decode(signature).map(|digest| (digest, of_hex_digits)));
    let trimmed = signature.trim();
    let unescaped = ["%2B", "%2b", "%2F", "%2f", "%3D", "%3d"]
        .iter()
        .zip(["+", "+", "/", "/", "=", "="])
        .fold(trimmed.to_owned(), |text, (from, to)| {
            text.replace(from, to)
        });
    let no_pad = STANDARD_NO_PAD.decode(trimmed.replace('-', "+").replace('_', "/"));
    let of_hex = base64(trimmed).and_then(|hex| hex_decode(std::str::from_utf8(&hex).ok()?));
    let slips = [
        (
            of_hex,
            "The signature is Base64 of the digest's hexadecimal digits: take Base64 of its bytes (in PHP: hash_hmac(…, true)).",
        ),
        (
            base64(trimmed),
            "The signature has a line's end or a blank around it: take that off.",
        ),
        (
            no_pad.ok(),
            "The signature has lost the = at its end: leave the padding on.",
        ),
        (
            base64(&unescaped),
            "The signature is escaped as in a URL (%2B, %3D): in a JSON body it stands as it is.",
        ),
        (
            base64(&trimmed.replace(' ', "+")),
            "Each + of the signature has become a blank: it went through a form or a URL unescaped.",
        ),
    ];
    let slips = slips.into_iter();
    all.extend(slips.filter_map(|(digest, told)| Some((digest?, Some(told.into())))));
    all
}

/// Was the body's own text signed, whatever its form, but for its signature?
fn of_the_body_as_it_is(
    sample: &Sample<'_>,
    secret: &SecretString,
    digests: &[(Vec<u8>, Told)],
) -> Told {
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
    [last, first, tight].iter().flatten().any(made_it).then_some(
        "The body's own text was signed, with its blanks and in its order: write the parameters that are not empty anew, compact \
         and with sorted keys, and sign that."
            .into(),
    )
}

/// HMAC-SHA1 has 20 bytes.
fn of_length(signature: &str) -> Told {
    let digests = digests(signature);
    let lengths: Vec<usize> = digests.iter().map(|(digest, _)| digest.len()).collect();
    let usual = [(16, "MD5"), (32, "SHA-256"), (64, "SHA-512")];
    let (length, name) = usual
        .into_iter()
        .find(|(length, _)| lengths.contains(length))?;
    let is_right = lengths.contains(&20);
    (!is_right).then(|| {
        format!("The digest has {length} bytes, as {name} has; HMAC-SHA1 has 20: take that.").into()
    })
}
