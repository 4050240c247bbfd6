//! From one text to one value, the same for the file, the environment and the flags. An error is a
//! sentence without its place; who asked knows the place.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::error::quoted;
use super::keys::{nearest, not_one_of};
use super::{CLUSTER_PORT, Discover, Host, HostPort};
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{CAPACITY_LABEL, capacity};

/// The levels of a log, most talkative first.
pub(super) const LOG_LEVELS: &[&str] = &["trace", "debug", "info", "warn", "error", "off"];

pub(super) fn node_id(text: &str) -> Result<NodeId, String> {
    NodeId::new(text).map_err(|error| error.to_string())
}

/// A choice by name.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == text);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| not_one_of(text, &choices.iter().map(|(name, _)| *name).collect::<Vec<_>>()))
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "True" | "TRUE" => Ok(true),
        "false" | "False" | "FALSE" => Ok(false),
        _ => Err(format!("{} is neither true nor false", quoted(text))),
    }
}

/// A whole number in decimal digits.
pub(super) fn integer<T: FromStr + PartialOrd + Display + Copy>(
    text: &str,
    min: T,
    max: T,
) -> Result<T, String> {
    let digits_only = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<T>() {
        Ok(number) if digits_only && (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("{} is not a whole number from {min} to {max}", quoted(text))),
    }
}

/// A duration with its unit: `200ms`, `1s`, `2m`.
pub(super) fn duration(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let written = |d| humantime::format_duration(d).to_string();
    let duration = humantime::parse_duration(text).map_err(|_| {
        format!("{} is not a duration: write a number and its unit, as 200ms, 1s or 2m", quoted(text))
    })?;
    if duration < min || duration > max {
        return Err(format!("{} is not between {} and {}", written(duration), written(min), written(max)));
    }
    Ok(duration)
}

/// A path; a relative one is taken from the directory that the process is started in.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path is empty".into());
    }
    if text.chars().any(char::is_control) {
        return Err(format!("the path {} contains a control character", quoted(text)));
    }
    if text == "~" || text.starts_with("~/") {
        return Err(format!(
            "{} is not expanded: write ${{HOME}} in a file, or the whole path",
            quoted(text)
        ));
    }
    Ok(PathBuf::from(text))
}

/// A text that other nodes see: a region, a zone, the value of a label. It may be empty.
pub(super) fn label_text(text: &str) -> Result<String, String> {
    if text.len() > limits::LABEL_BYTES_MAX {
        return Err(format!("it is longer than {} bytes", limits::LABEL_BYTES_MAX));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{} contains a control character", quoted(text)));
    }
    Ok(text.to_owned())
}

/// The name of a label: letters, digits, `-`, `_`, `.` and `/`, so that `name=value` can be parted.
pub(super) fn label_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    if text.is_empty() || text.len() > limits::LABEL_BYTES_MAX || !text.bytes().all(allowed) {
        return Err(format!(
            "{} is not the name of a label: 1 to {} letters, digits, '-', '_', '.' and '/'",
            quoted(text),
            limits::LABEL_BYTES_MAX
        ));
    }
    Ok(text.to_owned())
}

/// A way of discovery: `dns:NAME[:PORT]` or `mdns`.
pub(super) fn discover(text: &str) -> Result<Discover, String> {
    if text == "mdns" {
        return Ok(Discover::Mdns);
    }
    let Some(name) = text.strip_prefix("dns:") else {
        return Err(format!("{} is no way of discovery: write dns:NAME[:PORT] or mdns", quoted(text)));
    };
    let name = HostPort::parse(name, CLUSTER_PORT).map_err(|error| error.to_string())?;
    match name.host {
        Host::Name(_) => Ok(Discover::Dns(name)),
        Host::Ip(ip) => Err(format!("{ip} is an address and no name to resolve: write it as a seed")),
    }
}

/// A label as a flag gives it: `name=value`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(format!("{} is not a label: write name=value", quoted(text)));
    };
    named_label(name, value)
}

