//! What a `quorate dev` directory holds, and on which ports its nodes are.
//!
//! The ports are part of the cluster's membership, so they are kept beside the data: a cluster comes back on the
//! ports it was made with.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::Failure;
use crate::topology::Address;

/// The file that says what the directory is, one `name value` a line.
const FILE: &str = "quorate-dev";
const HEAD: &str = "quorate dev cluster, version 1";
const HOST: &str = "127.0.0.1";
/// etcd's own.
const FIRST_CLIENT_PORT: u16 = 2379;
/// The most nodes: a log is copied to each.
pub(super) const MAX_NODES: u16 = 9;

/// The client ports of a cluster; each node listens for its peers one above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    client_ports: Vec<u16>,
}

impl Layout {
    /// Without a base, etcd's habit: 2379, 22379, 32379, ...; with one, every other port from there.
    pub(super) fn new(nodes: u16, base: Option<u16>) -> Result<Self, Failure> {
        if nodes == 0 || nodes > MAX_NODES {
            return Err(Failure::new(format!("--nodes: {nodes} is not a number from 1 to {MAX_NODES}")));
        }
        let port = |at: u16| match base {
            Some(base) => base.checked_add(2 * at),
            None if at == 0 => Some(FIRST_CLIENT_PORT),
            None => at.checked_add(1).and_then(|tens| tens.checked_mul(10_000)?.checked_add(FIRST_CLIENT_PORT)),
        };
        let ports: Option<Vec<u16>> = (0..nodes).map(port).collect();
        match ports {
            Some(client_ports) if client_ports.iter().all(|port| (1..u16::MAX).contains(port)) => {
                Ok(Layout { client_ports })
            }
            Some(_) | None => Err(Failure::new(format!(
                "there are not enough ports for {nodes} nodes: choose the first with --client-port-base, below {}",
                u16::MAX - 2 * nodes
            ))),
        }
    }

    pub(super) fn nodes(&self) -> u16 {
        self.client_ports.len() as u16
    }

    pub(super) fn name(at: u16) -> String {
        format!("n{}", at + 1)
    }

    pub(super) fn client(&self, at: u16) -> Address {
        Address { host: HOST.to_owned(), port: self.client_ports[usize::from(at)] }
    }

    pub(super) fn peer(&self, at: u16) -> Address {
        Address { host: HOST.to_owned(), port: self.client_ports[usize::from(at)] + 1 }
    }

    /// What a directory says its cluster is; `None` if it holds none.
    pub(super) fn load(dir: &Path) -> Result<Option<Self>, Failure> {
        let path = dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::new(format!("cannot read {}: {error}", path.display()))),
        };
        match parse(&text) {
            Some(layout) => Ok(Some(layout)),
            None => Err(Failure::new(format!(
                "{} is not what this version of quorate dev writes: choose another directory with --data-dir",
                path.display()
            ))),
        }
    }

    /// Writes what the cluster is, whole or not at all, before any node is made.
    pub(super) fn save(&self, dir: &Path) -> Result<(), Failure> {
        let ports: Vec<String> = self.client_ports.iter().map(u16::to_string).collect();
        let text = format!("{HEAD}\nclient-ports {}\n", ports.join(" "));
        let write = || -> io::Result<()> {
            fs::create_dir_all(dir)?;
            let temporary = dir.join(format!("{FILE}.new"));
            let mut file = File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, dir.join(FILE))?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| {
            Failure::new(format!("cannot write to {}: {error}; choose a directory with --data-dir", dir.display()))
        })
    }
}

fn parse(text: &str) -> Option<Layout> {
    let mut lines = text.lines();
    if lines.next()? != HEAD {
        return None;
    }
    let ports = lines.next()?.strip_prefix("client-ports ")?;
    let client_ports: Vec<u16> = ports.split(' ').map(|port| port.parse().ok()).collect::<Option<_>>()?;
    let usable = client_ports.iter().all(|port| (1..u16::MAX).contains(port));
    (usable && client_ports.len() <= usize::from(MAX_NODES)).then_some(Layout { client_ports })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(nodes: u16, base: Option<u16>) -> Result<Vec<u16>, String> {
        Layout::new(nodes, base).map(|layout| layout.client_ports).map_err(|failure| failure.to_string())
    }

    #[test]
    fn ports_are_etcds_or_from_a_base() {
        assert_eq!(ports(3, None).unwrap(), [2379, 22379, 32379]);
        assert_eq!(ports(1, None).unwrap(), [2379]);
        assert_eq!(ports(3, Some(5000)).unwrap(), [5000, 5002, 5004]);
        assert_eq!(Layout::new(1, None).unwrap().peer(0).port, 2380);
    }

    #[test]
    fn impossible_numbers_are_named() {
        assert!(ports(0, None).unwrap_err().contains("--nodes: 0 is not a number from 1 to 9"));
        assert!(ports(10, None).unwrap_err().contains("--nodes: 10"));
        assert!(ports(7, None).unwrap_err().contains("--client-port-base"));
        assert!(ports(3, Some(65_534)).unwrap_err().contains("--client-port-base"));
        assert!(ports(1, Some(65_535)).is_err(), "its peer port would be past the last");
        assert!(ports(1, Some(0)).is_err());
    }

    #[test]
    fn what_is_written_is_read_back_and_the_rest_refused() {
        let text = format!("{HEAD}\nclient-ports 2379 22379\n");
        assert_eq!(parse(&text).unwrap().client_ports, [2379, 22379]);
        for wrong in ["", "x", HEAD, &format!("{HEAD}\nclient-ports\n"), &format!("{HEAD}\nclient-ports 0\n")] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
        assert_eq!(parse("quorate dev cluster, version 2\nclient-ports 1\n"), None);
    }
}
