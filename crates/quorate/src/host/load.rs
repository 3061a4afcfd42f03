//! The snapshot that a group starts from, and what is done about damaged ones (docs/design/003).

use std::io;

use quorate_core::{Bug, GroupId, Incarnation, LogId, LogIds, Membership, NodeId, Recovered, SnapshotMeta, bug};

use super::start::{Disks, Kept};
use crate::blame;
use crate::events::STORAGE;
use crate::group::{Book, Restored, Watched, install_into, read_header, restore};
use crate::session::{SessionLimits, SessionTable};
use crate::{RaftStateMachine, SnapshotStore, StartError, StorageError, StorageErrorKind};

/// A snapshot that is not what was written.
struct Damaged {
    error: StorageError,
    /// What it holds, if that much can be read.
    meta: Option<SnapshotMeta>,
}

/// The machine to go on with.
pub(super) struct Loaded<S> {
    pub(super) state: S,
    /// What the snapshot says that stands beside it, if there is one.
    pub(super) found: Option<Book>,
}

/// Restores the newest snapshot that is whole; a machine that `kept` more than that goes on as it is. Damaged ones are put
/// aside. If none leads up to the log, the node becomes one that lost all of its log and knows how far it reached.
pub(super) fn load<S: RaftStateMachine>(
    disks: Disks<'_>,
    (me, group): (NodeId, GroupId),
    recovered: &mut Recovered,
    mut machine: S,
    kept: &Kept,
) -> Result<Loaded<S>, StartError> {
    let mut damaged = Vec::new();
    let whole = loop {
        match try_restore(disks.snapshots, group, damaged.len(), &mut machine, kept)? {
            Ok(whole) => break whole,
            Err(found) => damaged.push(found),
        }
    };
    let start = whole.as_ref().map_or(LogId::ZERO, |book: &Book| book.applied);
    let reached = recovered.log.purged().index <= start.index;
    let in_damaged = damaged.iter().filter_map(|found: &Damaged| found.meta.as_ref()).map(|meta| &meta.membership);
    let newest = in_damaged.chain(whole.as_ref().map(|book| &book.membership)).next();
    let known = recovered.memberships.last().map(|(_, membership)| membership).or(newest);
    let whole_log = recovered.promised_end <= recovered.log.last();
    if !reached && is_alone((me, disks.incarnation), known, whole_log, disks.has_met_peers) {
        return Err(nobody_to_repair_from(group, recovered, damaged.first()).into());
    }
    if let Some(newest) = damaged.first() {
        tracing::error!(
            name: "snapshot_damaged", target: STORAGE, node = me.0, group = group.0, error = %newest.error,
            "a snapshot is damaged; it is put aside"
        );
        if !blame::storage(|| disks.snapshots.set_aside(group, damaged.len()))? {
            return Err(newest.error.clone().into());
        }
    }
    if !reached {
        let promised = blame::storage(|| disks.log.give_up(group))?;
        tracing::error!(
            name: "log_given_up", target: STORAGE, node = me.0, group = group.0, %promised, purged = %recovered.log.purged(),
            "no snapshot leads up to the log: both will come from the leader"
        );
        recovered.promised_end = recovered.promised_end.max(promised);
        recovered.log = LogIds::default();
        recovered.memberships.clear();
    }
    Ok(Loaded { state: machine, found: whole })
}

/// Whether nobody could give this node back what it lost. That it is the only voter holds as long as it has all of its log:
/// what was lost may hold a later membership, which its peers of then know. Nor does it hold of another disk: where the
/// voter is one that this node lost, its log came from a leader, which is ahead of it.
pub(super) fn is_alone(
    (me, incarnation): (NodeId, Incarnation),
    known: Option<&Membership>,
    whole_log: bool,
    has_met_peers: bool,
) -> bool {
    match known {
        // A voter whose whole log says that it is the only one is: what came after would have needed its acknowledgement.
        Some(membership) => {
            let only = membership.voter_ids().len() == 1 && membership.is_voter_as(me, incarnation);
            only && (whole_log || !has_met_peers)
        }
        None => !has_met_peers,
    }
}

fn nobody_to_repair_from(group: GroupId, recovered: &Recovered, damaged: Option<&Damaged>) -> StorageError {
    let (purged, end) = (recovered.log.purged(), recovered.log.last());
    let why = damaged.map_or_else(|| "its file is gone".to_owned(), |found| found.error.to_string());
    let text = format!(
        "{group} lost its entries after 0-0.0, up to {purged}, which only its snapshot held ({why}); the log goes on up to \
         {end}, and there is no other voter to give them back; nothing was changed: restore the data directory from a backup"
    );
    StorageError::new(StorageErrorKind::Corrupt, text)
}

/// Restores the newest snapshot but `skip`. The outer error is one that no other snapshot helps against.
fn try_restore<S: RaftStateMachine>(
    snapshots: &dyn SnapshotStore,
    group: GroupId,
    skip: usize,
    machine: &mut S,
    kept: &Kept,
) -> Result<Result<Option<Book>, Damaged>, StartError> {
    let stored = match blame::storage(|| snapshots.stored(group, skip)) {
        Ok(None) => return Ok(Ok(None)),
        Ok(Some(stored)) => stored,
        Err(error) if error.kind() == StorageErrorKind::Corrupt => return Ok(Err(Damaged { error, meta: None })),
        Err(error) => return Err(error.into()),
    };
    let meta = blame::storage(|| stored.meta().clone());
    let content = blame::storage(|| stored.content()).map_err(StartError::Restore)?;
    let mut content = Watched::new(content);
    let restored = match kept {
        Kept::InMemory => restore(&mut content).map(|Restored { state, time, sessions }| {
            *machine = state;
            Book::at(meta.clone(), time, sessions)
        }),
        Kept::UpTo(own) if own.applied.index >= meta.last_log_id.index => {
            read_header(&mut content).map(|(time, sessions)| Book::at(meta.clone(), time, sessions))
        }
        Kept::Nothing | Kept::UpTo(_) => match blame::storage(|| stored.verify()) {
            // Before the machine replaces what it has.
            Ok(()) => install_into(machine, &mut content, &meta),
            Err(error) if error.kind() == StorageErrorKind::Corrupt => {
                return Ok(Err(Damaged { error, meta: Some(meta) }));
            }
            Err(error) => return Err(error.into()),
        },
    };
    if bug(Bug::DamagedSnapshotIsEmptyState)
        && content.damage.is_some()
        && let Ok(state) = S::restore(&mut io::empty())
    {
        *machine = state;
        return Ok(Ok(Some(Book::at(meta, 0, SessionTable::new(SessionLimits::V1)))));
    }
    match content.damage {
        // Whatever the state machine made of it.
        Some(error) => Ok(Err(Damaged { error, meta: Some(meta) })),
        None => Ok(Ok(Some(restored.map_err(StartError::Restore)?))),
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::Node;

    use super::*;

    #[test]
    fn another_disk_of_the_only_voter_is_not_alone() {
        let (me, voter, other) = (NodeId(1), Incarnation(10), Incarnation(20));
        let membership = Membership::majority([(me, voter, Node::at("n1:1"))]);
        let known = Some(&membership);
        assert!(is_alone((me, voter), known, true, true), "it is the cluster");
        assert!(!is_alone((me, voter), known, false, true), "what was lost may name others");
        // Its disk was replaced while others voted, and its leader has sent it the log's begin so far.
        assert!(!is_alone((me, other), known, true, true), "its leader has what is lost");
        assert!(!is_alone((NodeId(2), voter), known, true, true), "a learner");
    }
}
