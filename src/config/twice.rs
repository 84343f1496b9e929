//! What stands twice in a text: where does its line belong?
//!
//! It is read by an operator who has pasted a brake of the runbook into a file that has the section
//! already, so each remedy names the line to go to. The places are those of TOML's own parser: a
//! section may be spelt `[ tenants . acme ]`, stand in braces (`server = { … }`), or be begun by a
//! dotted key (`server.commands = true`).
//!
//! Invariant: keys are quoted, values are not.

use std::collections::HashSet;
use std::ops::Range;

use toml_parser::Source;
use toml_parser::parser::{Event, EventKind, RecursionGuard, parse_document};

use super::schema::dotted;

/// As deep as the parser goes that has found what is wrong.
const DEEPEST: u32 = 80;

/// So many are told with their places: a larger file is no work of a moment, and nobody reads more.
const MOST_TOLD: usize = 50;

/// Said where it cannot be told better.
const ANYWAY: &str = "a section and a key stand once: put the line under the section that is there, and remove the other";

/// What a place gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `[server]`
    Section,
    /// `[[server]]`
    List,
    /// `server = { … }`
    Braces,
    /// `commands = false`
    Value,
}

/// Where a section begins or a key stands.
#[derive(Debug)]
struct Place {
    form: Form,
    /// From the root.
    path: Vec<String>,
    /// So many names of the path are those of the section, or of the key before the braces, that it
    /// stands in.
    within: usize,
    is_in_braces: bool,
    span: Range<usize>,
    /// From 1.
    line: usize,
    /// The last line of its value.
    end: usize,
}

impl Place {
    fn begins_section(&self) -> bool {
        matches!(self.form, Form::Section | Form::List)
    }

    /// So many names of this path lead to a table that this place gives; 0 if none does.
    fn holds(&self, path: &[String]) -> usize {
        let same = self.path.iter().zip(path);
        let same = same.take_while(|(one, other)| one == other).count();
        match self.form {
            Form::Section | Form::List | Form::Braces if same == self.path.len() => same,
            Form::Section | Form::List => 0,
            // Of `limits.queue` in `[upstream]` the table `upstream.limits`; `upstream` is that of
            // the section.
            Form::Braces | Form::Value => match same.min(self.path.len() - 1) {
                names if names > self.within => names,
                _ => 0,
            },
        }
    }

    /// What to remove, as one of two.
    fn removed(&self) -> String {
        match self.form {
            Form::Value if self.is_in_braces => "this one".to_owned(),
            Form::Value if self.end > self.line => {
                format!("the {} lines from here", self.end - self.line + 1)
            }
            Form::Value => "this line".to_owned(),
            _ => format!("this {}", self.written()),
        }
    }

    /// As the file would write it.
    fn written(&self) -> String {
        let key = dotted(&self.path[self.within..]);
        match self.form {
            Form::Section => format!("[{key}]"),
            Form::List => format!("[[{key}]]"),
            Form::Braces => format!("{key} = {{ … }}"),
            Form::Value => format!("{key} = …"),
        }
    }
}

/// Every place of a text.
pub(super) struct Places(Vec<Place>);

