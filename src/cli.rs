//! The commands: what may be asked of the binary, and what it answers. Results go to standard
//! output, problems to standard error; the exit code is 0 for yes, 1 for no, 2 for a wrong use.

mod calibrate;
mod demo;
mod healthcheck;
mod probe;
mod signals;

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Parser, Subcommand};
use tracing::warn;

use self::signals::Signals;
use crate::clock::wall_clock;
use crate::config::{Config, Files, LogFormat, Problem, Secrets, Server, Warning, variable_of};
use crate::gateway::request::tenant::Tenants;
use crate::instance::{Instance, StartError};
use crate::open_files;
use crate::signing::params::Params;
use crate::simulator;
use crate::state;
use crate::telemetry::{REVISION, log};

/// So long `check` waits for the disk of the state: it answers in milliseconds, or it hangs.
const STATE_PATIENCE: Duration = Duration::from_secs(5);

/// A caching, signing reverse proxy in front of the Linksfield IoT-SIM platform.
#[derive(Debug, Parser)]
#[command(version = version(), max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    #[command(after_help = "Example: linksfield-gateway serve --config config/gateway.toml")]
    Serve {
        /// The configuration, in TOML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run a gateway with a Linksfield simulator behind it, and show what to paste.
    #[command(after_help = "Example: linksfield-gateway demo")]
    Demo(demo::Options),
    /// Tell every problem of a configuration, else show what is in effect.
    #[command(
        after_help = "Example: linksfield-gateway check --config config/gateway.toml --no-secrets"
    )]
    Check {
        /// The configuration, in TOML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Do not read the files and variables that hold secrets, and do not look at the state.
        #[arg(long)]
        no_secrets: bool,
    },
    /// Sign a body from standard input: prints the canonical text, then the signed body.
    #[command(
        after_help = "Example: echo '{\"page_no\":1,\"page_size\":2}' | linksfield-gateway sign --config gateway.toml --tenant acme"
    )]
    Sign {
        /// The configuration, in TOML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The tenant whose secret signs.
        #[arg(long, value_name = "NAME")]
        tenant: String,
        /// Sign for this second since 1970 instead of now.
        #[arg(long, value_name = "SECONDS")]
        timestamp: Option<u64>,
    },
    /// Find the [signing] section that reproduces known-good signed bodies from standard input, one
    /// after another.
    #[command(
        after_help = "Example: cat signed-*.json | linksfield-gateway calibrate --secret-file /etc/linksfield/acme"
    )]
    Calibrate {
        /// The file that holds the secret the bodies were signed with.
        #[arg(long, value_name = "FILE")]
        secret_file: PathBuf,
    },
    /// Spend one call at the real vendor: are base URL, secret, signing and clock right, and which
    /// code means what?
    #[command(after_help = "Example: linksfield-gateway probe --config gateway.toml --tenant acme")]
    Probe(probe::Options),
    /// Run the Linksfield simulator alone.
    #[command(after_help = "Example: linksfield-gateway simulate --latency 300ms --enforce-limits")]
    Simulate(simulator::Options),
    /// Ask a running gateway whether it is ready, as an exec probe of a container without a shell.
    #[command(after_help = "Example: linksfield-gateway healthcheck --admin 127.0.0.1:6181")]
    Healthcheck(healthcheck::Options),
}

fn version() -> String {
    format!("{} (revision {REVISION})", env!("CARGO_PKG_VERSION"))
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve { config } => serve(&config),
        Command::Demo(options) => demo::run(&options),
        Command::Check { config, no_secrets } => check(&config, no_secrets),
        Command::Sign {
            config,
            tenant,
            timestamp,
        } => sign(&config, &tenant, timestamp),
        Command::Calibrate { secret_file } => calibrate::run(&secret_file),
        Command::Probe(options) => probe::run(&options),
        Command::Simulate(options) => simulate(options),
        Command::Healthcheck(options) => healthcheck::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(reason)) => {
            let _ = writeln!(io::stderr(), "{}", reason.trim_end());
            ExitCode::FAILURE
        }
    }
}

/// Why a command says no.
#[derive(Debug)]
struct Failed(String);

impl<E: Display> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

type Done = Result<(), Failed>;

fn serve(path: &Path) -> Done {
    let (signals, hangups) = Signals::install_with_hangups()?;
    open_files::raise_limit();
    let (config, secrets, mut warnings) = load(path, &Files::watched())?;
    warnings.extend(config.files_warning(open_files::limit()));
    let _flushed_last = start_log(&config)?;
    for Warning {
        key,
        reason,
        remedy,
    } in &warnings
    {
        warn!(key, reason, remedy, "configuration");
    }
    runtime(config.server.worker_threads.get())?.block_on(async {
        let started = Instance::start(&config, &secrets).await;
        let instance = started.map_err(|error| {
            cannot_start(&error, |key| {
                let variable = variable_of(&key.split('.').collect::<Vec<_>>());
                format!(
                    "{key} in {}, or {variable}, which overrides it",
                    path.display()
                )
            })
        })?;
        let instance = instance.reloading(path, (config, secrets), warnings, hangups);
        instance.run(signals.started()).await?;
        Ok(())
    })
}

