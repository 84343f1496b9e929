//! The secrets that the configuration names: read once, held as [`SecretString`], never shown.
//!
//! Every message names the key and where the secret is, never what is there. Nor does it quote what
//! may be the secret itself, written where its place belongs: the name of a variable that is not
//! set, or of a file that cannot be read and that does not look like a path.

mod content;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use secrecy::{ExposeSecret as _, SecretString};

use super::file::{self, Content, Contents, Files};
use super::problem::{Problem, Problems, Warning};
use super::schema::dotted;
use super::sections::Config;
use super::tenant::Tenant;
use crate::signing::form::SecretEncoding;

/// Longer than the paths that people write.
const LONGEST_PATH: usize = 1024;

/// What files of secrets, tokens and certificates are called.
const ENDINGS: [&str; 8] = ["txt", "key", "pem", "crt", "cer", "secret", "token", "env"];

/// Shorter tokens can be guessed.
const SHORTEST_TOKEN: usize = 16;

/// What the files and variables that a configuration names hold.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// By tenant.
    pub tenants: BTreeMap<String, TenantSecret>,
    /// Tokens by caller.
    pub callers: BTreeMap<String, SecretString>,
    /// Of the admin listener.
    pub admin_token: Option<SecretString>,
    /// Whom to trust instead of the bundled roots.
    pub ca: Option<Ca>,
    /// What deserves a thought.
    pub warnings: Vec<Warning>,
}

/// The secrets of one tenant.
#[derive(Debug, Clone)]
pub struct TenantSecret {
    /// The one to sign with.
    pub current: SecretString,
    /// The one before it, during a rotation.
    pub previous: Option<SecretString>,
}

/// The certificates of a `ca_file`.
#[derive(Debug, Clone)]
pub struct Ca {
    pem: Vec<u8>,
    /// What they verify.
    pub roots: RootCertStore,
}

impl Ca {
    /// The certificates in a file of PEM, and what is wrong with those that cannot be used; or why
    /// there is none.
    pub fn parse(pem: Vec<u8>) -> Result<(Self, Vec<String>), String> {
        let mut roots = RootCertStore::empty();
        let mut skipped = Vec::new();
        let certificates = certificates(&pem);
        for (index, certificate) in certificates.iter().enumerate() {
            // The library's own words for broken PEM may quote it.
            let certificate =
                CertificateDer::from_pem_slice(certificate).map_err(|_| "broken PEM".to_owned());
            let added = certificate
                .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
            if let Err(cause) = added {
                let (number, of) = (index + 1, certificates.len());
                skipped.push(format!(
                    "certificate {number} of {of} cannot be used: {cause}"
                ));
            }
        }
        if !roots.is_empty() {
            return Ok((Self { pem, roots }, skipped));
        }
        Err(match skipped.first() {
            Some(first) => format!("holds no certificate that can be used ({first})"),
            None => "holds no certificate in PEM".into(),
        })
    }
}

/// The parts of a PEM that begin like a certificate, each up to the next one: one that is cut takes
/// none with it.
fn certificates(pem: &[u8]) -> Vec<&[u8]> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let begins = (0..pem.len()).filter(|at| pem[*at..].starts_with(BEGIN));
    let ends = begins.clone().skip(1).chain([pem.len()]);
    begins
        .zip(ends)
        .map(|(begin, end)| &pem[begin..end])
        .collect()
}

impl PartialEq for Ca {
    fn eq(&self, other: &Self) -> bool {
        self.pem == other.pem
    }
}

impl PartialEq for Secrets {
    fn eq(&self, other: &Self) -> bool {
        self.by_key() == other.by_key()
    }
}

impl Secrets {
    /// The keys of `config` under which other secrets, or certificates, are in effect than
    /// `before`.
    pub fn differs_in(&self, before: &Self, config: &Config) -> Vec<String> {
        let (now, before) = (self.by_key(), before.by_key());
        let all: BTreeSet<_> = now.keys().chain(before.keys()).collect();
        let others = all
            .into_iter()
            .filter(|key| now.get(*key) != before.get(*key));
        let from_variable = |name| {
            let tenant = config.tenants.get(name);
            tenant.is_some_and(|tenant| tenant.secret_file.is_none())
        };
        others
            .map(|key| match key[..] {
                ["tenants", name, "secret_file"] if from_variable(name) => {
                    dotted(&["tenants", name, "secret_env"])
                }
                _ => dotted(key),
            })
            .collect()
    }

