//! Starting a group: what the disk holds becomes a core, a state machine and what stands between them.

use std::sync::{Arc, OnceLock};

use quorate_core::{Bug, GroupId, Incarnation, LogId, LogIds, NodeId, Recovered, Span, Tail, WriteId, bug};
use tokio::sync::watch;

use super::load::{Loaded, is_alone, load};
use super::{GroupBuilder, HostInner, bootstrap};
use crate::blame;
use crate::driver::{Completed, DriverParts};
use crate::group::{ApplyParts, ApplyQueue, Book, Node, NodeParts, ProposalQueue, Reports, Shell, restored_by};
use crate::identity::random_u128;
use crate::meters::{GroupMeters, Metered};
use crate::metrics::blank_metrics;
use crate::raft::{Group, Raft};
use crate::{
    Completions, LastApplied, LogWrite, RaftLogStorage, RaftStateMachine, SnapshotStore, StartError, Storage,
    StorageError, StorageErrorKind,
};

/// What a group starts from.
pub(crate) struct Found<S> {
    pub(crate) recovered: Recovered,
    pub(crate) state: S,
    /// Of what is in the state. Its time is where applies begin: what follows from an entry's time must not depend on
    /// how much of the log was there at a restart.
    pub(crate) book: Book,
    /// Whether the machine keeps its state itself.
    pub(crate) durable: bool,
    /// The greatest time stamped into what was recovered: a leader's next entry is not earlier.
    pub(crate) last_time: u64,
}

impl<S: RaftStateMachine> Found<S> {
    /// The queue of applies, which begins where the state ends, and what is left for the driver: what was recovered
    /// and the greatest time in it.
    pub(crate) fn into_applies(
        self,
        meters: Arc<GroupMeters>,
        storage: Arc<dyn RaftLogStorage>,
        snapshots: Arc<dyn SnapshotStore>,
    ) -> (Arc<ApplyQueue<S>>, Recovered, u64) {
        let Self { recovered, state, mut book, durable, last_time } = self;
        // The same, unless a planted bug says that more was applied.
        book.applied = recovered.applied;
        let applies = ApplyQueue::new(ApplyParts { state, book, durable, meters, storage, snapshots });
        (applies, recovered, last_time)
    }
}

pub(super) async fn group<S: RaftStateMachine>(builder: GroupBuilder, machine: S) -> Result<Raft<S>, StartError> {
    let GroupBuilder { host, id, owns_host } = builder;
    let inner = Arc::clone(&host.inner);
    if inner.is_closed() {
        return Err(StartError::Closed);
    }
    inner.check_not_running(id).await?;
    let completed = Arc::new(Completed::default());
    let reports = Arc::new(Reports { completed: Arc::clone(&completed), node: OnceLock::new() });
    let found = {
        let (inner, reports) = (Arc::clone(&inner), Arc::clone(&reports));
        let find = move || {
            let incarnation = inner.incarnation;
            let Storage { log, snapshots, identity } = &inner.storage;
            // Caught on the thread on which it happens: it knows who panicked.
            blame::at_start(|| {
                let has_met_peers = blame::storage(|| identity.has_met_peers());
                let disks = Disks { log: &**log, snapshots: &**snapshots, has_met_peers, incarnation };
                find(disks, (inner.id, id), reports, machine)
            })?
        };
        inner_result(host.inner.runtime.spawn_blocking(find).await)?
    };
    let group = blame::at_start(|| assemble(&inner, id, found, completed, &reports))??;
    inner.add_group(id, Arc::clone(&group) as Arc<dyn super::Port>)?;
    if inner.cluster().0 != 0 {
        // The host may have joined its cluster while this group was put together.
        group.node.leave(crate::driver::Input::Cluster(inner.cluster()));
    }
    group.node.launch();
    if group.node.is_blank() || inner.cluster().0 == 0 {
        drop(inner.runtime.spawn(bootstrap::run(Arc::clone(&inner), Arc::clone(&group.node))));
    }
    Ok(Raft::new(group, owns_host.then_some(host)))
}