impl Places {
    pub(super) fn of(text: &str) -> Self {
        let source = Source::new(text);
        let tokens = source.lex().into_vec();
        let mut events: Vec<Event> = Vec::new();
        let mut guarded = RecursionGuard::new(&mut events, DEEPEST);
        parse_document(&tokens, &mut guarded, &mut ());

        let mut places: Vec<Place> = Vec::new();
        let mut section = Vec::new();
        // The tables in braces that are open, by their paths. What is in a list has none.
        let mut braces: Vec<Option<Vec<String>>> = Vec::new();
        let (mut key, mut span) = (Vec::new(), 0..0);
        let mut value = None; // the place that it belongs to
        let (mut line, mut counted) = (1, 0);
        let mut begun: Vec<Option<usize>> = Vec::new(); // by how many braces are open: the place whose value comes
        for event in events {
            let at = event.span();
            match event.kind() {
                EventKind::StdTableOpen | EventKind::ArrayTableOpen => {
                    (key, braces) = (Vec::new(), Vec::new());
                }
                EventKind::SimpleKey => {
                    let mut name = String::new();
                    if let Some(raw) = source.get(event) {
                        raw.decode_key(&mut name, &mut ());
                    }
                    if key.is_empty() {
                        span = at.start()..at.end();
                    }
                    span.end = at.end();
                    key.push(name);
                }
                kind @ (EventKind::StdTableClose
                | EventKind::ArrayTableClose
                | EventKind::KeyValSep)
                    if !key.is_empty() =>
                {
                    let name = std::mem::take(&mut key);
                    let form = match kind {
                        EventKind::StdTableClose => Form::Section,
                        EventKind::ArrayTableClose => Form::List,
                        _ => Form::Value,
                    };
                    let around: Option<&[String]> = match braces.last() {
                        _ if form != Form::Value => Some(&[]),
                        Some(around) => around.as_deref(),
                        None => Some(&section),
                    };
                    value = None;
                    let Some(around) = around else { continue };
                    line += text[counted..span.start].matches('\n').count();
                    counted = span.start;
                    let path = [around, &name].concat();
                    places.push(Place {
                        form,
                        within: around.len(),
                        is_in_braces: form == Form::Value && !braces.is_empty(),
                        span: span.clone(),
                        line,
                        end: line,
                        path: path.clone(),
                    });
                    if form == Form::Value {
                        begun.resize(braces.len() + 1, None);
                        begun[braces.len()] = Some(places.len() - 1);
                        value = Some(places.len() - 1);
                    } else {
                        section = path;
                    }
                }
                EventKind::InlineTableOpen => {
                    braces.push(value.take().map(|place| {
                        places[place].form = Form::Braces;
                        places[place].path.clone()
                    }));
                }
                EventKind::ArrayOpen => {
                    value = None;
                    braces.push(None);
                    begun.truncate(braces.len());
                }
                kind
                @ (EventKind::Scalar | EventKind::InlineTableClose | EventKind::ArrayClose) => {
                    if kind != EventKind::Scalar {
                        braces.pop();
                    }
                    if let Some(Some(place)) = begun.get(braces.len()) {
                        let place: &mut Place = &mut places[*place];
                        let value = text.get(place.span.end..at.end()).unwrap_or_default();
                        place.end = place.line + value.matches('\n').count();
                    }
                }
                EventKind::Newline | EventKind::ValueSep => key.clear(), // of what was no key
                _ => {}
            }
        }
        Self(places)
    }

    /// What to do about what stands at each of these offsets, and stands somewhere before too; none
    /// where the remedy of its section says so already.
    pub(super) fn remedies(&self, offsets: &[usize]) -> Vec<Option<String>> {
        let places: Vec<_> = offsets.iter().map(|offset| self.at(*offset)).collect();
        let told: HashSet<usize> = places.iter().flatten().copied().collect();
        let remedy = |(number, place): (usize, &Option<usize>)| {
            let known = place.filter(|_| number < MOST_TOLD);
            let Some(second) = known else {
                return Some(ANYWAY.to_owned());
            };
            if self.is_told_with_its_section(second, &told) {
                return None;
            }
            Some(self.way_out(second).unwrap_or_else(|| ANYWAY.to_owned()))
        };
        places.iter().enumerate().map(remedy).collect()
    }

    fn is_told_with_its_section(&self, second: usize, told: &HashSet<usize>) -> bool {
        let section = self.0[..second]
            .iter()
            .rposition(Place::begins_section)
            .filter(|_| !self.0[second].begins_section());
        section.is_some_and(|section| {
            let path = &self.0[second].path;
            told.contains(&section) && self.0[..section].iter().any(|place| place.path == *path)
        })
    }

    fn at(&self, offset: usize) -> Option<usize> {
        // They stand in the order of the text.
        let after = self.0.partition_point(|place| place.span.start <= offset);
        let place = after.checked_sub(1)?;
        self.0[place].span.contains(&offset).then_some(place)
    }

