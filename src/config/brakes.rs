//! Which brakes are on?

use super::route::Kind;
use super::schema::dotted;
use super::sections::Config;
use super::server::UnlistedPaths;

impl Config {
    /// The keys that have requests refused, or kept from the vendor, in the order of
    /// `config/gateway.toml`: what an operator looks for after the line of a brake has been written
    /// or taken back.
    pub fn brakes(&self) -> Vec<String> {
        let commands = |section: &str, name: &String| dotted(&[section, name, "commands"]);
        let everybody = [
            ("server.commands", !self.server.commands),
            (
                "server.unlisted_paths",
                self.server.unlisted_paths == UnlistedPaths::Refuse,
            ),
            ("upstream.paused", self.upstream.paused),
        ];
        let everybody = everybody.into_iter().filter(|(_, is_on)| *is_on);
        let tenants = self.tenants.iter().filter(|(_, tenant)| !tenant.commands);
        let callers = self.callers.iter().filter(|(_, caller)| !caller.commands);
        let routes = self.routes.iter();
        let routes = routes.filter(|(_, route)| route.kind == Kind::Refuse);
        everybody
            .map(|(key, _)| key.to_owned())
            .chain(tenants.map(|(name, _)| commands("tenants", name)))
            .chain(callers.map(|(name, _)| commands("callers", name)))
            .chain(routes.map(|(path, _)| dotted(&["routes", path, "kind"])))
            .collect()
    }
}