fn inner_result<T>(joined: Result<Result<T, StartError>, tokio::task::JoinError>) -> Result<T, StartError> {
    joined.unwrap_or(Err(StartError::Closed))
}

/// What a group is read from.
#[derive(Clone, Copy)]
pub(crate) struct Disks<'a> {
    pub(crate) log: &'a dyn RaftLogStorage,
    pub(crate) snapshots: &'a dyn SnapshotStore,
    /// Whether any peer was ever noted on this disk.
    pub(crate) has_met_peers: bool,
    /// Which disk this is.
    pub(crate) incarnation: Incarnation,
}

/// Reads what the disk holds. May block.
pub(crate) fn find<S: RaftStateMachine>(
    disks: Disks<'_>,
    (me, group): (NodeId, GroupId),
    reports: Arc<dyn Completions>,
    mut machine: S,
) -> Result<Found<S>, StartError> {
    let log = disks.log;
    let kept = Kept::of(&mut machine)?;
    let mut recovered = blame::storage(|| log.recover(group, reports))?;
    let mut book = Book::blank();
    let Loaded { state, found } = load(disks, (me, group), &mut recovered, machine, &kept)?;
    if let Some(found) = found {
        let end = found.applied;
        fit_to_snapshot(log, group, &mut recovered, end);
        let next = recovered.log.at(end.index + 1).filter(|_| bug(Bug::AppliedBeforeItsData));
        recovered.applied = next.unwrap_or(end);
        recovered.snapshot = Some(found.meta());
        book = found;
    }
    let durable = kept != Kept::InMemory;
    if let Kept::UpTo(own) = kept
        && own.applied.index >= book.applied.index
    {
        check_leads_to(group, &recovered.log, own.applied)?;
        recovered.applied = own.applied;
        book = *own;
    }
    check_repairable((me, group), &recovered, disks)?;
    let last_time = book.time.max(last_time(log, group, &recovered.log)?);
    Ok(Found { recovered, state, book, durable, last_time })
}

/// What the state machine keeps of itself.
#[derive(PartialEq, Eq)]
pub(super) enum Kept {
    InMemory,
    Nothing,
    UpTo(Box<Book>),
}

impl Kept {
    fn of<S: RaftStateMachine>(machine: &mut S) -> Result<Self, StartError> {
        match restored_by(|| machine.last_applied()).map_err(StartError::Restore)? {
            LastApplied::InMemory => Ok(Self::InMemory),
            LastApplied::Nothing => Ok(Self::Nothing),
            LastApplied::UpTo(checkpoint) => {
                let book = Book::of(&checkpoint).map_err(StartError::Restore)?;
                Ok(Self::UpTo(Box::new(book)))
            }
        }
    }
}

/// A durable state machine has applied only what is in the log of its own node, or in a snapshot that is.
fn check_leads_to(group: GroupId, log: &LogIds, applied: LogId) -> Result<(), StartError> {
    if log.holds(applied) {
        return Ok(());
    }
    let text = format!(
        "the state machine of {group} has applied {applied}, to which the log on this node does not lead (it ends at {}):          its files belong to another node, or the log was damaged; remove the state machine's files to have them made          again from snapshot and log",
        log.last()
    );
    Err(StorageError::new(StorageErrorKind::Corrupt, text).into())
}

/// What damage took can only come from another voter (docs/design/001).
fn check_repairable((me, group): (NodeId, GroupId), recovered: &Recovered, disks: Disks<'_>) -> Result<(), StartError> {
    let end = recovered.log.last();
    let in_snapshot = recovered.snapshot.as_ref().map(|meta| &meta.membership);
    let known = recovered.memberships.last().map(|(_, membership)| membership).or(in_snapshot);
    let alone = is_alone((me, disks.incarnation), known, false, disks.has_met_peers);
    if recovered.promised_end <= end || known.is_none() || !alone {
        return Ok(());
    }
    let text = format!(
        "{group} lost its entries after {end}, up to {}, to damage, and there is no other voter to give them back: restore \
         the data directory from a backup, or give the entries up with `quorate recover`",
        recovered.promised_end
    );
    Err(StorageError::new(StorageErrorKind::Corrupt, text).into())
}

