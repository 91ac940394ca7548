//! The address on which a broker listens.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use thiserror::Error;

/// A TCP address of a broker, written `tcp://host:port`, with the host a name, an IPv4 address or
/// `[IPv6]`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// An endpoint of a host (an IPv6 address without its brackets) and a port.
    pub fn new(host: &str, port: u16) -> Result<Self, EndpointError> {
        if port == 0 {
            return Err(EndpointError::Port);
        }
        let host = if host.contains(':') { parse_ipv6(host)? } else { parse_name(host)? };
        Ok(Self { host, port })
    }

    /// The host, to be resolved: an IPv6 address has no brackets here.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let address = text.strip_prefix("tcp://").ok_or(EndpointError::Scheme)?;
        let (host, port) = address.rsplit_once(':').ok_or(EndpointError::Port)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) if host.contains(':') => host,
            Some(_) => return Err(EndpointError::Host),
            None if host.contains(':') => return Err(EndpointError::Brackets),
            None => host,
        };
        let port_number = port.parse().map_err(|_| EndpointError::Port)?;
        let endpoint = Self::new(host, port_number)?;
        // One spelling: `+7` and `007` are refused.
        if endpoint.port.to_string() == port { Ok(endpoint) } else { Err(EndpointError::Port) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "tcp://[{host}]:{port}")
        } else {
            write!(f, "tcp://{host}:{port}")
        }
    }
}

/// The reason that a text is no [`Endpoint`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum EndpointError {
    /// It does not begin with `tcp://`.
    #[error("an endpoint begins with tcp://")]
    Scheme,
    /// No host, or one with characters that a host does not have.
    #[error("an endpoint has a host name, an IPv4 address or an IPv6 address in brackets")]
    Host,
    /// An IPv6 address without brackets.
    #[error("an IPv6 address is written in brackets: tcp://[::1]:7000")]
    Brackets,
    /// No port, or no number from 1 to 65535.
    #[error("an endpoint ends with a port from 1 to 65535: tcp://host:7000")]
    Port,
}

/// RFC 1123 names, and the underscore that many real hosts have. Other characters could break a
/// line of a log.
fn parse_name(host: &str) -> Result<String, EndpointError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let good = (1..=HOST_BYTES_MAX).contains(&host.len()) && host.bytes().all(allowed);
    if good { Ok(host.to_owned()) } else { Err(EndpointError::Host) }
}

/// The canonical form (RFC 5952), with the zone that a link-local address may have (RFC 6874:
/// `fe80::1%eth0`).
fn parse_ipv6(host: &str) -> Result<String, EndpointError> {
    let (address, zone) =
        host.split_once('%').map_or((host, None), |(address, zone)| (address, Some(zone)));
    let address: Ipv6Addr = address.parse().map_err(|_| EndpointError::Host)?;
    match zone.map(parse_name).transpose()? {
        None => Ok(address.to_string()),
        Some(zone) => Ok(format!("{address}%{zone}")),
    }
}

/// Bytes of a DNS name (RFC 1035, section 2.3.4).
const HOST_BYTES_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_and_print() {
        let cases = [
            (
                "tcp://head.example.org:7000",
                "head.example.org",
                7000,
                "tcp://head.example.org:7000",
            ),
            ("tcp://127.0.0.1:1", "127.0.0.1", 1, "tcp://127.0.0.1:1"),
            ("tcp://[::1]:65535", "::1", 65535, "tcp://[::1]:65535"),
            ("tcp://[2001:DB8:0::1]:7", "2001:db8::1", 7, "tcp://[2001:db8::1]:7"),
            ("tcp://[fe80::1%eth0]:7", "fe80::1%eth0", 7, "tcp://[fe80::1%eth0]:7"),
        ];
        for (text, host, port, printed) in cases {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port));
            assert_eq!(endpoint.to_string(), printed);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_its_reason() {
        let long = format!("tcp://{}:1", "h".repeat(254));
        let cases = [
            ("head:7000", EndpointError::Scheme),
            ("udp://head:7000", EndpointError::Scheme),
            ("tcp://:7000", EndpointError::Host),
            ("tcp://a b:7000", EndpointError::Host),
            ("tcp://a/b:7000", EndpointError::Host),
            ("tcp://a\n:7000", EndpointError::Host),
            ("tcp://[a]:7000", EndpointError::Host),
            ("tcp://[::1:7000", EndpointError::Brackets),
            ("tcp://[::1%]:7000", EndpointError::Host),
            ("tcp://[::1%a b]:7000", EndpointError::Host),
            (&long, EndpointError::Host),
            ("tcp://::1:7000", EndpointError::Brackets),
            ("tcp://head", EndpointError::Port),
            ("tcp://head:", EndpointError::Port),
            ("tcp://head:0", EndpointError::Port),
            ("tcp://head:65536", EndpointError::Port),
            ("tcp://head:+7", EndpointError::Port),
            ("tcp://head:007", EndpointError::Port),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Endpoint>(), Err(expected), "{text:?}");
        }
    }
}
