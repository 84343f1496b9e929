//! Which keys there are, of what type, and which of them somebody may have meant.
//!
//! The defaults, serialised, are the schema: what is shown, what the environment may override and
//! what is suggested for a misspelt key can never differ from what is read.

use strsim::osa_distance;
use toml::{Table, Value};

use super::caller::Caller;
use super::route::Route;
use super::sections::Config;
use super::tenant::Tenant;

/// Stands for any name in the sections that are named by the user.
pub(super) const ANY: &str = "*";

/// Every key with its default, under [`ANY`] in the sections that are named by the user.
pub(super) fn schema() -> Table {
    fn table<T: serde::Serialize>(value: &T) -> Table {
        Table::try_from(value).expect("sections are maps with text as keys")
    }
    let mut schema = table(&Config::default());
    for (section, item) in [
        ("callers", table(&Caller::default())),
        ("tenants", table(&Tenant::default())),
        ("routes", table(&Route::default())),
    ] {
        let named = Table::from_iter([(ANY.to_owned(), Value::Table(item))]);
        schema.insert(section.to_owned(), Value::Table(named));
    }
    schema
}

/// What the schema has for a key of one of its tables.
pub(super) fn entry<'a>(known: &'a Table, key: &str) -> Option<&'a Value> {
    known.get(ANY).or_else(|| known.get(key))
}

/// What the schema has at a path.
pub(super) fn find<'a>(schema: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let found = entry(schema, first)?;
    match found {
        _ if rest.is_empty() => Some(found),
        Value::Table(table) => find(table, rest),
        _ => None,
    }
}

/// A path as the file would write it: `routes."/package/queryOrder".kind`.
pub fn dotted<S: AsRef<str>>(path: &[S]) -> String {
    let key = |key: &S| {
        let key = key.as_ref();
        let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if !key.is_empty() && key.bytes().all(is_bare) {
            key.to_owned()
        } else {
            format!("{key:?}")
        }
    };
    path.iter().map(key).collect::<Vec<_>>().join(".")
}

/// The candidate that was probably meant, if one is near enough.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_lowercase();
    let tolerance = (word.chars().count() / 3).clamp(1, 4);
    // Insertions, deletions, replacements and swaps of neighbours: what a hand on a keyboard does.
    let by_distance = |candidate: &'a str| {
        let distance = osa_distance(&word, &candidate.to_lowercase());
        (distance, candidate)
    };
    let (distance, candidate) = candidates.into_iter().map(by_distance).min()?;
    (distance <= tolerance).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_key_that_was_meant() {
        let keys = ["listen", "admin_listen", "max_body", "body_timeout"];
        for (word, meant) in [
            ("lisen", Some("listen")),
            ("lisetn", Some("listen")),
            ("Max_Body", Some("max_body")),
            ("max-body", Some("max_body")),
            ("admin_listne", Some("admin_listen")),
            ("body", None),
            ("wholly_different", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, keys), meant, "{word}");
        }
    }

    #[test]
    fn a_path_is_written_as_the_file_would() {
        assert_eq!(dotted(&["server", "listen"]), "server.listen");
        assert_eq!(dotted(&["routes", "/a", "kind"]), "routes.\"/a\".kind");
    }

    #[test]
    fn names_of_the_user_stand_for_any() {
        let path = ["tenants", "acme", "access_code"].map(str::to_owned);
        assert!(find(&schema(), &path).is_some());
        assert!(find(&schema(), &path[..2]).is_some_and(Value::is_table));
        assert!(find(&schema(), &["tenants", "acme", "secret"].map(str::to_owned)).is_none());
    }
}
