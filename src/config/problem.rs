//! What is wrong with a configuration, for the person who has to put it right: the key, the reason,
//! the remedy.

use std::fmt;

/// Everything that keeps a configuration from being used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file, as it was named.
    pub source: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that keeps a configuration from being used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The full key, such as `server.listen`; for a syntax error its place, such as
    /// `line 3, column 7`.
    pub key: String,
    /// What is wrong. It never quotes a value of the file.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// Something that works but deserves a thought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The full key, such as `server.listen`.
    pub key: String,
    /// What is doubtful.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    pub(super) fn new(
        key: impl Into<String>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}

impl Warning {
    pub(super) fn new(
        key: impl Into<String>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}

impl Problems {
    pub(super) fn new(source: &str, problems: Vec<Problem>) -> Self {
        Self {
            source: source.to_owned(),
            problems,
        }
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            block(
                formatter,
                &format!("error: {}", self.source),
                &problem.key,
                &problem.reason,
                &problem.remedy,
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        block(formatter, "warning", &self.key, &self.reason, &self.remedy)
    }
}

fn block(
    out: &mut fmt::Formatter<'_>,
    head: &str,
    key: &str,
    reason: &str,
    remedy: &str,
) -> fmt::Result {
    writeln!(out, "{head}: {key}")?;
    writeln!(out, "  reason: {reason}")?;
    writeln!(out, "  remedy: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_is_a_block_of_its_own() {
        let problems = Problems::new(
            "a.toml",
            vec![
                Problem::new("x.y", "it is", "do"),
                Problem::new("z", "it was", "did"),
            ],
        );
        let expected = "error: a.toml: x.y\n  reason: it is\n  remedy: do\n\nerror: a.toml: z\n  reason: it was\n  remedy: did\n";
        assert_eq!(problems.to_string(), expected);
    }
}
