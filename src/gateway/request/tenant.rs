//! Who asks: which caller, and which tenant's account is used?

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState as KeyedState};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use hyper::header::HeaderValue;
use parking_lot::{Mutex, MutexGuard};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use crate::config::{Config, Secrets, TenantSecret};
use crate::gateway::error::Error;
use crate::signing::form::Signing;
use crate::signing::sign::{InvalidSecret, Signer};
use crate::telemetry::{CallerLabel, TenantLabel};
use crate::words::WhichSecret;

/// The label of requests whose tenant or caller is not known.
pub const UNKNOWN: &str = "other";

/// One Linksfield account.
#[derive(Debug)]
pub struct Tenant {
    /// The place of its label among the tenants' labels.
    pub label: TenantLabel,
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The code that Linksfield knows it by.
    pub access_code: Arc<str>,
    /// Sign with its secrets.
    pub signers: Signers,
}

/// The signers of a tenant: one, or during a rotation two, of which one is active.
///
/// A query that is refused for its signature is asked once more with the other one. What has worked
/// becomes the active one, for commands too: they are never sent to find out.
#[derive(Debug)]
pub struct Signers {
    current: Signer,
    previous: Option<Signer>,
    state: Mutex<Active>,
}

#[derive(Debug, Clone, Copy)]
struct Active {
    which: WhichSecret,
    since: Option<Instant>,
}

/// So long a switch is final: a vendor whose servers do not agree yet moves the commands once, not
/// back and forth.
const SWITCHED_FOR: Duration = Duration::from_secs(30);

impl Signers {
    fn new(
        secret: &TenantSecret,
        signing: &Signing,
        active: Option<&SecretString>,
    ) -> Result<Self, InvalidSecret> {
        let is = |one: &SecretString| {
            active.is_some_and(|active| active.expose_secret() == one.expose_secret())
        };
        let previous = secret.previous.as_ref();
        // What was proven before a rotation is so after it, until a query is refused.
        let which = match previous {
            Some(previous) if is(previous) && !is(&secret.current) => WhichSecret::Previous,
            _ => WhichSecret::Current,
        };
        Ok(Self {
            current: Signer::new(&secret.current, signing)?,
            previous: previous
                .map(|previous| Signer::new(previous, signing))
                .transpose()?,
            state: Mutex::new(Active { which, since: None }),
        })
    }

    /// The one to sign with.
    pub fn active(&self) -> WhichSecret {
        self.state().which
    }

    /// The one to try where this one is refused; none without a rotation.
    pub fn other(&self, than: WhichSecret) -> Option<WhichSecret> {
        self.previous.as_ref().map(|_| match than {
            WhichSecret::Current => WhichSecret::Previous,
            WhichSecret::Previous => WhichSecret::Current,
        })
    }

    /// The signer itself.
    pub fn of(&self, which: WhichSecret) -> &Signer {
        match (which, &self.previous) {
            (WhichSecret::Previous, Some(previous)) => previous,
            _ => &self.current,
        }
    }

    /// A query was taken with this one that was refused with the other. True if it is the active
    /// one from now on, and was not before.
    pub fn proven(&self, which: WhichSecret) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let is_settled = state.since.is_none_or(|since| since + SWITCHED_FOR <= now);
        if state.which == which || !is_settled {
            return false;
        }
        *state = Active {
            which,
            since: Some(now),
        };
        true
    }

    fn state(&self) -> MutexGuard<'_, Active> {
        self.state.lock()
    }
}

/// All tenants.
#[derive(Debug)]
pub struct Tenants {
    by_name: HashMap<Arc<str>, Arc<Tenant>, RandomState>,
    by_access_code: HashMap<Arc<str>, Arc<Tenant>, RandomState>,
    default: Option<Arc<Tenant>>,
}

impl Tenants {
    /// Keys the signers of each configured tenant.
    pub fn new(config: &Config, secrets: &Secrets) -> Result<Self, InvalidSecret> {
        Self::following(config, secrets, None)
    }