/// A label by its name and its text. Of the one that is read as a number, the text is one.
pub(super) fn named_label(name: &str, text: &str) -> Result<(String, String), String> {
    let (name, text) = (label_name(name)?, label_text(text)?);
    if name == CAPACITY_LABEL {
        capacity(&text).map_err(|_| {
            format!(
                "the label {name} is how much instances may weigh together, a number, and {} is none",
                quoted(&text)
            )
        })?;
    }
    Ok((name, text))
}

/// A level, or directives such as `info,shoal::node=debug`.
///
/// The filter's own parser takes any word for the name of a module and would let a misspelt level mean
/// "log nothing but a module that does not exist", so words that stand alone must be levels.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("it is empty: give a level, as info".into());
    }
    for part in text.split(',').map(str::trim) {
        let is_word = part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-'));
        let level = match part.rsplit_once('=') {
            Some((_, level)) if !part.ends_with(']') && !part.contains('}') => level,
            None if is_word => part,
            Some(_) | None => continue,
        };
        if !LOG_LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            let near = nearest(level, LOG_LEVELS.iter().copied());
            let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            return Err(format!(
                "{} is not one of {}{hint}; for one module write module=level",
                quoted(level),
                LOG_LEVELS.join(", ")
            ));
        }
    }
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{} is not a log filter: {error}", quoted(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_level_is_a_level_or_directives_and_a_slip_is_not_taken_for_a_module() {
        for text in [
            "info",
            "WARN",
            "off",
            "info,shoal=debug",
            "shoal::node=trace, warn",
            "info,[link{peer=a}]=debug",
        ] {
            assert_eq!(log_level(text).as_deref(), Ok(text));
        }
        for (text, why) in [
            ("inof", "did you mean info?"),
            ("info,shoal=debgu", "did you mean debug?"),
            ("shoal", "module=level"),
            ("", "empty"),
            ("info,", "not one of"),
            ("verbose", "not one of"),
            ("a=b=c", "not one of"),
            ("[{=info", "not a log filter"),
        ] {
            let error = log_level(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_way_of_discovery_is_mdns_or_a_name_with_or_without_a_port() {
        for (text, shown) in [
            ("mdns", "mdns"),
            ("dns:Nodes.Example.com", "dns:nodes.example.com:7946"),
            ("dns:nodes:9000", "dns:nodes:9000"),
        ] {
            assert_eq!(discover(text).map(|way| way.to_string()).as_deref(), Ok(shown));
        }
        for (text, why) in [
            ("", "no way of discovery"),
            ("MDNS", "no way of discovery"),
            ("consul:nodes", "no way of discovery"),
            ("dns:", "empty"),
            ("dns:10.0.0.1", "write it as a seed"),
            ("dns:[fd00::1]:7946", "write it as a seed"),
            ("dns:nodes:0", "port 0"),
            ("dns:a b", "made of letters"),
        ] {
            let error = discover(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_duration_needs_its_unit_and_keeps_its_bounds() {
        let (min, max) = (Duration::from_millis(20), Duration::from_secs(10));
        assert_eq!(duration("200ms", min, max), Ok(Duration::from_millis(200)));
        assert_eq!(duration("1s 500ms", min, max), Ok(Duration::from_millis(1500)));
        for text in ["200", "", "-1s", "1 fortnight", "19ms", "11s", "99999999999999999999s", "0s"] {
            assert!(duration(text, min, max).is_err(), "{text}");
        }
    }

    #[test]
    fn a_whole_number_is_digits_and_keeps_its_bounds() {
        assert_eq!(integer("1", 1, 9), Ok(1));
        assert_eq!(integer("9", 1, 9), Ok(9));
        for text in ["0", "10", "+1", "1.0", "1e0", "0x1", "", "one", "4294967297"] {
            assert!(integer(text, 1, 9).is_err(), "{text}");
        }
    }
}
