//! The untimed projection of a state, for exhaustive search.
//!
//! A search that lets any wait end at any moment needs no clocks: what is left of a time is only whether there is
//! one. Every moment that lies back becomes the origin, and every moment that is waited for becomes
//! [`Core::UNTIMED_DUE`]; a step at the origin then finds nothing due and every lease alive, and a step far later
//! finds the opposite. Chance, which only moves deadlines, is forgotten; write ids count from the last durable one;
//! sizes are those of a log that was written entry by entry.

use crate::core::{Core, Role};
use crate::leader::Leader;
use crate::pieces::Pieces;
use crate::progress::Mode;
use crate::rng::Rng;
use crate::time::Instant;

impl Core {
    /// When whatever an untimed core waits for is due, but for elections and heartbeats: those are due at once.
    pub const UNTIMED_DUE: Instant = Instant::from_nanos(50_000_000);

    /// Forgets times and chance: two cores that differ in nothing else become equal. Keep `now` at the origin
    /// afterwards, or step it as late as the event needs and forget again.
    pub fn forget_time(&mut self) {
        self.now = Instant::ORIGIN;
        self.rng = Rng::new(0);
        self.election_deadline = Instant::ORIGIN;
        if let Some(contact) = &mut self.contact {
            contact.at = Instant::ORIGIN;
        }
        self.confirmed = self.confirmed.map(|(_, log_id)| (Instant::ORIGIN, log_id));
        if let Some(transfer) = &mut self.transfer {
            transfer.until = Core::UNTIMED_DUE;
            transfer.asked_at = transfer.asked_at.map(|_| Instant::ORIGIN);
        }
        self.disk.count_from_durable(Core::UNTIMED_DUE);
        self.pieces = Pieces::one_each(self.log.purged().index, self.log.last().index);
        if let Role::Leader(leader) = &mut self.role {
            leader.forget_time();
        }
    }
}

impl Leader {
    fn forget_time(&mut self) {
        self.forget_own_time();
        for peer in &mut self.peers {
            peer.acked_at = peer.acked_at.map(|_| Instant::ORIGIN);
            peer.promised_until = peer.promised_until.map(|_| Core::UNTIMED_DUE);
            peer.sent_at = peer.sent_at.map(|_| Instant::ORIGIN);
            match &mut peer.mode {
                Mode::Probe { retry_at, .. } | Mode::Snapshot { retry_at, .. } => {
                    *retry_at = retry_at.map(|_| Core::UNTIMED_DUE);
                }
                Mode::Replicate { oldest_sent, .. } => *oldest_sent = Instant::ORIGIN,
            }
        }
    }
}