fn check(path: &Path, no_secrets: bool) -> Done {
    let (config, mut warnings) = if no_secrets {
        Config::load(path, &Files::once())?
    } else {
        // The secrets as `serve` reads them; the file may be a pipe.
        let (files, secret_files) = (Files::once(), Files::watched());
        let loaded = Config::load_whole(path, &files, &secret_files, state_problem);
        let (config, secrets, warnings) = loaded?;
        Tenants::new(&config, &secrets)?;
        (config, warnings)
    };
    open_files::raise_limit(); // as a start would
    let limit = open_files::limit();
    warnings.extend(config.files_warning(limit));
    print_warnings(&warnings);
    let arithmetic = config.arithmetic() + &config.files_arithmetic(limit);
    let arithmetic = arithmetic.lines().map(|line| format!("# {line}\n"));
    let effective = [config.effective(), "\n".to_owned()];
    print(&effective.into_iter().chain(arithmetic).collect::<String>())
}

fn sign(path: &Path, tenant: &str, timestamp: Option<u64>) -> Done {
    let (config, secrets, _) = load(path, &Files::once())?;
    print_warnings(&secrets.warnings);
    let tenants = Tenants::new(&config, &secrets)?;
    let tenant = tenants
        .named(tenant)
        .ok_or_else(|| unknown_tenant(&config, tenant))?;
    let params = Params::parse(&standard_input()?)?;
    let now = match timestamp.map(Duration::from_secs) {
        None => wall_clock(),
        Some(since) => UNIX_EPOCH
            .checked_add(since)
            .ok_or("--timestamp is later than the clock can be")?,
    };
    let signed =
        tenant
            .signers
            .of(tenant.signers.active())
            .signed(&params, &tenant.access_code, now);
    print(&format!(
        "{}\n{}\n",
        signed.text,
        String::from_utf8_lossy(&signed.body)
    ))
}

fn simulate(options: simulator::Options) -> Done {
    let signals = Signals::install()?;
    open_files::raise_limit();
    runtime(Server::default().worker_threads.get())?.block_on(async {
        let address = options.listen;
        let bound = tokio::net::TcpListener::bind(address).await;
        let listener = bound.map_err(|cause| {
            cannot_listen(&format!("the simulator: {address}: {cause}"), "--listen")
        })?;
        print(&format!(
            "a Linksfield simulator listens on http://{}{}\n",
            listener.local_addr()?,
            options.base_path
        ))?;
        simulator::run(listener, options, signals.started()).await?;
        Ok(())
    })
}

/// Why a gateway does not start; `option` changes the address of a listener, which is named by its
/// key.
fn cannot_start(error: &StartError, option: impl Fn(&str) -> String) -> Failed {
    match error {
        StartError::Bind { key, .. } => cannot_listen(&error.to_string(), &option(key)),
        _ => Failed(error.to_string()),
    }
}

/// The address is mostly taken by another process.
fn cannot_listen(reason: &str, option: &str) -> Failed {
    Failed(format!("{reason}; another address is chosen with {option}"))
}

fn load(path: &Path, files: &Files) -> Result<(Config, Secrets, Vec<Warning>), Failed> {
    Ok(Config::load_whole(path, files, files, |_| None)?)
}

/// What refuses a start at the state, as that would tell it. A disk that hangs keeps a thread of
/// its own waiting, and nobody else.
fn state_problem(config: &Config) -> Option<Problem> {
    let folder = config.server.state_dir.clone()?;
    let problem = |reason, remedy: &str| Problem {
        key: "server.state_dir".into(),
        reason,
        remedy: remedy.into(),
    };
    let (tell, told) = channel();
    let name = folder.display().to_string();
    let look = move || tell.send(state::refusal(&folder));
    if let Err(error) = thread::Builder::new().name("state".into()).spawn(look) {
        let remedy = "let the user of the gateway have more threads";
        return Some(problem(
            format!("{name}: no thread to look at it: {error}"),
            remedy,
        ));
    }
    if let Ok(refusal) = told.recv_timeout(STATE_PATIENCE) {
        return refusal.map(|refusal| problem(refusal.reason(), refusal.remedy()));
    }
    let seconds = STATE_PATIENCE.as_secs();
    let reason = format!("{name} hangs: nothing has come of it for {seconds} s");
    Some(problem(
        reason,
        "see to the disk or the mount that it is on",
    ))
}

fn unknown_tenant(config: &Config, name: &str) -> Failed {
    let names: Vec<&str> = config.tenants.keys().map(String::as_str).collect();
    Failed(format!(
        "no tenant is called {name:?}; there are: {}",
        names.join(", ")
    ))
}

fn start_log(config: &Config) -> io::Result<log::Flush> {
    let format = match config.log.format {
        LogFormat::Auto => log::Format::Auto,
        LogFormat::Json => log::Format::Json,
        LogFormat::Text => log::Format::Text,
    };
    log::init(&config.log.level, format)
}

fn runtime(threads: usize) -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
}

fn standard_input() -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    io::stdin().read_to_end(&mut body)?;
    Ok(body)
}

fn print_warnings(warnings: &[Warning]) {
    for warning in warnings {
        let _ = writeln!(io::stderr(), "{warning}");
    }
}

/// Prints a result. A reader who has gone is no reason to panic.
fn print(text: &str) -> Done {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
