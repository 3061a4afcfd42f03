//! Names, addresses and ids, as flags give them.

use std::collections::BTreeMap;
use std::fmt;

/// Where a socket listens or is reached: a host and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A host name or an IP address; an IPv6 address in brackets.
    pub host: String,
    /// The port; never 0.
    pub port: u16,
}

/// A flag's value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyError(String);

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TopologyError {}

fn error<T>(text: impl Into<String>) -> Result<T, TopologyError> {
    Err(TopologyError(text.into()))
}

impl Address {
    /// Reads `http://host:port`, as etcd's flags have it.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse_url(url: &str) -> Result<Self, TopologyError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return error(format!("\"{url}\" has no scheme: write http://host:port"));
        };
        match scheme {
            "http" => Self::parse(rest.strip_suffix('/').unwrap_or(rest)),
            "https" => error(format!("\"{url}\": https is not supported yet: use http")),
            other => error(format!("\"{url}\": scheme \"{other}\" is not supported: use http")),
        }
    }

    /// Reads `host:port`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TopologyError> {
        let Some((host, port)) = text.rsplit_once(':') else {
            return error(format!("\"{text}\" has no port: write host:port"));
        };
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (host.contains(':') && !bracketed) || host.contains(['/', '?', '#', '@', ' ']) {
            return error(format!("\"{text}\" has no usable host: write host:port, an IPv6 address in brackets"));
        }
        match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Address { host: host.to_owned(), port }),
            _ => error(format!("\"{text}\": port \"{port}\" is not a number from 1 to 65535")),
        }
    }

    /// As a URL.
    pub fn url(&self) -> String {
        format!("http://{self}")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The first members of a cluster: name to peer address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members(BTreeMap<String, Address>);

impl Members {
    /// Reads `name=http://host:port,name=http://host:port`, the value of `--initial-cluster`.
    ///
    /// # Errors
    /// Says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, TopologyError> {
        let mut members = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((name, url)) = part.split_once('=') else {
                return error(format!("\"{part}\" has no name: write name=http://host:port"));
            };
            if name.is_empty() {
                return error(format!("\"{part}\" has an empty name: write name=http://host:port"));
            }
            let address = Address::parse_url(url)?;
            if let Some((other, _)) = members.iter().find(|(_, known)| **known == address) {
                return error(format!("members \"{other}\" and \"{name}\" have the same address {address}"));
            }
            if members.insert(name.to_owned(), address).is_some() {
                return error(format!("member \"{name}\" is given twice: one address a member is supported"));
            }
        }
        if members.is_empty() {
            return error("it names no member: write name=http://host:port,...");
        }
        Ok(Members(members))
    }

    /// A cluster of one.
    pub fn single(name: &str, address: Address) -> Self {
        Members([(name.to_owned(), address)].into())
    }

    /// The peer address of a member.
    pub fn address(&self, name: &str) -> Option<&Address> {
        self.0.get(name)
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// Every member's node id and peer address.
    ///
    /// # Errors
    /// If two names have the same id.
    pub fn peers(&self, token: &str) -> Result<Vec<(u64, String)>, TopologyError> {
        let mut by_id: BTreeMap<u64, &str> = BTreeMap::new();
        for name in self.0.keys() {
            if let Some(other) = by_id.insert(node_id(token, name), name) {
                return error(format!("names \"{other}\" and \"{name}\" have the same node id: rename one"));
            }
        }
        Ok(by_id.into_iter().map(|(id, name)| (id, self.0[name].to_string())).collect())
    }
}

/// The node id of a member: a hash of the cluster's token and its name, so that every node derives the same ids
/// from its flags, and a node of a cluster with another token is never taken for a member of this one.
pub fn node_id(token: &str, name: &str) -> u64 {
    hash(&[token.as_bytes(), name.as_bytes()])
}

/// FNV-1a over length-prefixed parts, then a finalizer that spreads similar names. Never 0: that is "no node".
/// Part of what is on disk, so it never changes.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        let len = (part.len() as u64).to_le_bytes();
        for byte in len.iter().chain(part.iter()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: fmt::Debug>(result: Result<T, TopologyError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn addresses_are_read_from_urls() {
        let address = Address::parse_url("http://127.0.0.1:2379").unwrap();
        assert_eq!((address.host.as_str(), address.port), ("127.0.0.1", 2379));
        assert_eq!(address.url(), "http://127.0.0.1:2379");
        assert_eq!(Address::parse_url("http://db.example:1/").unwrap().to_string(), "db.example:1");
        assert_eq!(Address::parse_url("http://[::1]:80").unwrap().host, "[::1]");
    }

    #[test]
    fn wrong_addresses_are_named_with_what_to_write() {
        assert!(text(Address::parse_url("127.0.0.1:2379")).contains("has no scheme: write http://host:port"));
        assert!(text(Address::parse_url("https://x:1")).contains("https is not supported yet"));
        assert!(text(Address::parse_url("unix:///tmp/x")).contains("scheme \"unix\" is not supported"));
        assert!(text(Address::parse_url("http://x")).contains("has no port"));
        assert!(text(Address::parse_url("http://x:0")).contains("not a number from 1 to 65535"));
        assert!(text(Address::parse_url("http://x:99999")).contains("not a number from 1 to 65535"));
        assert!(text(Address::parse_url("http://:80")).contains("no usable host"));
        assert!(text(Address::parse_url("http://::1:80")).contains("in brackets"));
        assert!(text(Address::parse_url("http://x/y:80")).contains("no usable host"));
    }

    #[test]
    fn members_are_read_with_their_ids() {
        let members = Members::parse("b=http://h:2, a=http://h:1").unwrap();
        assert_eq!(members.names(), ["a", "b"]);
        let peers = members.peers("t").unwrap();
        assert!(peers.contains(&(node_id("t", "a"), "h:1".into())));
        assert_eq!(peers.len(), 2);
    }

    #[test]
    fn wrong_member_lists_are_named() {
        assert!(text(Members::parse("")).contains("names no member"));
        assert!(text(Members::parse("http://h:1")).contains("has no name"));
        assert!(text(Members::parse("=http://h:1")).contains("empty name"));
        assert!(text(Members::parse("a=h:1")).contains("no scheme"));
        assert!(text(Members::parse("a=http://h:1,a=http://h:2")).contains("given twice"));
        assert!(text(Members::parse("a=http://h:1,b=http://h:1")).contains("have the same address"));
    }

    #[test]
    fn ids_are_fixed_for_ever_and_differ_by_token_and_name() {
        assert_eq!(node_id("quorate-cluster", "n1"), node_id("quorate-cluster", "n1"));
        assert_eq!(node_id("quorate-cluster", "n1"), PINNED_N1);
        assert_ne!(node_id("quorate-cluster", "n1"), node_id("quorate-cluster", "n2"));
        assert_ne!(node_id("quorate-cluster", "n1"), node_id("other", "n1"));
        assert_ne!(node_id("ab", "c"), node_id("a", "bc"));
    }

    /// What data directories in the field were made with.
    const PINNED_N1: u64 = 0xa3ad_3c86_a038_e4ef;
}
