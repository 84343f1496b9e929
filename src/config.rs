//! The configuration: schema, defaults, checks. Each field already has the type it is used with.
//!
//! A file is read in three steps: the text becomes a table, the environment's overrides are laid
//! over it (`environment`), and the table becomes a [`Config`] (`read`), which is then held against
//! the rules across fields (`check`). Every step tells all that it finds, not the first. The file
//! names where secrets are; [`Config::load_secrets`] alone holds them, so a `Config` can be shown
//! to anybody (`show`). Each section's type is a file of its own, and `sections` is all of them.
//!
//! No message of this module quotes a value of the file: a secret in the wrong place is still a
//! secret.

mod base_url;
mod brakes;
mod cache;
mod caller;
mod check;
mod environment;
mod faults;
mod file;
mod idempotency;
mod limits;
mod log;
mod open_files;
mod problem;
mod read;
mod restart;
mod route;
mod schema;
mod secrets;
mod sections;
mod server;
mod show;
mod tenant;
mod twice;
mod upstream;
mod written;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use self::base_url::{BaseUrl, BaseUrlError};
pub use self::cache::Cache;
pub use self::caller::Caller;
pub use self::environment::variable_of;
pub use self::faults::{Breaker, Retry};
pub use self::file::Files;
pub use self::idempotency::IdempotencyKeys;
pub use self::limits::{CRAWLS, Day, Limit, Limits, STREAMS};
pub use self::log::{Log, LogFormat};
pub use self::problem::{Problem, Problems, Warning};
pub use self::route::{Idempotency, Kind, Route, ambiguity};
pub use self::schema::dotted;
pub use self::secrets::{Ca, Secrets, TenantSecret, read_secret};
pub use self::sections::Config;
pub use self::server::{Server, UnlistedPaths};
pub use self::tenant::Tenant;
pub use self::upstream::{Codes, Upstream};

impl Config {
    /// Reads the file and the environment, and checks what they say.
    pub fn load(path: &Path, files: &Files) -> Result<(Self, Vec<Warning>), Problems> {
        let source = path.display().to_string();
        let text = files
            .text(path)
            .map_err(|error| unreadable(&source, &error))?;
        Self::parse(&text, &source, environment::variables())
    }

    /// The same, and reads the secrets, and tells all that is wrong with either, and what is wrong
    /// `beside` them.
    pub fn load_whole(
        path: &Path,
        files: &Files,
        secret_files: &Files,
        beside: impl FnOnce(&Self) -> Option<Problem>,
    ) -> Result<(Self, Secrets, Vec<Warning>), Problems> {
        let source = path.display().to_string();
        let text = files
            .text(path)
            .map_err(|error| unreadable(&source, &error))?;
        let examined = Self::examine(&text, &source, environment::variables())?;
        let (config, mut problems, mut warnings) = examined;
        let (secrets, mut found) = match config.load_secrets(secret_files) {
            Ok(secrets) => (Some(secrets), Vec::new()),
            Err(found) => (None, found.problems),
        };
        found.extend(beside(&config));
        let reported = problems.iter().map(|problem| problem.key.clone());
        let reported = reported.collect();
        let is_news = |problem: &Problem| !check::is_reported(&reported, &problem.key);
        problems.extend(found.into_iter().filter(is_news));
        match secrets {
            Some(secrets) if problems.is_empty() => {
                warnings.extend(secrets.warnings.iter().cloned());
                Ok((config, secrets, warnings))
            }
            _ => Err(Problems::new(&source, problems)),
        }
    }

    /// Where the admin listener is to be, by the environment, else by this file, else by default.
    /// What else may be wrong is not asked: a gateway goes on with the last good file.
    pub fn admin_listen(path: Option<&Path>) -> Result<SocketAddr, Problems> {
        let source = path.map_or("environment".into(), |path| path.display().to_string());
        let text = match path.map(|path| Files::watched().text(path)) {
            None => String::new(),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Some(read) => read.map_err(|error| unreadable(&source, &error))?,
        };
        let mut table = read::admin_listen(&text);
        environment::overlay(&mut table, environment::variables(), &mut Vec::new());
        let written = table
            .get("server")
            .and_then(|server| server.get("admin_listen"));
        let Some(written) = written else {
            return Ok(Server::default().admin_listen);
        };
        let address = written.as_str().and_then(|text| text.parse().ok());
        address.ok_or_else(|| {
            let reason = "it is not an IP address with its port";
            let problem = Problem::new("server.admin_listen", reason, "correct it, or use --admin");
            Problems::new(&source, vec![problem])
        })
    }

    /// Checks what a text and an environment say. `source` is the name of the text in messages.
    pub fn parse(
        text: &str,
        source: &str,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<Warning>), Problems> {
        let (config, problems, warnings) = Self::examine(text, source, env)?;
        if problems.is_empty() {
            return Ok((config, warnings));
        }
        Err(Problems::new(source, problems))
    }

    /// What can be used of a text and an environment, and what cannot.
    fn examine(
        text: &str,
        source: &str,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<Problem>, Vec<Warning>), Problems> {
        let mut problems = Vec::new();
        let mut table = read::table(text).map_err(|problems| Problems::new(source, problems))?;
        let file = table.clone();
        let overridden = environment::overlay(&mut table, env, &mut problems);
        let config = read::config(&mut table, &mut problems);
        let mut warnings = check::check(&config, &table, &mut problems);
        let of_problems = problems.iter_mut().map(|it| (&it.key, &mut it.reason));
        let of_warnings = warnings.iter_mut().map(|it| (&it.key, &mut it.reason));
        for (key, reason) in of_problems.chain(of_warnings) {
            if let Some(by) = overridden.get(key) {
                *reason = format!("{reason} (the value comes from {})", by.variable);
            }
        }
        warnings.extend(environment::overruled(file, &config, &overridden));
        Ok((config, problems, warnings))
    }

    /// Reads the files and variables that hold the secrets, and `ca_file`. Paths are relative to
    /// the working directory.
    pub fn load_secrets(&self, files: &Files) -> Result<Secrets, Problems> {
        secrets::load(self, files, environment::variable)
    }

    /// Reads them again. A secret that cannot be used is left as it was `before`, and told.
    pub fn reload_secrets(
        &self,
        files: &Files,
        before: &Secrets,
        running: &Self,
    ) -> Result<(Secrets, Vec<Problem>), Problems> {
        secrets::reload(self, files, environment::variable, (before, running))
    }

    /// The files that hold secrets, and `ca_file`.
    pub fn secret_files(&self) -> impl Iterator<Item = &Path> {
        let tenants = self.tenants.values();
        let tenants =
            tenants.flat_map(|tenant| [&tenant.secret_file, &tenant.previous_secret_file]);
        let callers = self.callers.values().map(|caller| &caller.token_file);
        let others = [&self.server.admin_token_file, &self.upstream.ca_file];
        let files = tenants.chain(others).flatten().chain(callers);
        files.map(PathBuf::as_path)
    }
}

fn unreadable(source: &str, error: &io::Error) -> Problems {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => {
            "correct the path; config/gateway.toml is an example to begin with"
        }
        _ => file::remedy(error),
    };
    let reason = format!("the file cannot be read: {error}");
    Problems::new(
        source,
        vec![Problem::new("the file itself", reason, remedy)],
    )
}

#[cfg(test)]
mod tests;
