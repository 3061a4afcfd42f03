//! What the cores of a run met, in order: enough to tell the run as a golden script.

use std::sync::Arc;

use parking_lot::Mutex;
use quorate::virtual_node::StepObserver;
use quorate_core::{Action, Config, Core, Event, Incarnation, LogId, NodeId, Vote};

use crate::history::Nanos;

/// Something that happened to one node.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Nanos,
    pub(crate) node: NodeId,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Started(Box<Found>),
    Stopped,
    Tuned(Box<Config>),
    /// Without actions if the core panicked.
    Step {
        event: Box<Event>,
        actions: Vec<Action>,
    },
}

/// A node as it starts, and what it found on its disk.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) config: Config,
    pub(crate) incarnation: Incarnation,
    pub(crate) vote: Vote,
    pub(crate) last: LogId,
    pub(crate) promised_end: Option<LogId>,
    pub(crate) snapshot: LogId,
}

impl Found {
    pub(crate) fn of(core: &Core) -> Self {
        Self {
            config: core.config().clone(),
            incarnation: core.config().incarnation,
            vote: core.vote(),
            last: core.last_log_id(),
            promised_end: core.lost_entries().map(|lost| lost.last),
            snapshot: core.status().snapshot,
        }
    }
}

/// Shared by everything in a world that notes something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Recording>>);

#[derive(Debug, Default)]
struct Recording {
    now: Nanos,
    moments: Vec<Moment>,
}

impl Recorder {
    pub(crate) fn now(&self, now: Nanos) {
        self.0.lock().now = now;
    }

    pub(crate) fn note(&self, node: NodeId, what: What) {
        let mut recording = self.0.lock();
        let at = recording.now;
        recording.moments.push(Moment { at, node, what });
    }

    pub(crate) fn take(&self) -> Vec<Moment> {
        std::mem::take(&mut self.0.lock().moments)
    }

    /// Notes the steps of this node.
    pub(crate) fn observer(&self, node: NodeId) -> Box<dyn StepObserver> {
        Box::new(Observer { node, recorder: self.clone() })
    }
}

struct Observer {
    node: NodeId,
    recorder: Recorder,
}

impl StepObserver for Observer {
    fn begins(&mut self, event: &Event) {
        self.recorder.note(self.node, What::Step { event: Box::new(event.clone()), actions: Vec::new() });
    }

    fn ends(&mut self, asked: &[Action]) {
        // Nodes take their turns one after the other.
        if let Some(Moment { what: What::Step { actions, .. }, .. }) = self.recorder.0.lock().moments.last_mut() {
            *actions = asked.to_vec();
        }
    }

    fn tuned(&mut self, config: &Config) {
        self.recorder.note(self.node, What::Tuned(Box::new(config.clone())));
    }
}
