//! What others see of a node, without its lock: what the last turn left for them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quorate_core::{LeaderId, Membership, NodeId};
use tokio::sync::watch;

use super::Node;
use crate::RaftMetrics;
use crate::driver::Input;
use crate::meters::{Depths, GroupMeters, Metered};

/// How often an exporter that finds the node at work looks again, giving way in between.
const LOOKS: usize = 100;

impl Node {
    pub(crate) fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        *self.leader.borrow()
    }

    /// The last leader id that this node accepted, or leads under; the default if there was none.
    pub(crate) fn accepted(&self) -> LeaderId {
        *self.accepted.read()
    }

    /// The leader as it changes.
    pub(crate) fn watch_leader(&self) -> watch::Receiver<Option<NodeId>> {
        self.leader.subscribe()
    }

    /// Whether nothing was ever written here.
    pub(crate) fn is_blank(&self) -> bool {
        self.blank.load(Ordering::Acquire)
    }

    /// Says what a blank node waits for.
    pub(crate) fn set_awaits(&self, what: String) {
        *self.awaits.lock() = Some(what);
    }

    /// What this node waits for before it belongs to a cluster, if it belongs to none and that is known.
    pub(crate) fn awaits(&self) -> Option<String> {
        if !self.is_blank() {
            return None;
        }
        self.awaits.lock().clone()
    }

    pub(crate) fn is_founder(&self) -> bool {
        self.founder.load(Ordering::Relaxed)
    }

    pub(crate) fn become_founder(&self) {
        self.founder.store(true, Ordering::Relaxed);
    }

    /// The membership in force.
    pub(crate) fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.membership.read())
    }

    pub(crate) fn metrics(self: &Arc<Self>) -> watch::Receiver<RaftMetrics> {
        let receiver = self.metrics.subscribe();
        // Without receivers nothing was published.
        self.bring(Input::Publish);
        receiver
    }
}

impl Metered for Node {
    fn meters(&self) -> &GroupMeters {
        &self.meters
    }

    fn depths(&self) -> Depths {
        let (proposal_batches, proposal_bytes) = self.proposals.depth();
        let (sessions, _) = self.applies.session_counts();
        Depths { proposal_batches, proposal_bytes, sessions, ..self.applies.depths() }
    }

    fn shown(self: Arc<Self>) -> RaftMetrics {
        let shown = self.metrics();
        // Whoever steps the node now publishes in its next turn. If not, what was published last is not old.
        for _ in 0..LOOKS {
            if shown.has_changed().unwrap_or(true) {
                break;
            }
            std::thread::yield_now();
        }
        shown.borrow().clone()
    }
}
