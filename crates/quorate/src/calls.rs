//! Questions to other nodes' libraries that wait for an answer, and the writes of others that were seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_core::{Bug, NodeId, bug};
use tokio::sync::oneshot;

use crate::RaftNetwork;
use crate::blame;
use crate::call::{Call, CallId};

/// Questions of this run.
pub(crate) struct Calls {
    run: u128,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u64,
    /// Whom each question went to and who waits for its answer.
    waiting: BTreeMap<u64, (NodeId, oneshot::Sender<Call>)>,
    /// No answer can come any more.
    closed: bool,
}

/// A question under way; dropped, its answer is ignored.
pub(crate) struct Asked {
    calls: Arc<Calls>,
    number: u64,
    answer: oneshot::Receiver<Call>,
    /// Certainly not sent.
    pub(crate) unsent: bool,
}

impl Calls {
    pub(crate) fn new(run: u128) -> Self {
        Self { run, open: Mutex::default() }
    }

    /// Asks a peer. `question` is given the call's id and the lowest number that is still open.
    pub(crate) fn ask(
        self: &Arc<Self>,
        network: &dyn RaftNetwork,
        to: NodeId,
        question: impl FnOnce(CallId, u64) -> Call,
    ) -> Asked {
        let (sender, answer) = oneshot::channel();
        let (number, low, closed) = {
            let mut open = self.open.lock();
            open.last += 1;
            let number = open.last;
            if !open.closed {
                open.waiting.insert(number, (to, sender));
            }
            (number, open.waiting.first_key_value().map_or(number, |(low, _)| *low), open.closed)
        };
        let mut asked = Asked { calls: Arc::clone(self), number, answer, unsent: true };
        let body = question(CallId { run: self.run, number }, low).encode();
        // Of a network that panics nobody knows what it has sent.
        asked.unsent = closed || !blame::told(true, || network.call(to, body));
        asked
    }

    /// This node stops: whoever waits for an answer is told that there will be none.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut open = self.open.lock();
            open.closed = true;
            std::mem::take(&mut open.waiting)
        };
        // Wakes them, so not under the lock.
        drop(waiting);
    }

    /// Takes an answer in, if it is one to an open question of this run, from the node that was asked.
    pub(crate) fn on_answer(&self, from: NodeId, id: CallId, answer: Call) {
        if id.run != self.run {
            return;
        }
        let sender = {
            let mut open = self.open.lock();
            match open.waiting.get(&id.number) {
                Some((asked, _)) if *asked == from => open.waiting.remove(&id.number),
                Some(_) | None => None,
            }
        };
        if let Some((_, sender)) = sender {
            // Whoever asked may have given up meanwhile.
            drop(sender.send(answer));
        }
    }
}

impl Asked {
    /// The answer; `None`: there will be none.
    pub(crate) async fn answer(&mut self) -> Option<Call> {
        match self.unsent {
            true => None,
            false => (&mut self.answer).await.ok(),
        }
    }

    /// The answer, if it is there already.
    #[cfg(feature = "sim")]
    pub(crate) fn take_answer(&mut self) -> Option<Call> {
        self.answer.try_recv().ok()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.calls.open.lock().waiting.remove(&self.number);
    }
}

/// Runs of peers that are remembered: the last ones of each of 64 nodes or so.
const MAX_RUNS: usize = 256;

/// Writes that peers forwarded: each is proposed at most once by this run, however often it arrives.
#[derive(Default)]
pub(crate) struct Seen {
    runs: Mutex<BTreeMap<(NodeId, u128), Numbers>>,
}

#[derive(Default)]
struct Numbers {
    /// Below this everything is answered or given up.
    low: u64,
    seen: BTreeSet<u64>,
}

