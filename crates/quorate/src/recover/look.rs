//! Looking: what the survivors' directories hold, and which members answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_core::{ClusterId, GroupId, Incarnation, LogId, LogIds, Membership, NodeId, Vote};
use quorate_net::{LocalIdentity, ProbeAnswer, probe};
use quorate_wal::{Disk, Identity, inspect};
use tokio::task::JoinSet;

use super::RecoverError;

/// A survivor's directory.
#[derive(Clone, Debug)]
pub struct FoundDirectory {
    /// Where it is.
    pub directory: PathBuf,
    /// Its node.
    pub node: NodeId,
    /// Its disk.
    pub incarnation: Incarnation,
    /// Its cluster, with the recovery.
    pub cluster: ClusterId,
    /// Its groups that have a membership, by id.
    pub groups: BTreeMap<GroupId, FoundGroup>,
    pub(super) identity: Identity,
}

/// What a directory holds of a group.
#[derive(Clone, Debug)]
pub struct FoundGroup {
    /// The last vote.
    pub vote: Vote,
    /// The end of the log.
    pub last_log_id: LogId,
    /// The log starts after this.
    pub purged: LogId,
    /// The end of the newest snapshot: up to here everything is known to be committed and was applied. What was known
    /// beyond is not on disk.
    pub snapshot: LogId,
    /// The membership in force, and before it the one that it may yet give way to, if it is not known to be committed.
    pub memberships: Vec<(LogId, Membership)>,
    log: LogIds,
}

impl FoundGroup {
    /// Whether it holds this entry, which is known to be committed.
    pub(super) fn holds(&self, id: LogId) -> bool {
        id.index <= self.snapshot.index || self.log.holds(id)
    }

    /// The membership in force, and its log id.
    pub fn membership(&self) -> Option<&(LogId, Membership)> {
        self.memberships.last()
    }
}

/// What was heard of a member that is none of the directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAnswer {
    /// Nobody answers at its address, for this reason.
    Nobody(String),
    /// Its address is not known.
    NoAddress,
    /// It answers, as this disk of this cluster.
    Answers {
        /// The cluster it belongs to; zero if it is blank.
        cluster: ClusterId,
        /// Its disk.
        incarnation: Incarnation,
    },
    /// Another node answers at its address.
    OtherNode(NodeId),
    /// Something listens at its address and does not say who it is.
    Unclear(String),
}

pub(super) async fn look(disk: Arc<dyn Disk>, directories: Vec<PathBuf>) -> Result<Vec<FoundDirectory>, RecoverError> {
    if directories.is_empty() {
        return Err(RecoverError::NoDirectories);
    }
    let mut found: Vec<FoundDirectory> = Vec::new();
    for directory in directories {
        let (at, disk) = (directory.clone(), Arc::clone(&disk));
        let looked = tokio::task::spawn_blocking(move || look_at(&disk, &at)).await;
        let one = looked.unwrap_or_else(|_| {
            Err(RecoverError::Directory { directory, text: "the runtime is shutting down".into() })
        })?;
        take_in(&mut found, one)?;
    }
    Ok(found)
}

/// One more directory, in the order of nodes.
pub(super) fn take_in(found: &mut Vec<FoundDirectory>, one: FoundDirectory) -> Result<(), RecoverError> {
    if found.iter().any(|other| other.node == one.node) {
        return Err(RecoverError::SameNode { node: one.node });
    }
    if let Some(other) = found.first().filter(|other| other.cluster != one.cluster) {
        let (found, wanted) = (one.cluster, other.cluster);
        return Err(RecoverError::OtherCluster { directory: one.directory, found, wanted });
    }
    found.push(one);
    found.sort_by_key(|one| one.node);
    Ok(())
}

pub(super) fn look_at(disk: &Arc<dyn Disk>, directory: &Path) -> Result<FoundDirectory, RecoverError> {
    let found = inspect(disk, directory).map_err(|error| RecoverError::of_directory(directory, &error))?;
    let mut groups = BTreeMap::new();
    for (group, state, snapshot) in found.groups {
        let snapshot = snapshot.unwrap_or_default();
        let known = snapshot.last_log_id.index;
        let mut memberships = vec![(snapshot.membership_log_id, snapshot.membership)];
        memberships.extend(state.memberships);
        memberships.retain(|(_, membership)| !membership.is_empty());
        // At most the last membership is not committed (law 12): then the one before it may yet be in force.
        let in_doubt = memberships.last().is_some_and(|(id, _)| id.index > known);
        memberships.drain(..memberships.len().saturating_sub(1 + usize::from(in_doubt)));
        if memberships.is_empty() {
            continue;
        }
        let (last_log_id, purged) = (state.log.last(), state.log.purged());
        let (vote, log, snapshot) = (state.vote, state.log, snapshot.last_log_id);
        groups.insert(group, FoundGroup { vote, last_log_id, purged, snapshot, memberships, log });
    }
    let identity = found.identity;
    if identity.cluster == ClusterId(0) || groups.is_empty() {
        return Err(RecoverError::Blank { directory: directory.to_path_buf(), node: identity.node });
    }
    Ok(FoundDirectory {
        directory: directory.to_path_buf(),
        node: identity.node,
        incarnation: identity.incarnation,
        cluster: identity.cluster,
        groups,
        identity,
    })
}

/// Every member of any group that is none of the directories, and its address.
pub(super) fn others_of(found: &[FoundDirectory]) -> BTreeMap<NodeId, String> {
    let mut addresses: BTreeMap<NodeId, String> = BTreeMap::new();
    for (_, membership) in found.iter().flat_map(|one| one.groups.values()).flat_map(|group| &group.memberships) {
        addresses.extend(membership.nodes.iter().map(|(id, node)| (*id, node.address.clone())));
    }
    addresses.retain(|id, _| found.iter().all(|one| one.node != *id));
    addresses
}

/// Asks every member of any group that is none of the directories, all at once.
pub(super) async fn ask(found: &[FoundDirectory], patience: Duration) -> BTreeMap<NodeId, (String, PeerAnswer)> {
    let addresses = others_of(found);
    let Some(asker) = found.first() else { return BTreeMap::new() };
    let Identity { cluster, node, incarnation, starts, mode, .. } = asker.identity;
    let local = LocalIdentity { cluster, node, incarnation, starts, mode };
    let mut asked = JoinSet::new();
    for (id, address) in addresses {
        asked.spawn(async move {
            let answer = match address.is_empty() {
                true => PeerAnswer::NoAddress,
                false => answer_of(id, probe(&local, id, &address, patience).await),
            };
            (id, (address, answer))
        });
    }
    let mut answers = BTreeMap::new();
    while let Some(joined) = asked.join_next().await {
        answers.extend(joined);
    }
    answers
}

fn answer_of(id: NodeId, answer: ProbeAnswer) -> PeerAnswer {
    match answer {
        ProbeAnswer::Nobody(text) => PeerAnswer::Nobody(text),
        ProbeAnswer::Unclear(text) => PeerAnswer::Unclear(text),
        ProbeAnswer::Node(identity) if identity.node != id => PeerAnswer::OtherNode(identity.node),
        ProbeAnswer::Node(identity) => {
            PeerAnswer::Answers { cluster: identity.cluster, incarnation: identity.incarnation }
        }
    }
}
