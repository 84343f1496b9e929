//! What may be changed and seen while the simulator runs: `GET` and `POST /_simulator/control`,
//! `POST /_simulator/reset`.

use hyper::Method;
use serde::Serialize;

use super::code::{INVALID_PARAMETER, METHOD_NOT_ALLOWED, UNKNOWN_PATH};
use super::state::State;

/// The vendor's envelope, as for everything that goes wrong; `data` names what is allowed.
#[derive(Serialize)]
struct Problem<'a> {
    code: &'a str,
    data: Allowed,
    message: &'a str,
    success: bool,
}

#[derive(Serialize)]
struct Allowed {
    allowed: Vec<String>,
}

/// Status and JSON body of the answer to `method /_simulator/<action>`.
pub(super) fn act(state: &mut State, method: &Method, action: &str, body: &[u8]) -> (u16, Vec<u8>) {
    match (action, method) {
        ("control", &Method::GET) => {}
        ("control", &Method::POST) => match state.settings.changed(body) {
            Ok(settings) => state.settings = settings,
            Err(reason) => {
                let keys = state.settings.keys();
                return problem(400, INVALID_PARAMETER.code, &reason, keys);
            }
        },
        ("reset", &Method::POST) => state.reset(),
        ("control", _) => return not_allowed(&["GET", "POST"]),
        ("reset", _) => return not_allowed(&["POST"]),
        _ => {
            let paths = ["/_simulator/control", "/_simulator/reset"];
            let paths = paths.map(str::to_owned).to_vec();
            return problem(404, UNKNOWN_PATH.code, UNKNOWN_PATH.english, paths);
        }
    }
    (200, to_json(&state.report()))
}

fn not_allowed(methods: &[&str]) -> (u16, Vec<u8>) {
    let methods = methods.iter().copied().map(str::to_owned).collect();
    let code = METHOD_NOT_ALLOWED;
    problem(code.status, code.code, code.english, methods)
}

fn problem(status: u16, code: &str, message: &str, allowed: Vec<String>) -> (u16, Vec<u8>) {
    let problem = Problem {
        code,
        data: Allowed { allowed },
        message,
        success: false,
    };
    (status, to_json(&problem))
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers become JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::settings::Settings;
    use super::*;

    fn act_json(state: &mut State, method: &Method, action: &str, body: &str) -> (u16, Value) {
        let (status, body) = act(state, method, action, body.as_bytes());
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn a_change_is_shown_as_in_force() {
        let mut state = State::new(Settings::default());
        let patch = r#"{"fail":"hang","connections":1}"#;
        let (status, shown) = act_json(&mut state, &Method::POST, "control", patch);
        assert_eq!(status, 200);
        assert_eq!(shown["state"]["fail"], "hang");
        assert_eq!(shown["state"]["latency"], "0s");
        assert_eq!(shown["counters"]["total_calls"], 0);
        let (_, again) = act_json(&mut state, &Method::GET, "control", "");
        assert_eq!(again, shown);
        let (_, reset) = act_json(&mut state, &Method::POST, "reset", "");
        assert_eq!(reset["state"], shown["state"]);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_known_ones_and_changes_nothing() {
        let mut state = State::new(Settings::default());
        let patch = r#"{"connections":1,"fial":"hang"}"#;
        let (status, answer) = act_json(&mut state, &Method::POST, "control", patch);
        assert_eq!(status, 400);
        assert_eq!(answer["message"], "fial: no such key");
        let allowed = answer["data"]["allowed"].as_array().unwrap();
        assert!(allowed.contains(&Value::from("fail")));
        assert_eq!(state.settings, Settings::default());
    }

    #[test]
    fn other_methods_and_actions_are_refused() {
        let mut state = State::new(Settings::default());
        assert_eq!(act(&mut state, &Method::PUT, "control", b"").0, 405);
        assert_eq!(act(&mut state, &Method::GET, "reset", b"").0, 405);
        assert_eq!(act(&mut state, &Method::GET, "else", b"").0, 404);
    }
}