    /// All of them, by the keys that name where they are; one in a variable as if it were in a
    /// file.
    fn by_key(&self) -> BTreeMap<Vec<&str>, &[u8]> {
        fn bytes(secret: &SecretString) -> &[u8] {
            secret.expose_secret().as_bytes()
        }
        let mut all = BTreeMap::new();
        for (name, TenantSecret { current, previous }) in &self.tenants {
            all.insert(vec!["tenants", name, "secret_file"], bytes(current));
            if let Some(previous) = previous {
                let key = vec!["tenants", name, "previous_secret_file"];
                all.insert(key, bytes(previous));
            }
        }
        for (name, token) in &self.callers {
            all.insert(vec!["callers", name, "token_file"], bytes(token));
        }
        if let Some(token) = &self.admin_token {
            all.insert(vec!["server", "admin_token_file"], bytes(token));
        }
        if let Some(ca) = &self.ca {
            all.insert(vec!["upstream", "ca_file"], &ca.pem);
        }
        all
    }
}

/// One run over everything that was read.
struct Loader<V> {
    contents: Contents,
    variable: V,
    encoding: SecretEncoding,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

/// Reads what the configuration names; `variable` looks one up in the environment.
pub(super) fn load(
    config: &Config,
    files: &Files,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Secrets, Problems> {
    let contents = files.read(config.secret_files());
    let mut loader = Loader::new(contents, variable, config.signing.secret_encoding);
    let mut secrets = loader.all(config);
    loader.distinct_tokens(&secrets);
    secrets.warnings = loader.warnings;
    if loader.problems.is_empty() {
        Ok(secrets)
    } else {
        Err(Problems::new("secrets", loader.problems))
    }
}

/// Reads again what the configuration names. What cannot be used is taken from `before`, where the
/// `running` configuration named it in the same way; what is wrong with it is told. Without that,
/// the configuration cannot be used.
pub(super) fn reload(
    config: &Config,
    files: &Files,
    variable: impl Fn(&str) -> Option<String>,
    (before, running): (&Secrets, &Config),
) -> Result<(Secrets, Vec<Problem>), Problems> {
    let contents = files.read(config.secret_files());
    let mut loader = Loader::new(contents, variable, config.signing.secret_encoding);
    let mut secrets = loader.all(config);
    let wrong = std::mem::take(&mut loader.problems);
    let mut is_whole = true;
    for (name, tenant) in &config.tenants {
        let is_same = running.tenants.get(name).is_some_and(|known| {
            let of = |tenant: &Tenant| {
                let from = (tenant.secret_file.clone(), tenant.secret_env.clone());
                (
                    tenant.access_code.clone(),
                    from,
                    tenant.previous_secret_file.clone(),
                )
            };
            of(known) == of(tenant)
        });
        let known = before.tenants.get(name).filter(|_| is_same);
        match (secrets.tenants.get_mut(name), known) {
            (Some(read), Some(known)) if tenant.previous_secret_file.is_some() => {
                read.previous = read.previous.take().or_else(|| known.previous.clone());
            }
            (Some(_), _) => {}
            (None, Some(known)) => {
                secrets.tenants.insert(name.clone(), known.clone());
            }
            (None, None) => is_whole = false,
        }
    }
    for (name, caller) in &config.callers {
        let known = running.callers.get(name);
        let is_same = known.is_some_and(|known| known.token_file == caller.token_file);
        match before.callers.get(name).filter(|_| is_same) {
            Some(token) => {
                let read = secrets.callers.entry(name.clone());
                read.or_insert_with(|| token.clone());
            }
            None => is_whole &= secrets.callers.contains_key(name),
        }
    }
    if config.server.admin_token_file.is_some() {
        let is_same = config.server.admin_token_file == running.server.admin_token_file;
        let known = before.admin_token.as_ref().filter(|_| is_same);
        secrets.admin_token = secrets.admin_token.or_else(|| known.cloned());
        is_whole &= secrets.admin_token.is_some();
    }
    if config.upstream.ca_file.is_some() {
        let is_same = config.upstream.ca_file == running.upstream.ca_file;
        let known = before.ca.as_ref().filter(|_| is_same);
        secrets.ca = secrets.ca.or_else(|| known.cloned());
        is_whole &= secrets.ca.is_some();
    }
    if !is_whole {
        return Err(Problems::new("secrets", wrong));
    }
    loader.distinct_tokens(&secrets);
    if !loader.problems.is_empty() {
        return Err(Problems::new("secrets", loader.problems));
    }
    secrets.warnings = loader.warnings;
    Ok((secrets, wrong))
}

/// Reads one secret from a file that an argument names, and says what is doubtful about it.
pub fn read_secret(argument: &str, path: &Path) -> Result<(SecretString, Vec<Warning>), Problems> {
    let contents = Files::once().read(std::iter::once(path));
    let mut loader = Loader::new(contents, |_: &str| None, SecretEncoding::default());
    match loader.file(argument, path) {
        Some(secret) => Ok((secret, loader.warnings)),
        None => Err(Problems::new("arguments", loader.problems)),
    }
}

/// Can this be nothing but a path? A secret may hold dots and slashes too: Base64 has `/`, and many
/// tokens have dots.
fn is_plain_path(path: &Path) -> bool {
    let Some(text) = path.to_str() else {
        return false;
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._- ".contains(&byte);
    if text.len() > LONGEST_PATH || !text.bytes().all(is_plain) {
        return false;
    }
    let begins = ["./", "../"].iter().any(|begin| text.starts_with(begin));
    let name = text.strip_prefix('/');
    let is_nested = name.is_some_and(|name| name.trim_matches('/').contains('/'));
    let is_word = name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_lowercase()));
    let ending = path.extension().and_then(|ending| ending.to_str());
    let has_ending = ending.is_some_and(|ending| ENDINGS.contains(&ending));
    begins || is_nested || is_word || has_ending
}

impl<V: Fn(&str) -> Option<String>> Loader<V> {
    fn new(contents: Contents, variable: V, encoding: SecretEncoding) -> Self {
        Self {
            contents,
            variable,
            encoding,
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// What can be used of what the configuration names.
    fn all(&mut self, config: &Config) -> Secrets {
        let loader = self;
        let mut secrets = Secrets::default();
        for (name, tenant) in &config.tenants {
            let key = |last: &str| dotted(&["tenants", name, last]);
            let current = match (&tenant.secret_file, &tenant.secret_env) {
                (Some(path), _) => loader.secret_file(&key("secret_file"), path),
                (None, Some(variable)) => loader.environment(&key("secret_env"), variable),
                (None, None) => None,
            };
            let path = tenant.previous_secret_file.as_deref();
            let previous =
                path.and_then(|path| loader.secret_file(&key("previous_secret_file"), path));
            if let Some(current) = current {
                secrets
                    .tenants
                    .insert(name.clone(), TenantSecret { current, previous });
            }
        }
        for (name, caller) in &config.callers {
            let key = dotted(&["callers", name, "token_file"]);
            if let Some(token) = loader.token(&key, &caller.token_file) {
                secrets.callers.insert(name.clone(), token);
            }
        }
        if let Some(path) = &config.server.admin_token_file {
            secrets.admin_token = loader.token("server.admin_token_file", path);
        }
        if let Some(path) = &config.upstream.ca_file {
            secrets.ca = loader.certificates("upstream.ca_file", path);
        }
        secrets
    }

    fn secret_file(&mut self, key: &str, path: &Path) -> Option<SecretString> {
        let secret = self.file(key, path)?;
        self.decodable(key, &format!("the file {}", path.display()), secret)
    }

    fn decodable(&mut self, key: &str, origin: &str, secret: SecretString) -> Option<SecretString> {
        let Err(encoding) = self.encoding.decode(&secret) else {
            return Some(secret);
        };
        self.problems.push(Problem::new(
            key,
            format!("{origin} is not {encoding}, as signing.secret_encoding says"),
            "write the secret in that form, or correct signing.secret_encoding",
        ));
        None
    }

    fn file(&mut self, key: &str, path: &Path) -> Option<SecretString> {
        let Content { bytes, mode } = self.content(key, path)?;
        if mode & 0o007 != 0 {
            self.warnings.push(Warning::new(
                key,
                format!("every user of the machine may use {}", path.display()),
                "take the rights of others away: chmod o= FILE; in a pod, defaultMode: 0440 with an fsGroup",
            ));
        }
        self.secret(key, &format!("the file {}", path.display()), bytes)
    }

    /// What the file holds, if it could be read; several keys may name one.
    fn content(&mut self, key: &str, path: &Path) -> Option<Content> {
        match self.contents.get(path) {
            Some(Ok(content)) => return Some(content.clone()),
            Some(Err(error)) => {
                let (name, never) = if is_plain_path(path) {
                    (format!("the file {}", path.display()), "")
                } else {
                    let never = "; write its path, never the secret itself";
                    ("the file that it names".to_owned(), never)
                };
                let reason = format!("{name} cannot be read: {error}");
                let remedy = format!("{}{never}", file::remedy(error));
                let problem = Problem::new(key, reason, remedy);
                self.problems.push(problem);
            }
            None => {}
        }
        None
    }

    fn environment(&mut self, key: &str, variable: &str) -> Option<SecretString> {
        if let Some(text) = (self.variable)(variable) {
            let origin = format!("the variable {variable}");
            let secret = self.secret(key, &origin, text.into_bytes())?;
            return self.decodable(key, &origin, secret);
        }
        self.problems.push(Problem::new(
            key,
            "the variable that it names is not set, or is not UTF-8",
            "set it where the gateway is started, or use secret_file; write the variable's name, never the secret itself",
        ));
        None
    }

    /// Where it is said where it comes from: `the file /etc/linksfield/acme`.
    fn secret(&mut self, key: &str, origin: &str, mut bytes: Vec<u8>) -> Option<SecretString> {
        // An editor's newline; a second one is part of the secret.
        if bytes.pop_if(|last| *last == b'\n').is_some() {
            bytes.pop_if(|last| *last == b'\r');
        }
        match content::check(bytes) {
            Ok((text, warning)) => {
                self.warnings.extend(warning.map(|doubtful| {
                    Warning::new(
                        key,
                        format!("{origin} {doubtful}"),
                        "if that is no part of it, write it anew without: only one newline at the end is dropped",
                    )
                }));
                Some(SecretString::from(text))
            }
            Err((reason, remedy)) => {
                self.problems
                    .push(Problem::new(key, format!("{origin} {reason}"), remedy));
                None
            }
        }
    }

    fn token(&mut self, key: &str, path: &Path) -> Option<SecretString> {
        let token = self.file(key, path)?;
        let text = token.expose_secret();
        // What a header can carry after "Bearer "; anything else could never be matched.
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.problems.push(Problem::new(
                key,
                format!("the file {} holds something that cannot be a bearer token", path.display()),
                "write one token of letters, digits and punctuation, without spaces: openssl rand -hex 32",
            ));
            return None;
        }
        if text.len() < SHORTEST_TOKEN {
            self.warnings.push(Warning::new(
                key,
                format!("the token is shorter than {SHORTEST_TOKEN} characters and can be guessed"),
                "make a new one: openssl rand -hex 32",
            ));
        }
        Some(token)
    }

    fn certificates(&mut self, key: &str, path: &Path) -> Option<Ca> {
        let Content { bytes, .. } = self.content(key, path)?;
        let ca = if bytes.len() > file::LARGEST {
            Err("is larger than 4 MiB".to_owned())
        } else {
            Ca::parse(bytes)
        };
        let tell = |fault| {
            Problem::new(
                key,
                format!("the file {} {fault}", path.display()),
                "name a file with \"-----BEGIN CERTIFICATE-----\" in it",
            )
        };
        let (ca, skipped) = ca.map_err(|fault| self.problems.push(tell(fault))).ok()?;
        if !skipped.is_empty() {
            let some = skipped[..skipped.len().min(3)].join("; ");
            self.warnings.push(Warning::new(
                key,
                format!("in the file {} {some}", path.display()),
                "renew it or take it out; the others are trusted",
            ));
        }
        Some(ca)
    }

    /// A token names one caller, and the admin's is nobody else's.
    fn distinct_tokens(&mut self, secrets: &Secrets) {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        if let Some(token) = &secrets.admin_token {
            owners.insert(token.expose_secret(), "the admin listener");
        }
        for (name, token) in &secrets.callers {
            if let Some(other) = owners.insert(token.expose_secret(), name) {
                self.problems.push(Problem::new(
                    dotted(&["callers", name, "token_file"]),
                    format!("its token is that of {other} as well"),
                    "give each a token of its own: openssl rand -hex 32",
                ));
            }
        }
    }
}
