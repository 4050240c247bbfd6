//! Addresses as people write them: with or without a port, IPv6 bracketed or bare, or a host name.
//!
//! Nothing is resolved here: a name stays a name until it is dialled, so that it may move.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::quoted;
use crate::core::limits;

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} is not an address: {why}")]
pub struct AddressError {
    text: String,
    why: String,
}

/// The host part of an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An IP address.
    Ip(IpAddr),
    /// A name for the resolver, in lower case; it may stand for several addresses.
    Name(String),
}

/// A host and a port that can be dialled: `10.0.0.1:7946`, `[fd00::1]:7946`, `node-1.example.com:7946`.
/// Its text always has the port, and brackets around IPv6.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port, 1 to 65535.
    pub port: u16,
}

impl HostPort {
    /// Parses `host`, `host:port`, an IPv6 address bare (it then has no port) or in brackets. A missing
    /// port becomes `port_default`.
    ///
    /// # Errors
    /// [`AddressError`] says which rule the text breaks; among them: port 0, a wildcard or multicast
    /// address (nobody can dial them), a scheme, and a scope id.
    pub fn parse(text: &str, port_default: u16) -> Result<Self, AddressError> {
        let fail = |why: String| AddressError { text: quoted(text), why };
        let (host, port) = split(text).map_err(fail)?;
        let host = parse_host(host).map_err(fail)?;
        if let Host::Ip(ip) = &host
            && (ip.is_unspecified() || ip.is_multicast())
        {
            return Err(fail(format!("nobody can dial {ip}: name one machine")));
        }
        match port.unwrap_or(port_default) {
            0 => Err(fail("port 0 cannot be dialled".into())),
            port => Ok(Self { host, port }),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Parses an address to listen on. It must be an IP address, or `localhost` for 127.0.0.1; port 0 is a
/// port of the system's choice, and a missing port becomes `port_default`.
///
/// # Errors
/// [`AddressError`] says which rule the text breaks.
pub fn parse_listen(text: &str, port_default: u16) -> Result<SocketAddr, AddressError> {
    let fail = |why: String| AddressError { text: quoted(text), why };
    let (host, port) = split(text).map_err(fail)?;
    let ip = match parse_host(host).map_err(fail)? {
        Host::Ip(ip) if ip.is_multicast() => {
            return Err(fail("a multicast address cannot be listened on".into()));
        }
        Host::Ip(ip) => ip,
        Host::Name(name) if name == "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Host::Name(_) => {
            return Err(fail(
                "to listen, give an IP address of this machine, or 0.0.0.0 for all of them".into(),
            ));
        }
    };
    Ok(SocketAddr::new(ip, port.unwrap_or(port_default)))
}

/// Host and port, still as text; neither is checked beyond where it ends.
fn split(text: &str) -> Result<(&str, Option<u16>), String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.len() > limits::ADDRESS_BYTES_MAX {
        return Err("it is too long".into());
    }
    if text.contains("://") || text.contains('/') {
        return Err("write host:port, without a scheme or a path".into());
    }
    if let Some(inside) = text.strip_prefix('[') {
        let (host, after) = inside.split_once(']').ok_or("its `[` has no `]`")?;
        host.parse::<Ipv6Addr>().map_err(|_| ipv6_trouble(host))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(parse_port(port)?))),
            None if after.is_empty() => Ok((host, None)),
            None => Err("after `]` only a port may follow, as in [fd00::1]:7946".into()),
        };
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((_, after)) if after.contains(':') => match text.parse::<Ipv6Addr>() {
            Ok(_) => Ok((text, None)),
            Err(_) => Err(ipv6_trouble(text)),
        },
        Some((host, port)) => Ok((host, Some(parse_port(port)?))),
    }
}

fn ipv6_trouble(host: &str) -> String {
    if host.contains('%') {
        return "scope ids (`%`) are not understood".into();
    }
    "it is not an IPv6 address; with a port write [address]:port, and separate several addresses by commas"
        .into()
}

fn parse_port(text: &str) -> Result<u16, String> {
    let digits_only = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits_only => Ok(port),
        _ => Err(format!("{} is not a port, 1 to 65535", quoted(text))),
    }
}

fn parse_host(host: &str) -> Result<Host, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(Host::Ip(ip));
    }
    if host.is_empty() {
        return Err("the host is missing before the port".into());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() > 253 {
        return Err("the host name is too long".into());
    }
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err("it is neither an IPv4 address nor a host name".into());
    }
    for label in name.split('.') {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if label.is_empty() || label.len() > 63 || !label.bytes().all(allowed) {
            return Err("a host name is made of letters, digits, '-' and '_', parted by single dots".into());
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("no part of a host name begins or ends with '-'".into());
        }
    }
    Ok(Host::Name(host.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_port_gets_the_default_however_the_host_is_written() {
        for (text, expected) in [
            ("10.0.0.1", "10.0.0.1:7946"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("::1", "[::1]:7946"),
            ("[::1]", "[::1]:7946"),
            ("[::1]:65535", "[::1]:65535"),
            ("FD00:0:0::1", "[fd00::1]:7946"),
            ("node-1", "node-1:7946"),
            ("Node-1.Example.COM:80", "node-1.example.com:80"),
            ("node_1.svc.cluster.local.", "node_1.svc.cluster.local.:7946"),
            ("localhost", "localhost:7946"),
        ] {
            let address = HostPort::parse(text, 7946).expect(text);
            assert_eq!(address.to_string(), expected);
            assert_eq!(HostPort::parse(expected, 1), Ok(address), "its own text is understood");
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_refused_with_the_reason() {
        let long_label = "a".repeat(64);
        let long_text = "a".repeat(300);
        for (text, why) in [
            ("", "empty"),
            (":7946", "missing before"),
            ("a:", "not a port"),
            ("a:+1", "not a port"),
            ("a:65536", "not a port"),
            ("a:x", "not a port"),
            ("a:0", "port 0"),
            ("0.0.0.0:1", "nobody can dial"),
            ("[::]:1", "nobody can dial"),
            ("224.0.0.1", "nobody can dial"),
            ("300.1.1.1", "neither"),
            ("10.0.0", "neither"),
            ("[::1", "no `]`"),
            ("[::1]x", "only a port"),
            ("[10.0.0.1]:1", "not an IPv6"),
            ("a:1:2", "not an IPv6"),
            ("fe80::1%eth0", "scope"),
            ("https://a:1", "scheme"),
            ("a b", "made of letters"),
            ("a..b", "made of letters"),
            ("-a", "begins or ends"),
            ("a\nb", "made of letters"),
            ("ä", "made of letters"),
            (&long_label, "made of letters"),
            (&long_text, "too long"),
        ] {
            let error = HostPort::parse(text, 7946).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains('\n'), "{error:?}");
        }
    }

    #[test]
    fn a_listening_address_is_an_ip_address_and_may_leave_the_port_to_the_system() {
        for (text, expected) in [
            ("0.0.0.0", "0.0.0.0:7946"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("::", "[::]:7946"),
            ("[::1]:80", "[::1]:80"),
            ("localhost:80", "127.0.0.1:80"),
        ] {
            assert_eq!(parse_listen(text, 7946).map(|a| a.to_string()).as_deref(), Ok(expected), "{text}");
        }
        for text in ["node-1:80", ":80", "*:80", "224.0.0.1:80", ""] {
            assert!(parse_listen(text, 7946).is_err(), "{text}");
        }
    }
}
