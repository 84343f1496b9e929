//! What a document gives to paste: its blocks, their commands, and what `curl` would send.

use super::client::{Reply, connect, post};

/// A fenced block of a document.
#[derive(Debug)]
pub struct Block {
    /// What stands behind the fence.
    pub language: String,
    pub text: String,
}

/// The blocks of a document, without the indentation that a list gives them.
pub fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let indentation = line.len() - line.trim_start().len();
        let block = lines.by_ref();
        let block = block.take_while(|line| line.trim_start() != "```");
        let text = block.map(|line| line.get(indentation..).unwrap_or_default().to_owned() + "\n");
        blocks.push(Block {
            language: language.to_owned(),
            text: text.collect(),
        });
    }
    blocks
}

/// The commands of a block of shell, each with all of its lines.
pub fn commands(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut command = String::new();
    for line in text.lines() {
        command += line;
        let is_whole =
            command.matches('\'').count().is_multiple_of(2) && !command.ends_with(['\\', '|']);
        if is_whole && !command.is_empty() {
            commands.push(std::mem::take(&mut command));
        } else {
            command += "\n";
        }
    }
    assert_eq!(command.trim(), "", "a command without an end");
    commands
}

/// The words of a command, as a shell splits it; quotes are taken off.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in command.replace("\\\n", " ").chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// Sends what this `curl` would, to where its URL's address is by `place`.
pub async fn curl(command: &str, place: impl Fn(&str) -> String) -> Reply {
    let mut words = words(command).into_iter();
    assert_eq!(words.next().as_deref(), Some("curl"));
    let (mut url, mut body, mut headers) = (None, String::new(), Vec::new());
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap();
        match &*word {
            "-i" | "-s" => {}
            "-X" => assert_eq!(value(), "POST"),
            "-d" => body = value(),
            "-H" => headers.push(value()),
            "#" => break,
            _ => url = Some(word.strip_prefix("http://").expect("a URL").to_owned()),
        }
    }
    let url = url.expect("a URL");
    let (address, path) = url.split_once('/').unwrap();
    let headers = headers
        .iter()
        .map(|header| header.split_once(": ").unwrap());
    let headers: Vec<_> = headers.collect();
    let json = headers
        .iter()
        .any(|(name, value)| (*name, *value) == ("Content-Type", "application/json"));
    assert!(json, "curl would send a form: {command}");
    let request = post(&format!("/{path}"), &headers, body.as_bytes());
    connect(&place(address)).await.exchange(&request).await
}
