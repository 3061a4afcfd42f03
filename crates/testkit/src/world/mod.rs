//! A small world of cores: nothing in it moves unless a script says so.

mod disk;
mod net;
mod node;
mod run;
mod text;
mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::{Config, Incarnation, Instant, LeaderIdMode, Membership, NodeId, RequestId};

pub(crate) use disk::{Entry, Log, Payload};
pub(crate) use net::{Choice, Link, Packet, has_words};
pub(crate) use node::Node;
pub(crate) use run::summary;
pub(crate) use text::{compact, log_id, peer_state, records};
pub(crate) use view::View;

use crate::invariants::Invariants;
use net::Network;

/// Whether something happens by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auto {
    On,
    Off,
}

/// What happened, for the script to show and to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

/// What sort of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A note of the core, or a change that the world saw on a node.
    Note(NodeId),
    /// A message left a node.
    Sent(Link),
    /// A message reached a node.
    Arrived(Link),
    /// A write was submitted or became durable.
    Write(NodeId),
    /// A caller was answered.
    Reply(RequestId),
    /// Anything else.
    Told,
}

/// The cores, their disks, and the network between them.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) net: Network,
    pub(crate) autopersist: Auto,
    pub(crate) autoapply: Auto,
    /// Of every span only the first entry is sent.
    pub(crate) fronts: Auto,
    pub(crate) replies: BTreeMap<RequestId, String>,
    /// What each read must at least see: the last index that was committed when it was asked, or may be that old.
    reads: BTreeMap<RequestId, u64>,
    /// When more was committed than before, and up to where.
    commits: Vec<(Instant, u64)>,
    /// What happened since the last [`World::take_trace`].
    trace: Vec<Trace>,
    requests: u64,
    template: Config,
    invariants: Invariants,
    /// The first thing that was violated, by a core or by the cluster.
    pub(crate) violation: Option<String>,
}

/// How a world begins.
pub(crate) struct Beginning {
    pub(crate) nodes: Vec<NodeId>,
    /// `None`: the nodes are blank.
    pub(crate) membership: Option<Membership>,
    /// Nodes that are blank all the same.
    pub(crate) outside: Vec<NodeId>,
    /// Applies to every node; id, incarnation and seed are filled in.
    pub(crate) config: Config,
    /// Nodes that do not run yet.
    pub(crate) stopped: Auto,
}

/// The incarnation of a node's nth disk, from 0.
pub(crate) fn incarnation(node: NodeId, disk: u64) -> Incarnation {
    Incarnation(u128::from(node.0) * 16 + u128::from(disk))
}

impl World {
    pub(crate) fn new(beginning: Beginning) -> Result<Self, String> {
        let mode: LeaderIdMode = beginning.config.mode;
        let mut world = Self {
            now: Instant::from_nanos(1_000_000_000),
            nodes: BTreeMap::new(),
            net: Network::default(),
            autopersist: Auto::On,
            autoapply: Auto::On,
            fronts: Auto::Off,
            replies: BTreeMap::new(),
            reads: BTreeMap::new(),
            commits: Vec::new(),
            trace: Vec::new(),
            requests: 0,
            template: beginning.config,
            invariants: Invariants::new(mode),
            violation: None,
        };
        for id in &beginning.nodes {
            let mut node = Node::blank(*id);
            if let Some(membership) = beginning.membership.as_ref().filter(|_| !beginning.outside.contains(id)) {
                let first = Entry {
                    id: quorate_core::LogId::new(quorate_core::LeaderId::default(), 1),
                    payload: Payload::Membership(membership.clone()),
                };
                node.disk.log.append(&[first])?;
                node.epoch = Some(0);
            }
            world.nodes.insert(*id, node);
        }
        world.invariants.learn_disks(&world.nodes);
        if beginning.stopped == Auto::Off {
            for id in beginning.nodes {
                world.start(id, world.config_of(id))?;
            }
        }
        world.trace.clear();
        Ok(world)
    }

    pub(crate) fn node(&self, id: NodeId) -> Result<&Node, String> {
        self.nodes.get(&id).ok_or_else(|| format!("there is no node {id}"))
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> Result<&mut Node, String> {
        self.nodes.get_mut(&id).ok_or_else(|| format!("there is no node {id}"))
    }

    pub(crate) fn take_trace(&mut self) -> Vec<Trace> {
        std::mem::take(&mut self.trace)
    }

    pub(crate) fn tell(&mut self, kind: Kind, text: impl Into<String>) {
        self.trace.push(Trace { kind, text: text.into() });
    }

    pub(crate) fn next_request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    /// Keeps it if it is of the cores' making; what a script asks for in vain is not.
    fn claim<T>(&mut self, held: Result<T, String>) -> Result<T, String> {
        if let Err(violation) = &held {
            self.violation.get_or_insert_with(|| violation.clone());
        }
        held
    }

    /// Time passes and wakes nobody: what was due is late.
    pub(crate) fn wait(&mut self, by: Duration) {
        self.wait_until(self.now + by);
    }

    /// Moves the clock; never back.
    fn wait_until(&mut self, moment: Instant) -> Duration {
        let waited = moment.since(self.now);
        self.now = self.now.max(moment);
        waited
    }
}
