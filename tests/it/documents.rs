//! Whatever a document gives to paste is pasted here, as it stands, or has a reason why not.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::shell::{Block, blocks, commands, curl};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Commands with this in them are not run here.
const LEFT: [(&str, &str); 6] = [
    ("cargo ", "takes minutes, and this test is run by it"),
    (
        "docker ",
        "needs Docker and its registry: .ci/deploy makes and runs the image",
    ),
    (
        "kubectl ",
        "needs a cluster: .ci/deploy runs what it would apply",
    ),
    (
        "helm ",
        "needs a cluster: .ci/deploy renders and runs the chart",
    ),
    ("jq ", "needs jq and a log: .ci/observability runs it"),
    ("benches/peers/run", "takes an hour, and root"),
];

/// Blocks in this language are not run here.
const NO_COMMANDS: [(&str, &str); 4] = [
    ("json", "an answer, to look at"),
    (
        "yaml",
        "for a cluster: .ci/deploy renders the component and the mesh is the reader's",
    ),
    ("python", "a line for the caller's own code"),
    ("java", "a line for the caller's own code"),
];

const DOCUMENTS: [&str; 8] = [
    "README.md",
    "deploy/README.md",
    "docs/caching.md",
    "docs/errors.md",
    "docs/faults.md",
    "docs/metrics.md",
    "docs/performance.md",
    "docs/runbook.md",
];

/// The secret that the README writes, and a body that was signed with it.
const SECRET: &str = "THE SECRET";
const SIGNED: &str = r#"{"access_code":"P000270","page_no":1,"page_size":2,"timestamp":"1643251754","version":"2.0","sign":"xQOL2kA6Nl2QmQsm7+nK3QjkMaw="}"#;

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine with the repository, the binary in its path, and a simulator in Linksfield's place.
struct Machine {
    /// The gateway that was started last, with its two addresses.
    gateway: Option<(Running, [String; 2])>,
    _simulator: Running,
    vendor: String,
    folder: TempDir, // the last to go
}

impl Machine {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        for name in ["deploy", "config"] {
            let link = folder.path().join(name);
            std::os::unix::fs::symlink(Path::new(ROOT).join(name), link).unwrap();
        }
        fs::write(folder.path().join("signed-body.json"), SIGNED).unwrap();
        let secret = folder.path().join("of-the-vendor");
        fs::write(&secret, SECRET).unwrap();
        let mut simulator = Command::new(env!("CARGO_BIN_EXE_linksfield-gateway"))
            .args(["simulate", "--listen", "127.0.0.1:0", "--secret-file"])
            .arg(secret)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(simulator.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let (_, vendor) = line.trim().split_once(" on ").unwrap();
        Self {
            gateway: None,
            _simulator: Running(simulator),
            vendor: vendor.to_owned(),
            folder,
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// A shell in the folder. What a test must have of its own comes by the environment: the text
    /// stands as it is.
    fn shell(&self, command: &str) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_linksfield-gateway"));
        let folder = binary.parent().unwrap().display();
        let command = format!("PATH=\"{folder}:$PATH\"\n{command}");
        let mut shell = Command::new("sh");
        shell
            .args(["-ec", &command])
            .current_dir(self.folder.path())
            .env("LINKSFIELD_GATEWAY__SERVER__LISTEN", "127.0.0.1:0")
            .env("LINKSFIELD_GATEWAY__SERVER__ADMIN_LISTEN", "127.0.0.1:0")
            .env("LINKSFIELD_GATEWAY__LOG__FORMAT", "json")
            .env("LINKSFIELD_GATEWAY__UPSTREAM__BASE_URL", &self.vendor);
        shell
    }

    fn run(&self, command: &str) -> Output {
        self.shell(command).output().unwrap()
    }

    fn succeed(&self, command: &str) {
        let output = self.run(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}");
    }

    /// Starts the gateway, and waits until it listens.
    fn serve(&mut self, command: &str) {
        let command = format!("exec {command}");
        let mut process = self.shell(&command).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let running = Running(process);
        let mut addresses = Vec::new();
        while addresses.len() < 2 {
            let line = lines.next().expect("it starts").unwrap();
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            if line["message"] == "listening" {
                addresses.push(line["address"].as_str().unwrap().to_owned());
            }
        }
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        self.gateway = Some((running, addresses.try_into().unwrap()));
    }

    /// Pastes the commands of a block; returns what was left out.
    async fn paste(&mut self, text: &str) -> BTreeSet<&'static str> {
        let mut left = BTreeSet::new();
        for command in commands(text) {
            let is_left = |(part, _): &&(&str, &str)| command.contains(part);
            if let Some((part, _)) = LEFT.iter().find(is_left) {
                left.insert(*part);
            } else if command.starts_with("curl ") {
                let (_, [data, admin]) = self.gateway.as_ref().expect("a gateway runs");
                let reply = curl(&command, |address| match address {
                    "127.0.0.1:6180" => data.clone(),
                    "127.0.0.1:6181" => admin.clone(),
                    _ => panic!("nobody listens on {address}"),
                });
                let reply = reply.await;
                assert_eq!(reply.status, 200, "{command}: {reply:?}");
                let answer = reply.json();
                assert!(
                    answer["code"].is_null() || answer["code"] == "0000",
                    "{command}: {answer}"
                );
            } else if command.contains("gateway serve ") {
                self.serve(&command);
            } else {
                self.succeed(&command);
            }
        }
        left
    }
}

fn document(name: &str) -> Vec<Block> {
    blocks(&fs::read_to_string(Path::new(ROOT).join(name)).unwrap())
}

/// The configuration that the README gives.
fn least_configuration() -> String {
    let mut blocks = document("README.md").into_iter();
    blocks.find(|block| block.language == "toml").unwrap().text
}

