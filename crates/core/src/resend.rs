//! When to send again: pauses towards peers that do not answer, and how a leader learns that entries were lost
//! without waiting for a time-out.

use std::time::Duration;

use crate::bug::{Bug, bug};
use crate::core::Core;
use crate::event::{Action, Actions};
use crate::ids::{NodeId, Round, StreamId};
use crate::leader::Sending;
use crate::log::Span;
use crate::progress::{Mode, Progress};

/// The longest pause between two probes of a peer that does not answer. Heartbeats go on meanwhile, and the first
/// answer to one ends the pause.
pub(crate) const MAX_PROBE_PAUSE: Duration = Duration::from_secs(5);

/// Twice as long each time, up to the limit.
fn pause(base: Duration, tries: u32) -> Duration {
    let longest = if bug(Bug::PausesDoNotGrow) { base } else { MAX_PROBE_PAUSE.max(base) };
    base.saturating_mul(1 << tries.min(16)).min(longest)
}

impl Progress {
    /// The pause after a probe that is about to be sent, if nothing is heard.
    pub(crate) fn pause_after_probe(&mut self, timeout: Duration) -> Duration {
        let pause = pause(timeout, self.unanswered);
        self.unanswered = self.unanswered.saturating_add(1);
        pause
    }

    /// The pause after a send that certainly failed.
    fn pause_after_loss(&mut self, heartbeat: Duration) -> Duration {
        self.unanswered = self.unanswered.max(1);
        pause(heartbeat, self.unanswered - 1)
    }

    /// Whether it was sent more than one message in a row that it did not answer.
    pub(crate) fn is_backed_off(&self) -> bool {
        self.unanswered > 1
    }

    /// Whether it answered, in this round, a message that was sent after entries in flight, and was not asked about them
    /// since.
    #[inline]
    pub(crate) fn answers_past_entries(&self, answered: Round) -> bool {
        let Mode::Replicate { inflight, .. } = &self.mode else { return false };
        inflight.front().is_some_and(|oldest| answered > oldest.round && answered > self.asked_behind)
    }

    /// It answered something: whatever pause it was given is over. Returns whether it had one.
    pub(crate) fn shows_life(&mut self) -> bool {
        let was_backed_off = self.is_backed_off();
        self.unanswered = 0;
        if let Mode::Probe { retry_at, .. } = &mut self.mode
            && was_backed_off
        {
            *retry_at = None;
        }
        was_backed_off
    }
}

impl Core {
    pub(crate) fn on_send_lost(&mut self, to: NodeId, stream: StreamId, out: &mut Actions) {
        if bug(Bug::ReadErrorIsEndOfLog) {
            return;
        }
        let (now, heartbeat) = (self.now, self.config.heartbeat_interval);
        self.with_peer(to, |_, peer, next_stream| {
            if peer.stream == stream && !matches!(peer.mode, Mode::Snapshot { .. }) {
                let later = now + peer.pause_after_loss(heartbeat);
                let matched = if bug(Bug::ReadErrorForgetsTheMatch) { 0 } else { peer.matched.index };
                peer.probe(matched + 1, Some(later), next_stream, out);
            }
        });
    }
}

impl Sending<'_> {
    /// Asks a peer that answered a message sent later than what is in flight whether it got that.
    ///
    /// That answer alone shows nothing: heartbeats overtake entries on their own connection, and entries that a
    /// peer received are not acknowledged before its disk has them. So the question goes *behind* the entries, on
    /// their connection, and names the last of them: a peer that denies holding it did not get it, however slow
    /// its disk or the connection is, and nothing is sent twice in vain. Once a round, so that two nodes do not
    /// ask and answer for ever.
    pub(crate) fn ask_behind(&self, peer: &mut Progress, out: &mut Actions) {
        let Mode::Replicate { inflight, .. } = &peer.mode else { return };
        let Some(newest) = inflight.back() else { return };
        let Some(last) = self.log.at(newest.last) else { return };
        peer.asked_behind = self.round;
        out.push(Action::SendEntries { to: peer.id, header: self.header(peer), span: Span { prev: last, last } });
    }
}
