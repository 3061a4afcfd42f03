//! How long peers take to answer, by the rounds that appends name and acknowledgements echo.

use std::sync::Arc;
use std::time::Duration;

use quorate_core::{AppendHeader, AppendReply, Instant, NodeId, Round, StreamId};
use smallvec::SmallVec;

use super::{GroupMeters, LatencyMeter};

/// A question that is not answered for this long will not be: the next one is timed.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// Of one peer.
struct Trip {
    peer: NodeId,
    stream: StreamId,
    /// The last round that it was sent.
    last: Round,
    /// The round that is timed, and when its first message left.
    timed: Option<(Round, Instant)>,
    meter: Arc<LatencyMeter>,
}

/// The peers that a leader waits for.
///
/// One message at a time is timed for each, and only the first of a round: the answer to a later one of the same round
/// could not be told from its.
#[derive(Default)]
pub(crate) struct Trips {
    trips: SmallVec<[Trip; 4]>,
}

impl Trips {
    /// A message leaves.
    pub(crate) fn sent(&mut self, meters: &GroupMeters, peer: NodeId, header: &AppendHeader, now: Instant) {
        let AppendHeader { stream, round, .. } = *header;
        let Some(trip) = self.trips.iter_mut().find(|trip| trip.peer == peer) else {
            let meter = meters.round_trip(peer);
            return self.trips.push(Trip { peer, stream, last: round, timed: Some((round, now)), meter });
        };
        if trip.stream != stream {
            (trip.stream, trip.last, trip.timed) = (stream, round, Some((round, now)));
        } else if trip.last < round {
            trip.last = round;
            if trip.timed.is_none_or(|(_, sent)| now.since(sent) > LOST_AFTER) {
                trip.timed = Some((round, now));
            }
        }
    }

    /// The message of this round waits for something else than the network.
    pub(crate) fn forget(&mut self, peer: NodeId, round: Round) {
        if let Some(trip) = self.trips.iter_mut().find(|trip| trip.peer == peer) {
            trip.timed = trip.timed.filter(|(timed, _)| *timed != round);
        }
    }

    /// A peer answers.
    pub(crate) fn answered(&mut self, peer: NodeId, reply: &AppendReply, now: Instant) {
        let same = |trip: &&mut Trip| trip.peer == peer && trip.stream == reply.stream;
        let Some(trip) = self.trips.iter_mut().find(same) else { return };
        let Some((round, sent)) = trip.timed.filter(|(round, _)| *round <= reply.round) else { return };
        trip.timed = None;
        // The answer to a later round: this one's was lost, or is in it.
        if round == reply.round {
            trip.meter.enter(now.since(sent), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::{AppendAnswer, GroupId, LogId, Vote};

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn only_the_answer_to_the_timed_message_counts() {
        let meters = GroupMeters::new(NodeId(1), GroupId(1), None);
        let mut trips = Trips::default();
        let peer = NodeId(2);
        let header = |stream, round| AppendHeader {
            vote: Vote::default(),
            stream: StreamId(stream),
            round: Round(round),
            commit: 0,
            lease: Duration::ZERO,
            named: None,
            heard: None,
        };
        let reply = |stream, round| AppendReply {
            vote: Vote::default(),
            stream: StreamId(stream),
            round: Round(round),
            promised: Duration::ZERO,
            lost: None,
            answer: AppendAnswer::Accepted { matched: LogId::ZERO },
        };
        let entered = || meters.round_trip(peer).latencies();

        trips.sent(&meters, peer, &header(1, 1), at(0));
        trips.sent(&meters, peer, &header(1, 1), at(3));
        trips.answered(peer, &reply(1, 1), at(5));
        assert_eq!((entered().count(), entered().sum()), (1, Duration::from_millis(5)), "from the first of the round");
        trips.answered(peer, &reply(1, 1), at(8));
        assert_eq!(entered().count(), 1, "the second message's answer");

        // A peer far away answers many rounds later.
        (2..=9).for_each(|round| trips.sent(&meters, peer, &header(1, round), at(10 + round)));
        trips.answered(peer, &reply(1, 2), at(32));
        assert_eq!((entered().count(), entered().sum()), (2, Duration::from_millis(25)));
        trips.answered(peer, &reply(1, 9), at(40));
        assert_eq!(entered().count(), 2, "not timed");

        trips.sent(&meters, peer, &header(1, 10), at(50));
        trips.answered(peer, &reply(1, 11), at(51));
        trips.answered(peer, &reply(1, 10), at(52));
        assert_eq!(entered().count(), 2, "its answer was lost, or is in a later one");

        trips.sent(&meters, peer, &header(2, 12), at(60));
        trips.answered(peer, &reply(1, 12), at(61));
        trips.forget(peer, Round(12));
        trips.answered(peer, &reply(2, 12), at(62));
        assert_eq!(entered().count(), 2, "another stream, then one that waited for a disk");
    }
}