    /// The same, after others: of two secrets the one that was active stays so.
    pub fn following(
        config: &Config,
        secrets: &Secrets,
        before: Option<(&Self, &Secrets)>,
    ) -> Result<Self, InvalidSecret> {
        let mut tenants = Self {
            by_name: HashMap::default(),
            by_access_code: HashMap::default(),
            default: None,
        };
        for (label, (name, settings)) in config.tenants.iter().enumerate() {
            let tenant = Arc::new(Tenant {
                label: TenantLabel(label),
                name: name.as_str().into(),
                access_code: settings.access_code.as_str().into(),
                signers: Signers::new(
                    &secrets.tenants[name],
                    &config.signing,
                    before.and_then(|(tenants, secrets)| tenants.active_secret(name, secrets)),
                )?,
            });
            if settings.default {
                tenants.default = Some(tenant.clone());
            }
            tenants
                .by_access_code
                .insert(tenant.access_code.clone(), tenant.clone());
            tenants.by_name.insert(tenant.name.clone(), tenant);
        }
        Ok(tenants)
    }

    fn active_secret<'a>(&self, name: &str, secrets: &'a Secrets) -> Option<&'a SecretString> {
        let secret = secrets.tenants.get(name)?;
        match self.by_name.get(name)?.signers.active() {
            WhichSecret::Current => Some(&secret.current),
            WhichSecret::Previous => secret.previous.as_ref(),
        }
    }

    /// The labels of all tenants, that of the unknown ones last.
    pub fn labels(config: &Config) -> Vec<String> {
        config
            .tenants
            .keys()
            .cloned()
            .chain([UNKNOWN.to_owned()])
            .collect()
    }

    /// The tenant with this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.by_name.get(name)
    }

    /// All tenants, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.by_name.values()
    }

    /// The tenant that a header names, else the body's `access_code`, else the only one, else for
    /// queries the default.
    pub fn identify(
        &self,
        header: Option<&HeaderValue>,
        access_code: Option<&str>,
        is_query: bool,
    ) -> Result<&Arc<Tenant>, Error> {
        let by_header = header
            .map(|name| {
                name.to_str()
                    .ok()
                    .and_then(|name| self.by_name.get(name))
                    .ok_or(Error::UnknownTenant("name"))
            })
            .transpose()?;
        let by_code = access_code
            .map(|code| {
                self.by_access_code
                    .get(code)
                    .ok_or(Error::UnknownTenant("access_code"))
            })
            .transpose()?;
        match (by_header, by_code) {
            (Some(header), Some(code)) if !Arc::ptr_eq(header, code) => Err(Error::TenantMismatch),
            (Some(tenant), _) | (None, Some(tenant)) => Ok(tenant),
            (None, None) => self.implied(is_query).ok_or(Error::TenantRequired),
        }
    }

    fn implied(&self, is_query: bool) -> Option<&Arc<Tenant>> {
        if self.by_name.len() == 1 {
            return self.by_name.values().next();
        }
        self.default.as_ref().filter(|_| is_query)
    }
}

/// A service known by its token.
#[derive(Debug)]
pub struct Caller {
    /// The place of its label among the callers' labels.
    pub label: CallerLabel,
    /// Its name in the configuration.
    pub name: Arc<str>,
    token: SecretString,
    /// Of its token.
    hash: u64,
    /// Which it may ask for, by the labels of the same configuration.
    tenants: Box<[bool]>,
}

/// All callers; without any, everybody who reaches the listener may do everything.
#[derive(Debug)]
pub struct Callers {
    all: Vec<Caller>,
    /// Hashes tokens under a random key that nobody is told: nobody can look for tokens whose
    /// hashes agree.
    hasher: KeyedState,
}

