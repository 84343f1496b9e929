//! Can this be a secret, and is it all of it meant? What is said shows nothing of it.

/// More than any secret or token.
const LARGEST_SECRET: usize = 64 * 1024;

/// The secret and what is doubtful about it, as the end of a sentence; or why it can be none, and
/// the remedy.
pub(super) fn check(
    bytes: Vec<u8>,
) -> Result<(String, Option<String>), (&'static str, &'static str)> {
    const AS_UTF_8: &str = "save it as text in UTF-8, without a byte order mark";
    let refused = if bytes.trim_ascii().is_empty() {
        ("is empty", "write the secret into it")
    } else if bytes.len() > LARGEST_SECRET {
        ("is larger than 64 KiB", "name what holds the secret alone")
    } else if bytes.starts_with(b"\xef\xbb\xbf") {
        ("begins with a byte order mark", AS_UTF_8)
    } else if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        ("is not UTF-8 but UTF-16", AS_UTF_8)
    } else if bytes.contains(&0) {
        ("holds a NUL byte", AS_UTF_8)
    } else if let Ok(text) = String::from_utf8(bytes) {
        let doubtful = doubtful(&text);
        return Ok((text, doubtful));
    } else {
        ("is not UTF-8", "write the secret as text")
    };
    Err(refused)
}

/// What a hand, an editor or a template has left around a secret, mostly: each signature would be
/// wrong without a word.
fn doubtful(text: &str) -> Option<String> {
    let first = text.chars().next().and_then(|first| around(first));
    let last = text.chars().next_back().and_then(|last| around(last));
    let mut faults: Vec<String> = Vec::new();
    faults.extend(first.map(|name| format!("begins with {name}")));
    faults.extend(last.map(|name| format!("ends with {name}")));
    if faults.is_empty() {
        faults.extend(
            text.chars()
                .find_map(within)
                .map(|name| format!("holds {name}")),
        );
    }
    (!faults.is_empty()).then(|| faults.join(" and "))
}

/// What is hardly the first or the last character of a secret.
fn around(character: char) -> Option<&'static str> {
    match character {
        '"' | '\'' | '`' | '\u{ab}' | '\u{bb}' | '\u{2018}'..='\u{201f}' => Some("a quote"),
        ' ' => Some("a space"),
        '\t' => Some("a tab"),
        _ => within(character).or(character.is_whitespace().then_some("a blank")),
    }
}

/// What is hardly anywhere in one.
fn within(character: char) -> Option<&'static str> {
    match character {
        '\r' => Some("a carriage return"),
        '\n' => Some("a line break"),
        '\t' => None,
        '\u{a0}' | '\u{2007}' | '\u{202f}' => Some("a no-break space"),
        // Of no width: soft hyphen, joiners, marks of direction, byte order mark.
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => Some("an invisible character"),
        character => character.is_control().then_some("an invisible character"),
    }
}
