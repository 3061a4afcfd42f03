//! Whether a [`RaftNetwork`] keeps its promises.
//!
//! The suite makes nodes: `open` gets the identity of each and returns its network, and the address under which the others
//! reach it.
//!
//! ```
//! use quorate::MemoryNetwork;
//!
//! let network = MemoryNetwork::new();
//! let report = quorate_testkit::network::conformance(|identity| {
//!     let me = identity.identity();
//!     Ok((network.endpoint(me.node, me.incarnation), "memory".to_owned()))
//! });
//! assert_eq!(report.not_run_parts(), ["loss", "damage", "byte windows"]);
//! ```
//!
//! Where addresses are `host:port` of TCP, [`Suite::over_tcp`] puts a relay between the nodes, which cuts connections in the
//! middle of a message or a snapshot, damages bytes, and stalls. The suite calls the network from threads of its own that are
//! none of an async runtime's: `open` may block on one, which must go on running beside it.

mod delivery;
mod inbox;
mod relay;
mod weather;

use std::sync::Arc;
use std::time::Duration;

use quorate::{Identity, IdentityStore, Inbound, NodeId, RaftNetwork};

use self::inbox::{Inbox, Name};
use crate::report::{Failure, Law, Report};

/// Checks a network; see the module.
///
/// # Panics
/// With the report, if a law is broken.
pub fn conformance<N: RaftNetwork>(open: impl Fn(Arc<dyn IdentityStore>) -> Opened<N>) -> Report {
    Suite::new(open).run().assert_passed()
}

/// A node's network and its address, or why there is none.
pub type Opened<N> = Result<(N, String), Box<dyn std::error::Error>>;

type Open<'a, N> = Box<dyn Fn(Arc<dyn IdentityStore>) -> Opened<N> + 'a>;

/// A description of what to check; [`run`](Self::run) does it.
pub struct Suite<'a, N> {
    open: Open<'a, N>,
    over_tcp: bool,
    options: Options,
}

#[derive(Clone, Debug)]
struct Options {
    patience: Duration,
    largest: usize,
    window: usize,
}

impl<N> std::fmt::Debug for Suite<'_, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suite")
            .field("over_tcp", &self.over_tcp)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<'a, N: RaftNetwork> Suite<'a, N> {
    /// A network of which `open` gives a node's end.
    pub fn new(open: impl Fn(Arc<dyn IdentityStore>) -> Opened<N> + 'a) -> Self {
        let options = Options { patience: Duration::from_secs(30), largest: 8 << 20, window: 128 << 20 };
        Self { open: Box::new(open), over_tcp: false, options }
    }

    /// Addresses are `host:port` of TCP: the parts that need a relay between nodes are run too.
    pub fn over_tcp(mut self) -> Self {
        self.over_tcp = true;
        self
    }

    /// How long something may take to arrive before the suite says that it never will; 30 s unless set.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.options.patience = patience.min(crate::NO_LIMIT);
        self
    }

    /// The largest entry that is sent; 8 MiB unless set. The library's own limit is 64 MiB.
    pub fn largest(mut self, bytes: usize) -> Self {
        self.options.largest = bytes;
        self
    }

    /// The most bytes that may wait for a peer that takes nothing; 128 MiB unless set.
    pub fn window(mut self, bytes: usize) -> Self {
        self.options.window = bytes;
        self
    }

    /// Checks everything that can be.
    #[must_use = "a report may hold failures: `assert_passed` panics with them"]
    pub fn run(self) -> Report {
        let mut report = Report::new("network");
        report.part("delivery", || delivery::messages(&self));
        report.part("order", || delivery::order(&self));
        report.part("large frames", || delivery::large(&self));
        report.part("snapshots", || delivery::snapshots(&self));
        report.part("reconnect", || delivery::reconnect(&self));
        let parts: [(&'static str, Part<'a, N>); 3] =
            [("loss", weather::loss), ("damage", weather::damage), ("byte windows", weather::windows)];
        for (name, part) in parts {
            match self.over_tcp {
                true => report.part(name, || part(&self)),
                false => report.not_run(name, "there are no bytes to relay: `Suite::over_tcp`"),
            }
        }
        report
    }

    /// Starts a node.
    fn node(&self, node: u64, disk: u128, boot: u64) -> Result<Node<N>, Failure> {
        let name: Arc<dyn IdentityStore> = Name::new(node, disk, boot);
        let (network, address) = (self.open)(Arc::clone(&name)).map_err(|error| {
            Failure::new(Law::Reconnects, format!("opening node {node}"), "a network", error.to_string())
        })?;
        let inbox = Arc::new(Inbox::default());
        network.start(Arc::clone(&inbox) as Arc<dyn Inbound>);
        Ok(Node { me: name.identity(), network, address, inbox })
    }

    /// Nodes 1 and 2, which know each other's addresses.
    fn pair(&self) -> Result<(Node<N>, Node<N>), Failure> {
        let (one, two) = (self.node(1, 11, 1)?, self.node(2, 22, 1)?);
        one.network.set_address(two.id(), &two.address);
        two.network.set_address(one.id(), &one.address);
        Ok((one, two))
    }
}

type Part<'a, N> = fn(&Suite<'a, N>) -> Result<usize, Failure>;

/// A node of the suite.
struct Node<N: RaftNetwork> {
    me: Identity,
    network: N,
    address: String,
    inbox: Arc<Inbox>,
}

impl<N: RaftNetwork> Node<N> {
    fn id(&self) -> NodeId {
        self.me.node
    }
}

impl<N: RaftNetwork> Drop for Node<N> {
    fn drop(&mut self) {
        self.network.shutdown();
    }
}
