//! Changing the membership of a group: [`Raft::change_membership`] and what comes with it.

use std::time::Instant;

use quorate_core::{ChangeMembers, ChangeTerms, LogId, Node as Member, NodeId, Precondition, Refusal, Retain};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::driver::Input;
use crate::{ChangeError, Raft, RaftStateMachine, Role, Settings};

/// Whether [`Raft::add_learner`] waits until the learner has caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CatchUp {
    /// Returns once the learner is in the cluster; it catches up later.
    Skip,
    /// Returns once it could become a voter: it lags by at most
    /// [`Config::replication_lag_threshold`](crate::Config::replication_lag_threshold) entries, and knows what it may have
    /// promised. See [`PeerMetrics::caught_up`](crate::PeerMetrics::caught_up).
    Wait,
}

impl<S: RaftStateMachine> Raft<S> {
    /// Changes the membership; returns once the change is complete. Only on the leader, whom
    /// [`ChangeError::NotLeader`] names; its address is in the [metrics](Self::metrics)' membership.
    ///
    /// Waits for up to [`Config::write_timeout`](crate::Config::write_timeout) until the change can begin: for the end
    /// of another one, for new voters to be heard of and to catch up, for enough of the voters to be alive. New voters
    /// that are not in the cluster yet are learners meanwhile, and stay so if the time is over; [`PeerMetrics::lag`](crate::PeerMetrics::lag)
    /// shows their progress. Once it has begun it has as much time again to be complete: a cluster whose disks hang
    /// commits nothing, and does not keep its caller.
    ///
    /// A node that is removed may not hear of it: it knows no leader any more, and its reads and writes fail. Shut it down.
    ///
    /// ```
    /// # use quorate::{ChangeError, ChangeMembers, Node, NodeId, Raft, RaftStateMachine, Retain};
    /// # async fn replace<S: RaftStateMachine>(raft: &Raft<S>) -> Result<(), ChangeError> {
    /// let comes = ChangeMembers::AddVoters([(NodeId(4), Node::at("10.0.0.4:7000"))].into());
    /// let goes = ChangeMembers::RemoveVoters([NodeId(1)].into());
    /// match raft.change_membership(ChangeMembers::Batch(vec![comes, goes]), Retain::Remove).await {
    ///     Ok(entry) => println!("node 4 votes instead of node 1, by entry {entry}"),
    ///     Err(ChangeError::NotLeader { leader }) => println!("to be asked of {leader:?}"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn change_membership(&self, change: ChangeMembers, retain: Retain) -> Result<LogId, ChangeError> {
        self.change_membership_if(change, retain, Vec::new()).await
    }

    /// Changes the replicated settings, as a membership change that leaves the members as they are. Only on the leader.
    ///
    /// With [`LeasePolicy::LeaseReads`](crate::LeasePolicy::LeaseReads) the leader asks for leases from the moment the
    /// change is in its log, and serves [`ReadPolicy::LeaseRead`](crate::ReadPolicy::LeaseRead); voters keep what they
    /// promised also when a connection tells that the leader is gone, so failover waits for the lease to end. With
    /// [`LeasePolicy::FastFailover`](crate::LeasePolicy::FastFailover), the default, it does not, and lease reads are
    /// refused. A node goes by the change once it is in its log: one that lags may refuse lease reads a little longer.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn change_settings(&self, settings: Settings) -> Result<LogId, ChangeError> {
        self.change_membership(ChangeMembers::SetSettings(settings), Retain::AsLearners).await
    }

    /// As [`change_membership`](Self::change_membership), but only if all of this holds when the change enters the
    /// log: then it cannot undo what its caller has not seen.
    ///
    /// # Errors
    /// [`Refusal::PreconditionFailed`] names the first one that does not hold, and what is instead. See [`ChangeError`]
    /// for the others.
    pub async fn change_membership_if(
        &self,
        change: ChangeMembers,
        retain: Retain,
        preconditions: Vec<Precondition>,
    ) -> Result<LogId, ChangeError> {
        let patience = self.group.host.config.write_timeout;
        self.change_membership_with(change, retain, ChangeTerms { preconditions, patience, ..ChangeTerms::default() })
            .await
    }

    /// As [`change_membership`](Self::change_membership), with terms of the caller's own: preconditions, another
    /// patience, or without regard to whether the cluster can go on at once. It is answered within the patience and
    /// [`Config::write_timeout`](crate::Config::write_timeout) after it.
    ///
    /// # Errors
    /// [`ChangeError::OutcomeUnknown`] if it was not complete by then; it may be later. See [`ChangeError`] for the others.
    pub async fn change_membership_with(
        &self,
        change: ChangeMembers,
        retain: Retain,
        terms: ChangeTerms,
    ) -> Result<LogId, ChangeError> {
        let (reply, result) = oneshot::channel();
        let until_complete = terms.patience.saturating_add(self.group.host.config.write_timeout);
        self.group.node.bring(Input::Change { change, retain, terms, reply });
        match timeout(until_complete, result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ChangeError::Closed(self.group.closed_reason())),
            Err(_elapsed) => Err(ChangeError::OutcomeUnknown),
        }
    }

    /// Adds a node that receives the log but does not vote, and waits for it to catch up if asked to. Only on the
    /// leader. A node that is in the cluster already keeps its record.
    ///
    /// ```
    /// # use quorate::{CatchUp, ChangeError, ChangeMembers, Node, NodeId, Raft, RaftStateMachine, Retain};
    /// # async fn grow<S: RaftStateMachine>(raft: &Raft<S>) -> Result<(), ChangeError> {
    /// let entry = raft.add_learner(4, Node::at("10.0.0.4:7000"), CatchUp::Wait).await?;
    /// println!("in the cluster by entry {entry}, and not far behind: it can vote");
    /// raft.change_membership(ChangeMembers::AddVoterIds([NodeId(4)].into()), Retain::AsLearners).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Refusal::NotCaughtUp`] if [`Config::write_timeout`](crate::Config::write_timeout) is over before; it is a
    /// learner all the same, and goes on catching up. See [`ChangeError`] for the others.
    pub async fn add_learner(
        &self,
        id: impl Into<NodeId>,
        node: Member,
        catch_up: CatchUp,
    ) -> Result<LogId, ChangeError> {
        let id = id.into();
        let deadline = Instant::now() + self.group.host.config.write_timeout;
        let added = self.change_membership(ChangeMembers::AddNodes([(id, node)].into()), Retain::Remove).await?;
        match catch_up {
            CatchUp::Skip => {}
            CatchUp::Wait => self.wait_for_catch_up(id, added, deadline).await?,
        }
        Ok(added)
    }

    async fn wait_for_catch_up(&self, id: NodeId, added: LogId, deadline: Instant) -> Result<(), ChangeError> {
        let mut metrics = self.metrics();
        loop {
            let refusal = {
                let now = metrics.borrow_and_update();
                if let Some(reason) = &now.closed {
                    return Err(ChangeError::Closed(reason.clone()));
                }
                // Metrics from before it was added say nothing about it.
                let is_news = now.membership_log_id >= added;
                if is_news && now.role != Role::Leader {
                    return Err(ChangeError::NotLeader { leader: now.current_leader });
                }
                let peer = now.replication.iter().find(|peer| peer.id == id);
                if is_news && (id == now.id || peer.is_some_and(|peer| peer.caught_up)) {
                    return Ok(());
                }
                let matched = peer.map_or(LogId::ZERO, |peer| peer.matched);
                Refusal::NotCaughtUp { node: id, matched, last: now.last_log_id }
            };
            match tokio::time::timeout_at(deadline.into(), metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(ChangeError::Closed(self.group.closed_reason())),
                Err(_) => return Err(ChangeError::Refused(refusal)),
            }
        }
    }
}
