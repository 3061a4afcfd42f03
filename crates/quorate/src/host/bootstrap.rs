//! How a blank node finds its cluster, or becomes the first of a new one (law 14).
//!
//! A blank node asks every listed peer for its standing, in rounds. Only if every one of them answers "blank" in
//! the same round does the one with the lowest id make a cluster of them. A node that was named by a peer with
//! state takes over that peer's cluster id; a node that was not asks to be made a learner. Silence decides nothing.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::{ClusterId, Incarnation, LogId, Membership, Node as Member, NodeId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::HostInner;
use crate::blame;
use crate::call::{Call, Standing};
use crate::driver::Input;
use crate::error::list_of;
use crate::events::MEMBERSHIP;
use crate::group::Node;
use crate::identity::random_u128;
use crate::{ClosedReason, InitializeError, Refusal};

/// A round that is not answered for this long is over.
const ROUND_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause between rounds: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// What is waited for is said this often.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// What a peer said of itself and of the asker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) standing: Standing,
    pub(crate) cluster: ClusterId,
    pub(crate) incarnation: Incarnation,
    pub(crate) leader: Option<NodeId>,
}

/// Runs until the node belongs to a cluster and its group has state, or is closed.
pub(super) async fn run(host: Arc<HostInner>, node: Arc<Node>) {
    let mut pause = PAUSE.0;
    let mut said: Option<Instant> = None;
    loop {
        if node.closed().is_some() || (!node.is_blank() && host.cluster() != ClusterId(0)) {
            return;
        }
        let ended = round(&host, &node).await;
        if let Round::Waits(text) = &ended {
            node.set_awaits(text.clone());
        }
        match ended {
            Round::Progress => pause = PAUSE.0,
            Round::Waits(text) if pause >= PAUSE.1 && said.is_none_or(|at| at.elapsed() >= SAY_EVERY) => {
                said = Some(Instant::now());
                let (node, group) = (host.id.0, node.group.0);
                tracing::info!(name: "cluster_awaited", target: MEMBERSHIP, node, group, "blank: {text}");
            }
            Round::Waits(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            () = host.stranger.notified() => {}
        }
    }
}

/// How a round ended.
enum Round {
    Progress,
    /// For this, in words.
    Waits(String),
}

async fn round(host: &Arc<HostInner>, node: &Arc<Node>) -> Round {
    let mut ids = host.strangers();
    ids.extend(host.peers.keys().copied());
    ids.remove(&host.id);
    let answers = ask_all(host, node, &ids.iter().copied().collect::<Vec<_>>()).await;
    let with_state = answers.iter().filter(|(_, answer)| answer.standing != Standing::Blank && answer.cluster.0 != 0);
    // A node of before a recovery may still run somewhere: the last recovery is the cluster (law 16).
    let with_state = with_state.max_by_key(|(id, answer)| (answer.cluster.recovery(), Reverse(**id)));
    if let Some((peer, answer)) = with_state {
        return follow(host, node, *peer, *answer).await;
    }
    let silent: Vec<_> = host.peers.keys().filter(|id| **id != host.id && !answers.contains_key(id)).collect();
    if host.peers.is_empty() {
        return Round::Waits("waiting to be initialized, or to be added to a cluster".into());
    }
    if !silent.is_empty() {
        return Round::Waits(format!("waiting for an answer of nodes {} before a cluster is made", list_of(silent)));
    }
    let lowest = host.peers.keys().next().copied();
    if lowest != Some(host.id) {
        return Round::Waits(format!("waiting for node {} to make the cluster", lowest.unwrap_or_default()));
    }
    let mine = host.cluster();
    if let Some((id, _)) = answers.iter().find(|(_, answer)| answer.cluster.0 != 0 && answer.cluster != mine) {
        let text = format!("node {id} is blank but belongs to another cluster: wipe its directory, or join that one");
        return Round::Waits(text);
    }
    let voters = host.peers.iter().map(|(id, member)| {
        let incarnation = answers.get(id).map_or(host.incarnation, |answer| answer.incarnation);
        (*id, incarnation, member.clone())
    });
    let first = Membership { settings: host.settings, ..Membership::majority(voters) };
    match found(host, node, first).await {
        Ok(_) => {
            node.become_founder();
            Round::Progress
        }
        Err(error) => Round::Waits(error.to_string()),
    }
}

/// A peer has state: become a member of its cluster.
async fn follow(host: &Arc<HostInner>, node: &Arc<Node>, peer: NodeId, answer: Answer) -> Round {
    let member = match answer.standing {
        Standing::Blank => false,
        Standing::Named => true,
        Standing::NamedOtherwise => {
            tracing::warn!(
                name: "named_otherwise", target: MEMBERSHIP, node = host.id.0, group = node.group.0,
                "the cluster knows this node with another disk; `on_lost_log` says what becomes of it"
            );
            true
        }
        Standing::NotNamed => join(host, node, answer.leader.unwrap_or(peer)).await,
    };
    if !member {
        return Round::Waits(format!("asking node {} to be made a learner", answer.leader.unwrap_or(peer)));
    }
    if host.cluster() == answer.cluster {
        return Round::Waits("waiting for the leader".into());
    }
    match host.adopt(answer.cluster).await {
        Ok(()) => {
            let (node, group, cluster) = (host.id.0, node.group.0, answer.cluster);
            tracing::info!(name: "cluster_joined", target: MEMBERSHIP, node, group, %cluster, "joined the cluster");
            Round::Progress
        }
        Err(error) => Round::Waits(error.to_string()),
    }
}

/// Asks to be made a learner; returns whether it is one.
async fn join(host: &Arc<HostInner>, node: &Arc<Node>, leader: NodeId) -> bool {
    let address = host.address.clone();
    let mut asked = host.calls.ask(&*host.network, leader, |id, _| Call::Join { group: node.group, id, address });
    let answer = tokio::time::timeout(host.config.write_timeout, asked.answer()).await;
    matches!(answer, Ok(Some(Call::Joined { done: true, .. })))
}

/// Asks these nodes for their standing; the ones that do not answer in time are left out.
pub(crate) async fn ask_all(host: &HostInner, node: &Node, ids: &[NodeId]) -> BTreeMap<NodeId, Answer> {
    let deadline = Instant::now() + ROUND_TIMEOUT;
    let mut asked = Vec::with_capacity(ids.len());
    for id in ids {
        let (group, cluster, incarnation, address) =
            (node.group, host.cluster(), host.incarnation, host.address.clone());
        let probe = move |id, _| Call::Probe { group, id, cluster, incarnation, address };
        asked.push((*id, host.calls.ask(&*host.network, *id, probe)));
    }
    let mut answers = BTreeMap::new();
    for (id, mut asked) in asked {
        let answer = tokio::time::timeout_at(deadline, asked.answer()).await;
        if let Ok(Some(Call::Standing { standing, cluster, incarnation, leader, .. })) = answer {
            answers.insert(id, Answer { standing, cluster, incarnation, leader });
        }
    }
    answers
}

/// Makes a cluster with this first membership.
pub(crate) async fn found(
    host: &Arc<HostInner>,
    node: &Arc<Node>,
    membership: Membership,
) -> Result<LogId, InitializeError> {
    // A cluster id is for ever: nothing that could refuse the membership may come after it.
    if !membership.is_voter_as(host.id, host.incarnation) {
        return Err(InitializeError::Refused(Refusal::NotAmongVoters));
    }
    membership.check(host.config.leader_id_mode).map_err(|error| InitializeError::Refused(Refusal::BadRule(error)))?;
    if !node.is_blank() {
        return Err(InitializeError::Refused(Refusal::AlreadyInitialized));
    }
    if host.cluster() == ClusterId(0) {
        let random = random_u128().map_err(|error| {
            InitializeError::Storage(crate::StorageError::new(crate::StorageErrorKind::Io, error.to_string()))
        })?;
        host.adopt(ClusterId::from_random(random)).await.map_err(InitializeError::Storage)?;
    }
    let (reply, result) = oneshot::channel();
    // The cluster id was pushed first, so the first entry is already stamped with it.
    node.bring(Input::Initialize { membership, reply });
    let founded = match result.await {
        Ok(founded) => founded,
        Err(_) => Err(InitializeError::Closed(node.closed().cloned().unwrap_or(ClosedReason::Shutdown))),
    };
    if founded.is_ok() {
        let (node, group, cluster) = (host.id.0, node.group.0, host.cluster());
        tracing::info!(name: "cluster_made", target: MEMBERSHIP, node, group, %cluster, "made a cluster");
    }
    founded
}

/// Makes a cluster of these members, which must all answer, and be blank.
pub(crate) async fn initialize(
    host: &Arc<HostInner>,
    node: &Arc<Node>,
    members: BTreeMap<NodeId, Member>,
) -> Result<LogId, InitializeError> {
    let others: Vec<NodeId> = members.keys().copied().filter(|id| *id != host.id).collect();
    for (id, member) in members.iter().filter(|(id, _)| **id != host.id) {
        blame::told((), || host.network.set_address(*id, &member.address));
    }
    let deadline = Instant::now() + host.config.write_timeout;
    let answers = loop {
        if host.is_closed() || node.closed().is_some() {
            return Err(InitializeError::Closed(node.closed().cloned().unwrap_or(ClosedReason::Shutdown)));
        }
        let answers = ask_all(host, node, &others).await;
        let elsewhere = |answer: &Answer| answer.cluster.0 != 0 && answer.cluster != host.cluster();
        let taken = |answer: &Answer| answer.standing != Standing::Blank || elsewhere(answer);
        if let Some((id, _)) = answers.iter().find(|(_, answer)| taken(answer)) {
            return Err(InitializeError::HasState(*id));
        }
        let silent: Vec<_> = others.iter().copied().filter(|id| !answers.contains_key(id)).collect();
        if silent.is_empty() {
            break answers;
        }
        if Instant::now() >= deadline {
            return Err(InitializeError::Silent(silent));
        }
        tokio::time::sleep(PAUSE.1).await;
    };
    let voters = members.into_iter().map(|(id, member)| {
        let incarnation = answers.get(&id).map_or(host.incarnation, |answer| answer.incarnation);
        (id, incarnation, member)
    });
    let first = Membership { settings: host.settings, ..Membership::majority(voters) };
    // From here on it has as much time again: with disks that hang it would have no end.
    let founded = tokio::time::timeout(host.config.write_timeout, found(host, node, first)).await;
    founded.unwrap_or(Err(InitializeError::OutcomeUnknown))
}