impl Seen {
    /// Whether this write is new.
    pub(crate) fn is_new(&self, from: NodeId, id: CallId, low: u64) -> bool {
        let mut runs = self.runs.lock();
        while runs.len() >= MAX_RUNS && !runs.contains_key(&(from, id.run)) {
            runs.pop_first();
        }
        let numbers = runs.entry((from, id.run)).or_default();
        if low > numbers.low {
            numbers.low = low;
            numbers.seen = numbers.seen.split_off(&low);
        }
        (id.number >= numbers.low && numbers.seen.insert(id.number)) || bug(Bug::ForwardedWriteTakenTwice)
    }
}

/// An answer that is larger is not taken, maybe, because of its size: 64 KiB.
const LARGE_ANSWER_BYTES: usize = 64 << 10;

/// Sends an answer. A lost answer equals a lost question; but of a write whose response is too large for the network, the
/// asker is told that it was applied.
pub(crate) fn answer(network: &dyn RaftNetwork, to: NodeId, call: Call) {
    let body = call.encode();
    let is_large = body.len() > LARGE_ANSWER_BYTES;
    if !blame::told(true, || network.call(to, body)) && is_large {
        let _lost = blame::told(true, || network.call(to, call.without_responses().encode()));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_core::{GroupId, LeaderId, LogId, SendOutcome};
    use quorate_wire::Packet;

    use super::*;
    use crate::call::Written;
    use crate::session::SessionOutcome;
    use crate::{Inbound, OutgoingSnapshot};

    /// Takes calls of 4 MiB at most.
    #[derive(Default)]
    struct Narrow(Mutex<Vec<Call>>);

    impl RaftNetwork for Narrow {
        fn start(&self, _inbound: Arc<dyn Inbound>) {}
        fn set_address(&self, _node: NodeId, _address: &str) {}

        fn send(&self, _to: NodeId, packet: Packet) -> Result<(), Packet> {
            Err(packet)
        }

        fn call(&self, _to: NodeId, body: Bytes) -> bool {
            let taken = body.len() <= 4 << 20;
            self.0.lock().extend(Call::decode(body).filter(|_| taken));
            taken
        }

        fn send_snapshot(&self, _to: NodeId, _: OutgoingSnapshot, _: Box<dyn FnOnce(SendOutcome) + Send>) {}
        fn shutdown(&self) {}
    }

    #[test]
    fn of_a_write_whose_response_does_not_fit_the_network_it_is_told_that_it_was_applied() {
        let (group, id) = (GroupId(1), CallId { run: 1, number: 2 });
        let log_id = LogId::new(LeaderId::new(1, 1), 7);
        let applied = |bytes| Written::Applied { log_id, response: vec![1; bytes].into() };
        let told = |call: Call| {
            let network = Narrow::default();
            answer(&network, NodeId(2), call);
            network.0.into_inner()
        };
        let one = |written| Call::Written { group, id, written };
        assert_eq!(told(one(applied(1 << 20))), [one(applied(1 << 20))]);
        let unreadable = || Written::Session(SessionOutcome::Unreadable(log_id));
        assert_eq!(told(one(applied(5 << 20))), [one(unreadable())]);
        let many = |written: Vec<Written>| Call::WrittenMany { group, id, written };
        let rest = many(vec![applied(3 << 20), Written::Busy, applied(3 << 20)]);
        assert_eq!(told(rest), [many(vec![unreadable(), Written::Busy, unreadable()])]);
    }

    #[test]
    fn a_forwarded_write_is_new_once() {
        let seen = Seen::default();
        let id = |number| CallId { run: 1, number };
        assert!(seen.is_new(NodeId(2), id(5), 5));
        assert!(seen.is_new(NodeId(2), id(7), 5));
        assert!(seen.is_new(NodeId(2), id(6), 5), "calls may overtake each other");
        assert!(!seen.is_new(NodeId(2), id(5), 5), "a repeated call");
        assert!(!seen.is_new(NodeId(2), id(4), 5), "a call that was given up");
        assert!(seen.is_new(NodeId(3), id(5), 5), "another node's numbers are its own");
        assert!(seen.is_new(NodeId(2), CallId { run: 2, number: 1 }, 1), "another run's numbers are its own");
    }
}