#[tokio::test]
async fn every_block_of_every_document_can_be_pasted_or_has_a_reason_why_not() {
    let mut left = BTreeSet::new();
    for name in DOCUMENTS {
        let mut machine = Machine::new();
        if name == "docs/runbook.md" {
            machine.write("secret", SECRET);
            machine.write("gateway.toml", &least_configuration());
            machine.serve("linksfield-gateway serve --config gateway.toml");
        }
        for Block { language, text } in document(name) {
            match &*language {
                "sh" => left.extend(machine.paste(&text).await),
                "toml" if name == "README.md" => machine.write("gateway.toml", &text),
                "toml" => assert_eq!(name, "docs/runbook.md", "the brakes, see below"),
                _ => {
                    let reason = NO_COMMANDS.iter().find(|(known, _)| *known == language);
                    let (language, _) = reason.unwrap_or_else(|| panic!("{name}: {text}"));
                    left.insert(language);
                }
            }
        }
    }
    let reasons = LEFT.iter().chain(&NO_COMMANDS).map(|(part, _)| *part);
    assert_eq!(left, reasons.collect(), "every reason is needed");
}

#[test]
fn every_document_with_a_block_is_looked_at() {
    for folder in ["", "docs", "deploy", "config"] {
        for file in fs::read_dir(Path::new(ROOT).join(folder)).unwrap() {
            let path = Path::new(folder).join(file.unwrap().file_name());
            let is_document = path.extension().is_some_and(|end| end == "md");
            let is_known = DOCUMENTS.iter().any(|known| path == Path::new(known));
            assert!(!is_document || is_known, "{}", path.display());
        }
    }
}

#[tokio::test]
async fn the_requests_of_the_readme_work_against_the_demo_and_a_key_replays_a_success() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_linksfield-gateway"))
        .args(["demo", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(demo.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let _running = Running(demo);
    let (_, address) = line.split_once("http://").unwrap();
    let address = address.split(',').next().unwrap();
    let mut replayed = 0;
    for block in document("README.md")
        .iter()
        .filter(|block| block.language == "sh")
    {
        for command in commands(&block.text)
            .iter()
            .filter(|command| command.starts_with("curl "))
        {
            let send = async || curl(command, |_| address.to_owned()).await;
            let (first, second) = (send().await, send().await);
            assert_eq!(first.json()["code"], "0000", "{command}: {first:?}");
            assert_eq!(second.body, first.body);
            replayed += usize::from(second.header("idempotency-replayed") == Some("true"));
        }
    }
    assert_eq!(replayed, 1);
}

/// A brake: its header, and its line.
fn brakes() -> Vec<(String, String)> {
    let blocks = document("docs/runbook.md");
    let blocks = blocks.iter().filter(|block| block.language == "toml");
    let lines = blocks.map(|block| block.text.trim_end().split_once('\n').unwrap());
    lines
        .map(|(header, line)| (header.to_owned(), line.to_owned()))
        .collect()
}

#[test]
fn a_brake_holds_where_the_runbook_says_and_a_second_header_is_refused_with_the_line_of_the_first()
{
    let machine = Machine::new();
    let shipped = fs::read_to_string(Path::new(ROOT).join("config/gateway.toml")).unwrap();
    let check = "linksfield-gateway check --no-secrets --config edited.toml";
    let brakes = brakes();
    assert!(brakes.len() > 4);
    for (header, line) in brakes {
        let (key, _) = line.split_once(" = ").unwrap();
        let mut lines: Vec<&str> = shipped.lines().collect();
        let place = lines.iter().position(|line| *line == header);
        let place = place.unwrap_or_else(|| panic!("{header} is in the file that is shipped"));
        let section = lines[place + 1..]
            .iter()
            .take_while(|line| !line.starts_with('['));
        let own = section
            .clone()
            .position(|line| line.starts_with(&format!("{key} = ")));

        // As it says: under the header, in the place of the key's old line.
        match own {
            Some(own) => lines[place + 1 + own] = &line,
            None => lines.insert(place + 1, &line),
        }
        machine.write("edited.toml", &(lines.join("\n") + "\n"));
        let output = machine.run(check);
        let effective = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{header} {line}");
        assert!(effective.contains(&line), "{line}: {effective}");

        // As somebody in a hurry does: both lines at the end.
        machine.write("edited.toml", &format!("{shipped}\n{header}\n{line}\n"));
        let output = machine.run(check);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{header}");
        let remedy = format!("{header} stands in line {} already", place + 1);
        assert!(told.contains(&remedy), "{remedy}: {told}");
        let destination = match own {
            Some(own) => format!("in place of line {}", place + 2 + own),
            None => format!("below line {}", place + 1),
        };
        let remedy = format!("put {key} = … {destination}, and remove this second {header}");
        assert!(told.contains(&remedy), "{remedy}: {told}");

        // And under the header, although the key stands there.
        if let Some(own) = own {
            let mut lines: Vec<&str> = shipped.lines().collect();
            lines.insert(place + 1, &line);
            machine.write("edited.toml", &lines.join("\n"));
            let told = String::from_utf8(machine.run(check).stderr).unwrap();
            let remedy = format!("{key} stands in line {} already", place + 2);
            assert!(told.contains(&remedy), "{own}: {remedy}: {told}");
        }
    }
}

#[test]
fn a_block_is_read_as_a_reader_sees_it() {
    let text = "1. One\n\n   ```sh\n   a 'b\n   c' \\\n     d  # e\n   f |\n     g\n   ```\n";
    let [block] = &blocks(text)[..] else { panic!() };
    assert_eq!(block.language, "sh");
    assert_eq!(commands(&block.text), ["a 'b\nc' \\\n  d  # e", "f |\n  g"]);
}
