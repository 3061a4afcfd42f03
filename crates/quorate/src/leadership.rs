//! Who leads: [`Raft::as_leader`], [`Raft::on_leader_change`], and the triggers of elections and heartbeats.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_core::{Event, LeaderId, Phase, ReadPolicy};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{timeout, timeout_at};

use crate::deadline::from_now;
use crate::driver::{Input, Leading};
use crate::group::Freshness;
use crate::raft::Group;
use crate::{ClosedReason, LeadershipError, Raft, RaftMetrics, RaftStateMachine, Role, Trigger};

/// That this node leads; from [`Raft::as_leader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// What it leads under; see [`WriteBuilder::with_leader`](crate::WriteBuilder::with_leader).
    pub leader_id: LeaderId,
    /// A quorum followed it at this moment, or later; `None` before one did.
    pub quorum_acked: Option<Instant>,
}

impl<S: RaftStateMachine> Raft<S> {
    /// What this node leads under, and when a quorum last followed it.
    ///
    /// As of this moment, by its core: a leader that is cut off says so as well, and its `quorum_acked` lies back.
    /// What is decided on the answer is best [written under it](crate::WriteBuilder::with_leader).
    ///
    /// It waits for nobody but the core's own turn, and for that up to [`Config::read_timeout`](crate::Config::read_timeout).
    ///
    /// # Errors
    /// [`LeadershipError::NotLeader`] names the leader this node follows, [`LeadershipError::Closed`] why it is over;
    /// [`LeadershipError::TimedOut`].
    pub async fn as_leader(&self) -> Result<Leadership, LeadershipError> {
        self.as_leader_within(self.group.host.config.read_timeout).await
    }

    async fn as_leader_within(&self, after: Duration) -> Result<Leadership, LeadershipError> {
        let node = &self.group.node;
        let (reply, told) = oneshot::channel();
        node.bring(Input::AskLeading { reply });
        let Leading { leader_id, quorum_acked } = match timeout(after, told).await {
            Ok(Ok(Ok(leading))) => leading,
            Ok(Ok(Err(leader))) => return Err(LeadershipError::NotLeader { leader }),
            Ok(Err(_closed)) => return Err(LeadershipError::Closed(self.group.closed_reason())),
            Err(_elapsed) => return Err(LeadershipError::TimedOut { after }),
        };
        Ok(Leadership { leader_id, quorum_acked: quorum_acked.map(|at| node.clock.at(at)) })
    }

    /// Calls `start` when this node begins to lead, and `stop` when it leads no more under that leader id, each
    /// with the leader id; waits for one to end before it calls the next.
    ///
    /// They alternate, beginning with `start`, and each `start` gets its `stop`: also if the next leader is this node
    /// again under another id, when the group is closed, and when the handle is [closed](LeaderChanges::close). A
    /// leadership that ends before it is noticed is left out. If this node leads already, `start` is called at once.
    ///
    /// They run on a task of their own. Others may lead before `stop` is called: what must not overlap is to be
    /// [written under the leader id](crate::WriteBuilder::with_leader). If a call panics there are no more.
    ///
    /// ```
    /// # use quorate::{Raft, RaftStateMachine};
    /// # async fn follow<S: RaftStateMachine>(raft: &Raft<S>) {
    /// let changes = raft.on_leader_change(
    ///     |leader_id| async move { println!("leads under {leader_id}: starts to clean up") },
    ///     |leader_id| async move { println!("leads under {leader_id} no more: stops") },
    /// );
    /// // Until then, or until the group is closed:
    /// changes.close().await;
    /// # }
    /// ```
    pub fn on_leader_change<A, B>(
        &self,
        start: impl FnMut(LeaderId) -> A + Send + 'static,
        stop: impl FnMut(LeaderId) -> B + Send + 'static,
    ) -> LeaderChanges
    where
        A: Future<Output = ()> + Send + 'static,
        B: Future<Output = ()> + Send + 'static,
    {
        let (close, closing) = oneshot::channel();
        let task = self.group.node.runtime.spawn(tell_changes(self.metrics(), closing, start, stop));
        LeaderChanges { close, task }
    }
}

