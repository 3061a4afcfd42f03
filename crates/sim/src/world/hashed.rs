//! What goes into the trace hash beside the events themselves: what clients and the operator are told, and how everything ends.

use quorate::virtual_node::{Answer, CallId};
use quorate::{Payload, RaftStateMachine};
use quorate_core::LogId;

use super::World;
use crate::clients::AnswerOf;
use crate::digest::{Digest, hash_of};
use crate::machine::Watched;
use crate::workload::{Returned, Workload};

impl<W: Workload> World<W> {
    /// Takes in an answer of a node, whoever waits for it.
    pub(super) fn hash_answer(&mut self, at: usize, call: CallId, answer: &AnswerOf<W>) {
        let digest = &mut self.digest;
        digest.word(14 + at as u64 * 64);
        digest.word(call);
        let told = match answer {
            Answer::Applied { log_id, response } => {
                take_log_id(digest, *log_id);
                let mut bytes = Vec::new();
                let encoded = response.encode(&mut bytes).is_ok();
                digest.bytes(&bytes);
                return digest.word(u64::from(encoded));
            }
            Answer::NotLeader { leader } => return digest.word(leader.map_or(1, |id| id.0 << 8)),
            Answer::SessionDone { log_id } => return take_log_id(digest, *log_id),
            Answer::OtherLeader { leader } => format!("other leader {leader:?}"),
            Answer::Refused => "refused".to_owned(),
            Answer::Unknown => "unknown".to_owned(),
            Answer::SessionRefused(refusal) => format!("{refusal:?}"),
            Answer::ReadRefused(refusal) => format!("{refusal:?}"),
            Answer::Changed(result) => format!("changed {result:?}"),
            Answer::Initialized(result) => format!("initialized {result:?}"),
            Answer::Transferred(result) => format!("transferred {result:?}"),
            Answer::Compacted(result) => format!("compacted {result:?}"),
            Answer::Reconfigured(result) => format!("reconfigured {result:?}"),
        };
        digest.bytes(told.as_bytes());
    }

    /// Takes in what a client was told of an operation.
    pub(crate) fn hash_outcome<R, T>(&mut self, op: u64, as_of: Option<u64>, returned: &Returned<R, T>) {
        self.digest.word(12 + op * 64);
        self.digest.word(as_of.map_or(0, |index| index + 1));
        self.digest.word(match returned {
            Returned::Written(_) => 1,
            Returned::Seen(_) => 2,
            Returned::NotApplied => 3,
            Returned::Unknown => 4,
        });
    }

    /// Takes in how it ends: every state, log and disk.
    pub(crate) fn hash_the_end(&mut self) {
        let digest = &mut self.digest;
        for place in &self.places {
            for word in [place.id.0, place.run, place.boot, place.incarnation.0 as u64, place.cluster.0 as u64] {
                digest.word(word);
            }
            place.disk.hash(digest);
            let Some(running) = &place.running else { continue };
            let core = running.node.core();
            let log = format!("{:?} {:?} {:?} {:?}", core.vote(), core.log(), core.commit(), core.membership());
            digest.bytes(log.as_bytes());
            let state = running.node.machine(|machine: &Watched<W::Machine>, applied| {
                let mut bytes = Vec::new();
                let written = machine.machine.snapshot(&mut bytes).is_ok();
                (applied, machine.chain, hash_of(&bytes), written)
            });
            digest.bytes(format!("{state:?}").as_bytes());
        }
    }
}

fn take_log_id(digest: &mut Digest, log_id: LogId) {
    for word in [log_id.leader_id.term, log_id.leader_id.node_id.0, log_id.index] {
        digest.word(word);
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::LeaderId;
    use quorate_wal::Disk;

    use super::*;
    use crate::history::Outcome;
    use crate::ledger::{LedgerClients, LedgerResponse};
    use crate::trial::cluster;

    fn hash_after(does: impl FnOnce(&mut World<LedgerClients>)) -> u128 {
        let mut world = cluster(3);
        does(&mut world);
        world.hash_the_end();
        world.digest.value()
    }

    #[test]
    fn what_is_told_and_how_it_ends_is_in_the_hash() {
        let answered = |index, length| {
            hash_after(|world| {
                let log_id = LogId { leader_id: LeaderId::default(), index };
                let response = LedgerResponse(Outcome::Appended { length });
                world.hash_answer(0, 1, &Answer::Applied { log_id, response });
            })
        };
        let outcome = |as_of| hash_after(|world| world.hash_outcome(0, as_of, &Returned::<(), ()>::Seen(())));
        let on_disk = |name: &str| {
            hash_after(|world| drop(world.places[0].disk.create(std::path::Path::new(name)).expect("there is room")))
        };
        let hashes = [
            hash_after(|_| {}),
            answered(1, 1),
            answered(2, 1),
            answered(1, 2),
            outcome(None),
            outcome(Some(0)),
            on_disk("/a"),
            on_disk("/b"),
        ];
        assert_eq!(hashes[0], hash_after(|_| {}), "the same run has the same hash");
        for (at, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..at].contains(hash), "{at} is as one before it");
        }
    }
}
