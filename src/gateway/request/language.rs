//! Which language is asked of Linksfield? One of the configured ones, as it is part of the cache
//! key.

use std::sync::Arc;

use hyper::header::HeaderValue;

/// The configured languages, the one for callers who name none that matches first.
#[derive(Debug)]
pub struct Languages(Vec<Arc<Language>>);

/// A language that Linksfield speaks.
#[derive(Debug)]
pub struct Language {
    /// Its tag (BCP 47), as configured.
    pub tag: Arc<str>,
    /// The value of `Accept-Language` upstream.
    pub header: HeaderValue,
}

impl Languages {
    /// `tags` as the configuration has checked them: at least one, each a language tag.
    pub fn new(tags: &[String]) -> Self {
        let language = |tag: &String| {
            Arc::new(Language {
                tag: tag.as_str().into(),
                header: HeaderValue::from_str(tag).expect("checked with the configuration"),
            })
        };
        Self(tags.iter().map(language).collect())
    }

    /// The language for a caller's `Accept-Language` (RFC 9110, section 12.5.4): of the ranges that
    /// match one of ours the heaviest, of equals the first; what is no list of ranges counts as
    /// none.
    pub fn choose(&self, accept: Option<&HeaderValue>) -> &Arc<Language> {
        let Some(ranges) = accept.and_then(|value| value.to_str().ok()) else {
            return &self.0[0];
        };
        let mut best: Option<(u16, &Arc<Language>)> = None;
        for item in ranges.split(',') {
            let (range, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight = weight(parameters);
            if weight == 0 || best.is_some_and(|(heaviest, _)| heaviest >= weight) {
                continue;
            }
            if let Some(language) = self.lookup(range.trim()) {
                best = Some((weight, language));
            }
        }
        best.map_or(&self.0[0], |(_, language)| language)
    }

    /// The same tag, else the same primary language (`en` and `en-GB` find `en-US`).
    fn lookup(&self, range: &str) -> Option<&Arc<Language>> {
        let primary = |tag: &str| {
            tag.split('-')
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase()
        };
        let same = |language: &&Arc<Language>| language.tag.eq_ignore_ascii_case(range);
        let related = |language: &&Arc<Language>| primary(&language.tag) == primary(range);
        match range {
            "*" => self.0.first(),
            _ => self
                .0
                .iter()
                .find(same)
                .or_else(|| self.0.iter().find(related)),
        }
    }
}

/// A weight of 0 to 1 in thousandths; what is no weight counts as 0.
fn weight(parameters: &str) -> u16 {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return 1000;
    }
    let value = parameters
        .strip_prefix("q=")
        .and_then(|value| value.parse::<f32>().ok());
    match value {
        Some(value) if (0.0..=1.0).contains(&value) => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 to 1000, checked above"
            )]
            let thousandths = (value * 1000.0).round() as u16;
            thousandths
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_gets_the_language_it_asks_for_if_linksfield_speaks_it() {
        let languages = Languages::new(&["zh-CN".to_owned(), "en-US".to_owned()]);
        let rows = [
            (None, "zh-CN"),
            (Some(""), "zh-CN"),
            (Some("en-US"), "en-US"),
            (Some("EN-us"), "en-US"),
            (Some("en"), "en-US"),
            (Some("en-GB,en;q=0.8"), "en-US"),
            (Some("de, en;q=0.5"), "en-US"),
            (Some("zh-CH"), "zh-CN"),
            (Some("de-DE"), "zh-CN"),
            (Some("*"), "zh-CN"),
            (Some("zh;q=0.2, en;q=0.9"), "en-US"),
            (Some("en;q=0, zh-CN;q=0.1"), "zh-CN"),
            (Some("en;q=x"), "zh-CN"),
            (Some("en;q=9"), "zh-CN"),
            (Some(";;;,,,"), "zh-CN"),
        ];
        for (accept, expected) in rows {
            let header = accept.map(HeaderValue::from_static);
            assert_eq!(
                &*languages.choose(header.as_ref()).tag,
                expected,
                "{accept:?}"
            );
        }
    }
}