/// Tells of changes of leadership until it is closed; from [`Raft::on_leader_change`]. Dropped, it goes on until the
/// group is closed.
#[derive(Debug)]
pub struct LeaderChanges {
    close: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl LeaderChanges {
    /// Calls neither function any more; returns after the last call, which is a `stop` if this node leads.
    pub async fn close(self) {
        // The task may have ended with the group, or by a panic of a call.
        let _ = self.close.send(());
        drop(self.task.await);
    }
}

/// What a node leads under, as its metrics say.
fn leads_as(metrics: &RaftMetrics) -> Option<LeaderId> {
    (metrics.role == Role::Leader && metrics.closed.is_none()).then_some(metrics.vote.leader_id)
}

async fn tell_changes<A: Future<Output = ()>, B: Future<Output = ()>>(
    mut metrics: watch::Receiver<RaftMetrics>,
    closing: oneshot::Receiver<()>,
    mut start: impl FnMut(LeaderId) -> A,
    mut stop: impl FnMut(LeaderId) -> B,
) {
    // A handle that was dropped never closes.
    let closing = async {
        if closing.await.is_err() {
            std::future::pending().await
        }
    };
    tokio::pin!(closing);
    let mut told = None;
    loop {
        let (now, over) = {
            let metrics = metrics.borrow_and_update();
            (leads_as(&metrics), metrics.closed.is_some())
        };
        if now != told {
            if let Some(earlier) = told {
                stop(earlier).await;
            }
            if let Some(leader_id) = now {
                start(leader_id).await;
            }
            told = now;
        }
        if over {
            return;
        }
        tokio::select! {
            biased;
            () = &mut closing => break,
            changed = metrics.changed() => if changed.is_err() { break },
        }
    }
    if let Some(earlier) = told {
        stop(earlier).await;
    }
}

impl<S: RaftStateMachine> Trigger<'_, S> {
    /// Campaigns, if this node votes and does not lead: [`Phase::Pre`] asks first how it would end, [`Phase::Real`]
    /// raises the term at once. Nodes that hear from a live leader refuse both; see
    /// [`transfer_leader`](Self::transfer_leader). Returns what this node leads under, once it does.
    ///
    /// The campaign begins with this call, and is not ended with the future, which waits for
    /// [`Config::election_timeout_max`](crate::Config::election_timeout_max) at most, or as [`within`](Self::within)
    /// says: it may still be won later.
    ///
    /// # Errors
    /// [`LeadershipError::NotVoter`] at once; [`LeadershipError::NotElected`] if another node was elected meanwhile, or
    /// no quorum granted it in time.
    pub fn elect(&self, phase: Phase) -> impl Future<Output = Result<LeaderId, LeadershipError>> + Send + use<S> {
        let group = Arc::clone(&self.raft.group);
        let before = group.node.accepted();
        let metrics = self.raft.metrics();
        let patience = self.patience.unwrap_or(group.host.config.election_timeout_max);
        let votes = group.node.membership().is_voter(group.node.me);
        if votes {
            group.node.bring(Input::Event(Event::Elect { phase }));
        }
        async move {
            match votes {
                true => elected(&group, metrics, before, patience).await,
                false => Err(LeadershipError::NotVoter),
            }
        }
    }

    /// Starts a heartbeat round; returns once a quorum followed this leader in a round that began after this call, with
    /// the leader id. Only on the leader.
    ///
    /// # Errors
    /// [`LeadershipError::NotLeader`]; [`LeadershipError::NoQuorum`] if none did within
    /// [`Config::election_timeout_max`](crate::Config::election_timeout_max), or as long as [`within`](Self::within)
    /// says; [`LeadershipError::TimedOut`] if this node itself had no answer by then.
    pub async fn heartbeat(&self) -> Result<LeaderId, LeadershipError> {
        let group = &self.raft.group;
        let after = self.patience.unwrap_or(group.host.config.election_timeout_max);
        let deadline = from_now(after);
        let leader_id = self.raft.as_leader_within(after).await?.leader_id;
        group.node.bring(Input::Event(Event::Heartbeat));
        // A round that confirms a read confirms the leader.
        let confirmed = timeout_at(deadline.into(), group.ask_freshness(ReadPolicy::ReadIndex)).await;
        // As of the turn that answered, or of the last one before the deadline.
        let leads_on = group.node.leads() && group.node.accepted() == leader_id;
        match confirmed {
            Ok(Freshness::Closed(reason)) => Err(LeadershipError::Closed(reason)),
            _ if !leads_on => Err(LeadershipError::NotLeader { leader: group.node.leader() }),
            Ok(Freshness::At(_)) => Ok(leader_id),
            Ok(Freshness::Refused(_)) | Err(_) => Err(LeadershipError::NoQuorum { after }),
        }
    }
}

/// How a campaign ends; `before` was the last leader id accepted when it began.
async fn elected<S: RaftStateMachine>(
    group: &Group<S>,
    mut metrics: watch::Receiver<RaftMetrics>,
    before: LeaderId,
    patience: Duration,
) -> Result<LeaderId, LeadershipError> {
    let ended = metrics.wait_for(|now| {
        let later = now.vote.committed && now.vote.leader_id != before && now.current_leader.is_some();
        leads_as(now).is_some() || later || now.closed.is_some()
    });
    let now = match timeout(patience, ended).await {
        Ok(Ok(now)) => now.clone(),
        Ok(Err(_gone)) => return Err(LeadershipError::Closed(ClosedReason::Shutdown)),
        Err(_elapsed) => return Err(LeadershipError::NotElected { leader: group.node.leader() }),
    };
    match (now.closed.clone(), leads_as(&now)) {
        (Some(reason), _) => Err(LeadershipError::Closed(reason)),
        (None, Some(leader_id)) => Ok(leader_id),
        (None, None) => Err(LeadershipError::NotElected { leader: now.current_leader }),
    }
}