/// A crash between the durable snapshot and the log's reset leaves a log that does not fit: it keeps its tail only
/// if it holds the snapshot's last entry (law 11).
fn fit_to_snapshot(log: &dyn RaftLogStorage, group: GroupId, recovered: &mut Recovered, end: LogId) {
    if recovered.log.holds(end) {
        return;
    }
    // Write ids of the core start at 1, and every later write is durable only after this one.
    blame::storage(|| log.submit(group, WriteId(0), LogWrite::Reset { to: end, tail: Tail::Discard }));
    recovered.log = LogIds::after(end);
    recovered.memberships.clear();
}

/// The time of the log's last entry.
fn last_time(log: &dyn RaftLogStorage, group: GroupId, ids: &LogIds) -> Result<u64, StartError> {
    let last = ids.last();
    let Some(prev) = last.index.checked_sub(1).and_then(|index| ids.at(index)).filter(|_| last != ids.purged()) else {
        return Ok(0);
    };
    let found = blame::storage(|| log.read(group, Span { prev, last }, 1))?;
    let entries = found.iter().flatten().flat_map(|batch| batch.iter());
    Ok(entries.map(|entry| entry.time).max().unwrap_or(0))
}

fn assemble<S: RaftStateMachine>(
    host: &Arc<HostInner>,
    id: GroupId,
    found: Found<S>,
    completed: Arc<Completed>,
    reports: &Reports,
) -> Result<Arc<Group<S>>, StartError> {
    let seed = random_u128()? as u64;
    let meters = Arc::new(GroupMeters::new(host.id, id, Some(host.clock)));
    let (applies, recovered, last_time) =
        found.into_applies(Arc::clone(&meters), Arc::clone(&host.storage.log), Arc::clone(&host.storage.snapshots));
    let proposals = Arc::new(ProposalQueue::new());
    let driver = DriverParts {
        config: host.config.to_core(host.id, host.incarnation, seed),
        group: id,
        cluster: host.cluster(),
        recovered,
        last_time,
        tail_bytes: host.config.tail_cache_bytes,
        storage: Arc::clone(&host.storage.log),
        network: Arc::clone(&host.network),
        proposals: Arc::clone(&proposals) as Arc<dyn crate::group::Proposals>,
        completed,
        meters: Arc::clone(&meters),
    };
    let parts = NodeParts {
        me: host.id,
        group: id,
        clock: host.clock,
        wall: Arc::clone(&host.wall),
        runtime: host.runtime.clone(),
        write_timeout: host.config.write_timeout,
        read_patience: host.config.election_timeout_max,
        storage: Arc::clone(&host.storage.log),
        snapshots: Arc::clone(&host.storage.snapshots),
        network: Arc::clone(&host.network),
        proposals: Arc::clone(&proposals) as Arc<dyn crate::group::Proposals>,
        applies: Arc::clone(&applies) as Arc<dyn crate::group::Applies>,
        metrics: watch::Sender::new(blank_metrics(host.id, id)),
        meters,
    };
    let node = Node::new(parts, driver);
    // Both were just made: nobody set them before.
    let shell = Arc::clone(&node) as Arc<dyn Shell>;
    let _ = applies.shell.set(Arc::downgrade(&shell));
    let _ = reports.node.set(Arc::downgrade(&node));
    let metered = Arc::clone(&node) as Arc<dyn Metered>;
    host.registry.add_group(Arc::downgrade(&metered));
    Ok(Arc::new(Group { host: Arc::clone(host), node, proposals, applies }))
}
