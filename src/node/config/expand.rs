//! Expands `${VAR}` and `${VAR:-default}` in the values of a configuration file.
//!
//! A variable that is not set and has no default is an error. With a default, an empty variable counts
//! as not set, as in a shell. `$${` stands for the two characters `${`; any other `$` is itself. What a
//! variable contains is not expanded again, and defaults do not nest.

use super::error::quoted;
use crate::core::limits;

/// The text with its variables replaced.
///
/// # Errors
/// Why it cannot be expanded, as a sentence without its place.
pub(super) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let from_dollar = &rest[at..];
        if let Some(after) = from_dollar.strip_prefix("$${") {
            expanded.push_str("${");
            rest = after;
        } else if let Some(inside) = from_dollar.strip_prefix("${") {
            let Some((reference, after)) = inside.split_once('}') else {
                return Err(format!("{} has a `${{` without its `}}`", quoted(text)));
            };
            expanded.push_str(&resolve(reference, env)?);
            rest = after;
        } else {
            expanded.push('$');
            rest = &from_dollar[1..];
        }
        check_length(&expanded)?;
    }
    expanded.push_str(rest);
    check_length(&expanded)?;
    Ok(expanded)
}

/// What stands between `${` and `}` becomes its value.
fn resolve(reference: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_variable_name(name) {
        let whole = quoted(&format!("${{{reference}}}"));
        return Err(format!("{whole} is not understood: write ${{VAR}} or ${{VAR:-default}}"));
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(format!("the default of ${{{name}}} contains another variable: defaults do not nest"));
    }
    match (env(name), default) {
        (Some(value), _) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (Some(empty), None) => Ok(empty),
        (None, None) => {
            Err(format!("the environment variable {name} is not set: set it, or write ${{{name}:-default}}"))
        }
    }
}

fn is_variable_name(name: &str) -> bool {
    name.len() <= 256
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn check_length(text: &str) -> Result<(), String> {
    if text.len() > limits::CONFIG_VALUE_BYTES_MAX {
        return Err(format!("the value is longer than {} bytes", limits::CONFIG_VALUE_BYTES_MAX));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("node-1".into()),
            "EMPTY" => Some(String::new()),
            "SELF" => Some("${SELF}".into()),
            "LONG" => Some("x".repeat(20_000)),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_and_other_dollars_stay() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${HOST}:7946", "node-1:7946"),
            ("${HOST}${HOST}", "node-1node-1"),
            ("${NONE:-a b}", "a b"),
            ("${NONE:-}", ""),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY}", ""),
            ("${HOST:-x}", "node-1"),
            ("${SELF}", "${SELF}"),
            ("$HOST $5 $", "$HOST $5 $"),
            ("$${HOST}", "${HOST}"),
        ] {
            assert_eq!(expand(text, &env).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_expanded_says_why() {
        for (text, why) in [
            ("${NONE}", "NONE is not set"),
            ("a${HOST", "without its"),
            ("${}", "not understood"),
            ("${1A}", "not understood"),
            ("${HOST:?no}", "not understood"),
            ("${NONE:-${HOST}}", "do not nest"),
            ("${LONG}${LONG}", "longer than"),
        ] {
            let error = expand(text, &env).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
