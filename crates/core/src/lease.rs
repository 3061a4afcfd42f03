//! Leases: the promise to elect nobody else for a while, and reads that rest on it (dissertation 6.4.1, law 17).
//!
//! A lease is a promise asked for in a message: an append carries its length, the acknowledgement says whether it
//! was given, and the leader counts it from the moment the round of that append *began*. The replicated setting
//! [`LeasePolicy`] only tells a leader whether to ask. Whoever promised keeps it to its end, whatever the setting or
//! the connection says then, and after a restart as well.

use std::time::Duration;

use crate::bug::{Bug, bug};
use crate::core::{Core, Role};
use crate::durability::Held;
use crate::event::{Actions, Note, WriteOp};
use crate::ids::{LeaderId, LogId, NodeId, Round};
use crate::membership::LeasePolicy;
use crate::message::{AppendHeader, CampaignReason};
use crate::time::Instant;

/// Longest lease that is asked for or promised: one minute. Whoever asks for more is not obeyed, for it would keep
/// this node from electing anybody for that long.
pub const MAX_LEASE: Duration = Duration::from_secs(60);

/// What this node promised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Promises {
    /// An earlier run of this node may have promised, nobody knows to whom: until then it elects nobody at all.
    quiet_until: Instant,
    /// The newest promise of this run.
    given: Option<Promise>,
    /// The longest lease that the disk was asked to remember.
    written: Duration,
    /// The longest lease that the disk remembers. Invariant: at most `written`; no longer one was promised.
    durable: Duration,
}

/// To elect nobody but the node of `to` before `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Promise {
    to: LeaderId,
    until: Instant,
}

impl Promises {
    pub(crate) fn recovered(longest: Duration, now: Instant) -> Self {
        let quiet_until = if bug(Bug::PromiseForgottenOnRestart) { now } else { now + longest };
        Self { quiet_until, given: None, written: longest, durable: longest }
    }

    /// The disk remembers a lease of this length.
    pub(crate) fn on_durable(&mut self, lease: Duration) {
        self.durable = self.durable.max(lease);
    }

    /// This node granted a vote, or campaigns: nothing is left of its promise then. It is over, or the node that it
    /// was given to campaigns itself, or gave the lease up before it asked a successor to campaign.
    pub(crate) fn release(&mut self) {
        self.given = None;
    }

    pub(crate) fn check(&self) {
        assert!(self.durable <= self.written, "only a lease that was written is durable");
    }
}

impl Core {
    // ---- the node that promises ----

    /// Promises the lease that an accepted append asks for; returns what was promised, for the acknowledgement.
    pub(crate) fn promise_lease(&mut self, header: &AppendHeader, out: &mut Actions) -> Duration {
        let lease = header.lease;
        if lease.is_zero() {
            return lease;
        }
        if lease > MAX_LEASE && !bug(Bug::AnyLeaseIsPromised) {
            let from = header.vote.leader_id.node_id;
            out.note(Note::Impossible { from, what: "a lease longer than any node asks for" });
            return Duration::ZERO;
        }
        if lease > self.promises.written {
            self.promises.written = lease;
            self.disk.write(WriteOp::PromiseLease(lease), out);
            self.disk.hold(Held::Promise(lease));
        }
        // Rule: the disk knows of it before the first promise: a restarted node must be as quiet as it promised.
        if lease > self.promises.durable {
            return Duration::ZERO;
        }
        // A promise to an earlier leader is void once a later one is followed, but waiting is never wrong.
        let before = self.promises.given.map_or(self.now, |given| given.until);
        let until = before.max(self.now + lease);
        self.promises.given = Some(Promise { to: header.vote.leader_id, until });
        lease
    }

    /// Whether a promise forbids this node to elect `candidate`, itself included (law 17).
    pub(crate) fn is_bound_by_promise(&self, candidate: NodeId, reason: CampaignReason) -> bool {
        if self.now < self.promises.quiet_until {
            return true;
        }
        let Some(given) = self.promises.given else { return false };
        // The node that it was given to does not lead as `given.to` any more when it campaigns (law 5), and asks a
        // successor to campaign only when it has given up its lease reads.
        let to_its_holder = candidate == given.to.node_id;
        let handed_over = match bug(Bug::AnyTransferEndsPromise) {
            true => matches!(reason, CampaignReason::Transfer(_)),
            false => reason == CampaignReason::Transfer(given.to),
        };
        let refused = bug(Bug::ConnectionEvidenceEndsPromise) && self.contact.is_some_and(|contact| contact.refused);
        self.now < given.until && !to_its_holder && !handed_over && !refused
    }