    fn way_out(&self, second: usize) -> Option<String> {
        let (before, after) = self.0.split_at(second);
        let (second, after) = after.split_first()?;
        // Of a list's elements each has keys of its own: the last one is meant.
        let begins = before
            .iter()
            .rposition(|place| place.form == Form::List && second.path.starts_with(&place.path));
        let before = &before[begins.unwrap_or(0)..];

        let value = |place: &&Place| place.form == Form::Value;
        let first_value = before.iter().filter(value);
        let mut above = first_value.filter(|place| second.path.starts_with(&place.path));
        if let Some(first) = above.next() {
            let (key, line) = (dotted(&first.path[first.within..]), first.line);
            if first.path != second.path || second.form != Form::Value {
                let told =
                    format!("{key} has a value in line {line} already: remove one of the two");
                return Some(told);
            }
            if line == second.line {
                return Some(format!(
                    "{key} stands twice in line {line}: remove one of the two"
                ));
            }
            return Some(format!(
                "{key} stands in line {line} already: keep the one that you want, and remove the other"
            ));
        }

        let (first, names) = holder(before, &second.path)?;
        let inside: Vec<&Place> = match second.form {
            Form::Value => vec![second],
            Form::Braces => after
                .iter()
                .take_while(|place| place.is_in_braces && place.path.starts_with(&second.path))
                .filter(value)
                .collect(),
            Form::Section | Form::List => after
                .iter()
                .take_while(|place| !place.begins_section())
                .filter(value)
                .collect(),
        };
        let held = before.iter().filter(value);
        let held = held
            .filter(|place| place.path.starts_with(&second.path))
            .count();
        let is_same_section = second.begins_section() && names == second.path.len();
        if is_same_section && (1..inside.len()).contains(&held) {
            // A line that was put before the whole section.
            let (written, line, this) = (first.written(), first.line, second.written());
            let what = match first.form {
                Form::Section | Form::List => format!("the lines below line {line}"),
                Form::Braces | Form::Value => "that line".to_owned(),
            };
            return Some(format!(
                "{written} stands in line {line} already, with less in it: move {what} into this {this}, \
                 keep the one that you want of a key that stands in both, and remove {written} in line {line}"
            ));
        }
        let mut steps = Vec::new();
        for place in inside {
            steps.push(format!("put {}", destination(before, place)?));
        }
        if first.form == Form::List {
            let path = dotted(&first.path);
            steps.push(format!("make line {} [{path}]", first.line));
        }
        steps.push(match (second.form, first.form) {
            (Form::Section, Form::Section) => format!("remove this second {}", second.written()),
            _ => format!("remove {}", second.removed()),
        });
        let (written, line) = (first.written(), first.line);
        let steps = match steps.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{}, and {last}", others.join(", ")),
            None => return None,
        };
        Some(format!("{written} stands in line {line} already: {steps}"))
    }
}

/// The first of the places that give the innermost table on this path, and how many names lead to
/// it.
fn holder<'a>(before: &'a [Place], path: &[String]) -> Option<(&'a Place, usize)> {
    let held = before.iter().map(|place| (place, place.holds(path)));
    let held = held.filter(|(_, names)| *names > 0);
    held.rev().max_by_key(|(_, names)| *names)
}

/// Where a line goes to, as it is written there.
fn destination(before: &[Place], place: &Place) -> Option<String> {
    let is_same = |first: &&Place| first.path == place.path;
    if let Some(first) = before.iter().find(is_same) {
        if first.form != Form::Value {
            return None; // a section there, a value here
        }
        let (written, line) = (first.written(), first.line);
        return Some(if first.is_in_braces {
            format!("{written} in place of that in the braces in line {line}")
        } else {
            match first.end {
                end if end > line => format!("{written} in place of lines {line} to {end}"),
                _ => format!("{written} in place of line {line}"),
            }
        });
    }
    let (first, names) =
        holder(before, &place.path).filter(|(_, names)| *names < place.path.len())?;
    let line = first.line;
    let begins_with = if names == first.path.len() {
        names
    } else {
        first.within // a dotted key gives the table: the same way to it again
    };
    let key = dotted(&place.path[begins_with..]);
    Some(
        if first.is_in_braces || names == first.path.len() && first.form == Form::Braces {
            format!("{key} = … into the braces in line {line}")
        } else {
            let line = if first.form == Form::Value {
                first.end
            } else {
                line
            };
            format!("{key} = … below line {line}")
        },
    )
}