impl Callers {
    /// Reads the configured callers.
    pub fn new(config: &Config, secrets: &Secrets) -> Self {
        let hasher = KeyedState::new();
        let caller =
            |(label, (name, settings)): (usize, (&String, &crate::config::Caller))| Caller {
                label: CallerLabel(label),
                name: name.as_str().into(),
                token: secrets.callers[name].clone(),
                hash: hasher.hash_one(secrets.callers[name].expose_secret().as_bytes()),
                tenants: config
                    .tenants
                    .keys()
                    .map(|name| settings.tenants.contains(name))
                    .collect(),
            };
        Self {
            all: config.callers.iter().enumerate().map(caller).collect(),
            hasher,
        }
    }

    /// The labels of all callers, that of the unknown ones last.
    pub fn labels(config: &Config) -> Vec<String> {
        config
            .callers
            .keys()
            .cloned()
            .chain([UNKNOWN.to_owned()])
            .collect()
    }

    /// The caller whose token an `Authorization` header bears; none where no callers are
    /// configured.
    pub fn authenticate(
        &self,
        authorization: Option<&HeaderValue>,
    ) -> Result<Option<&Caller>, Error> {
        if self.all.is_empty() {
            return Ok(None);
        }
        let token = authorization
            .and_then(bearer)
            .ok_or(Error::Unauthenticated)?;
        // Tokens are found by their hashes and compared in constant time: the time taken tells
        // nothing about any of them.
        let hash = self.hasher.hash_one(token);
        let mut alike = self.all.iter().filter(|caller| caller.hash == hash);
        let found =
            alike.find(|caller| caller.token.expose_secret().as_bytes().ct_eq(token).into());
        found.map(Some).ok_or(Error::Unauthenticated)
    }
}

impl Caller {
    /// May this caller use this tenant?
    pub fn authorize(&self, tenant: &Tenant) -> Result<(), Error> {
        if self.tenants.get(tenant.label.0) != Some(&true) {
            return Err(Error::TenantForbidden(tenant.name.clone()));
        }
        Ok(())
    }
}

/// Is this the `Authorization` of whoever knows `token`? The time taken tells nothing about the
/// token.
pub fn bears(authorization: Option<&HeaderValue>, token: &SecretString) -> bool {
    let token = token.expose_secret().as_bytes();
    authorization
        .and_then(bearer)
        .is_some_and(|borne| token.ct_eq(borne).into())
}

/// The token of `Authorization: Bearer …`; the scheme's case does not matter (RFC 9110, section
/// 11.1).
fn bearer(authorization: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = authorization.as_bytes().split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers(tokens: &[String]) -> Callers {
        let hasher = KeyedState::new();
        let caller = |(label, token): (usize, &String)| Caller {
            label: CallerLabel(label),
            name: "caller".into(),
            token: token.as_str().into(),
            hash: hasher.hash_one(token.as_bytes()),
            tenants: Box::default(),
        };
        Callers {
            all: tokens.iter().enumerate().map(caller).collect(),
            hasher,
        }
    }

    fn found(callers: &Callers, token: &str) -> Option<usize> {
        let authorization = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        let found = callers.authenticate(Some(&authorization)).ok()?;
        found.map(|caller| caller.label.0)
    }

    #[test]
    fn each_of_many_callers_is_found_by_its_own_token_and_by_no_other() {
        let tokens: Vec<_> = (0..100)
            .map(|number| format!("token-{number:03}"))
            .collect();
        let callers = callers(&tokens);
        for (label, token) in tokens.iter().enumerate() {
            assert_eq!(found(&callers, token), Some(label));
        }
        for token in ["token-100", "token-00", "token-0000", "Token-000", "x", ""] {
            assert_eq!(found(&callers, token), None, "{token:?}");
        }
    }

    #[test]
    fn a_token_whose_hash_is_that_of_another_is_still_compared() {
        let mut callers = callers(&["the-first".to_owned(), "the-second".to_owned()]);
        callers.all[0].hash = callers.all[1].hash;
        assert_eq!(found(&callers, "the-second"), Some(1));
        assert_eq!(found(&callers, "the-first"), None);
    }
}