    /// When this node may campaign: its election timeout, but not before what it promised.
    pub(crate) fn campaign_due(&self) -> Instant {
        let given = self.promises.given.map_or(self.promises.quiet_until, |given| given.until);
        match bug(Bug::ConnectionEvidenceEndsPromise) {
            true => self.election_deadline,
            false => self.election_deadline.max(self.promises.quiet_until).max(given),
        }
    }

    // ---- the leader ----

    /// How long a lease this leader asks for in its appends; zero: none.
    pub(crate) fn lease_to_ask(&self) -> Duration {
        match self.uses_leases() && !self.transfer_was_sent() {
            true => self.config.election_timeout_min.min(MAX_LEASE),
            false => Duration::ZERO,
        }
    }

    /// Whether the membership in force spends leases on reads.
    pub(crate) fn uses_leases(&self) -> bool {
        self.membership().settings.lease == LeasePolicy::LeaseReads
    }

    /// A peer promised a lease in its answer to an append of `round`.
    pub(crate) fn on_lease_promised(&mut self, from: NodeId, round: Round, lease: Duration) {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return };
        if lease.is_zero() || round < leader.clock_from.0 {
            return;
        }
        // Rule: it counts from *send* time: the promise began no earlier than that (law 17).
        let Some(began) = leader.round_began(round) else { return };
        let began = if bug(Bug::LeaseFromReceipt) { now } else { began };
        let Some(place) = leader.place(from) else { return };
        let peer = &mut leader.peers[place];
        peer.promised_until = peer.promised_until.max(Some(began + lease.min(MAX_LEASE)));
    }

    /// Until when this leader's lease holds, on this node's clock. Counted anew each time, by the commit quorum of
    /// the membership in force: a lease counted under an earlier membership binds nobody who votes only in the next.
    pub(crate) fn lease_until(&self) -> Option<Instant> {
        if !self.uses_leases() || self.transfer_was_sent() && !bug(Bug::LeaseKeptAfterTransfer) {
            return None;
        }
        // As long as it leads it elects nobody, and who campaigns does not lead.
        let promised = self.quorum_reached(Instant::END, |peer| peer.promised_until)?;
        Some(promised - self.config.max_clock_drift)
    }

    /// What a read sees that is served by the lease, at once; `None`: the lease does not hold, or this leader does
    /// not know yet what is committed (dissertation 6.4, step 1).
    pub(crate) fn read_by_lease(&self, now: Instant) -> Option<LogId> {
        if self.lease_until().is_none_or(|until| now >= until) {
            return None;
        }
        self.known_commit()
    }

    /// Whether a successor was asked to campaign under this leadership: then no lease read is served any more, and
    /// no lease asked for (law 17).
    pub(crate) fn transfer_was_sent(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.transfer_was_sent)
    }

    // ---- clocks ----

    /// Whether what this node does next, whatever it is told by peers, may rest on a clock that ran as others did: it
    /// spends leases, or may have promised one. Reads of a maximum age rest on it always.
    #[inline]
    pub fn relies_on_clock(&self) -> bool {
        self.uses_leases() || self.promises.given.is_some() || !self.promises.written.is_zero()
    }

    /// The driver's clock may have stood still, or run ahead: what was measured with it counts no more.
    pub(crate) fn on_clock_jumped(&mut self, out: &mut Actions) {
        if bug(Bug::ClockJumpIgnored) {
            return;
        }
        if self.uses_leases() || self.promises.given.is_some() || self.confirmed.is_some() {
            out.note(Note::ClockJumped);
        }
        // When did the promise begin? As after a restart, nobody knows.
        if !self.promises.durable.is_zero() {
            self.promises.quiet_until = self.now + self.promises.durable;
        }
        self.confirmed = None;
        self.asked_reads.iter_mut().for_each(|asked| asked.at = None);
        let Role::Leader(leader) = &mut self.role else { return };
        leader.clock_from = (Round(leader.round.0 + 1), self.now);
        for peer in &mut leader.peers {
            peer.promised_until = None;
        }
        if self.uses_leases() {
            self.broadcast_round(out);
        }
    }
}
