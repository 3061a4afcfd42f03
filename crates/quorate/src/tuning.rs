//! Changing the tunables of a node while it runs.

use std::time::Duration;

use quorate_core::{ConfigError, Toggle};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::driver::{Input, Switch, Tune};
use crate::{Config, Raft, RaftStateMachine, ReconfigureError};

impl<S: RaftStateMachine> Raft<S> {
    /// The tunables of this group on this node, as they are now.
    ///
    /// # Errors
    /// [`ReconfigureError::Closed`]; [`ReconfigureError::TimedOut`] after
    /// [`Config::read_timeout`](crate::Config::read_timeout).
    pub async fn config(&self) -> Result<Config, ReconfigureError> {
        let start = &self.group.host.config;
        let core = self.tune(Tune::Tell, start.read_timeout).await?;
        Ok(start.with_core(&core))
    }

    /// Waits for nobody but the driver's own turn.
    async fn tune<T>(
        &self,
        tune: impl FnOnce(oneshot::Sender<T>) -> Tune,
        after: Duration,
    ) -> Result<T, ReconfigureError> {
        let (reply, told) = oneshot::channel();
        self.group.node.bring(Input::Tune(tune(reply)));
        match timeout(after, told).await {
            Ok(Ok(told)) => Ok(told),
            Ok(Err(_closed)) => Err(ReconfigureError::Closed(self.group.closed_reason())),
            Err(_elapsed) => Err(ReconfigureError::TimedOut { after }),
        }
    }

    /// Changes the tunables of this group on this node: time-outs, windows, snapshot policy and switches hold at
    /// once. They are not kept: a node that starts again has those that it is started with.
    ///
    /// Change time-outs on all nodes before you rely on them: followers whose `election_timeout_min` is shorter than
    /// the leader's heartbeats campaign.
    ///
    /// # Errors
    /// If the values do not go together, or one differs that is fixed at the start: `leader_id_mode`,
    /// `snapshot_max_bytes_per_second`, `write_timeout`, `read_timeout`, `max_command_bytes`, `proposal_window_bytes`,
    /// `tail_cache_bytes`. Nothing changes then. [`ReconfigureError::TimedOut`] after
    /// [`Config::write_timeout`](crate::Config::write_timeout).
    pub async fn reconfigure(&self, config: Config) -> Result<(), ReconfigureError> {
        check_tunables(&self.group.host.config, &config)?;
        let host = &self.group.host;
        let config = Box::new(config.to_core(host.id, host.incarnation, 0));
        let set = self.tune(|reply| Tune::Set { config, reply }, host.config.write_timeout).await?;
        set.map_err(ReconfigureError::Config)
    }

    /// Switches what this node does by itself, while it runs.
    pub fn runtime_config(&self) -> RuntimeConfig<'_, S> {
        RuntimeConfig { raft: self }
    }
}

/// Whether a node that was started with `start` may go on with these tunables.
pub(crate) fn check_tunables(start: &Config, config: &Config) -> Result<(), ReconfigureError> {
    config.check().map_err(ReconfigureError::Config)?;
    if let Some(field) = start.fixed_field_of(config) {
        let must = "stay as it was when the node was started";
        return Err(ReconfigureError::Config(ConfigError { field, must }));
    }
    Ok(())
}

/// Switches what a node does by itself; made by [`Raft::runtime_config`].
#[derive(Debug)]
pub struct RuntimeConfig<'a, S: RaftStateMachine> {
    raft: &'a Raft<S>,
}

impl<S: RaftStateMachine> RuntimeConfig<'_, S> {
    fn switch(&self, switch: Switch, to: Toggle) {
        self.raft.group.node.bring(Input::Tune(Tune::Switch { switch, to }));
    }

    /// Whether time-outs are handled at all; see [`Config::tick`].
    pub fn tick(&self, to: Toggle) {
        self.switch(Switch::Tick, to);
    }

    /// Whether this node, as leader, shows by itself that it lives; see [`Config::heartbeat`].
    pub fn heartbeat(&self, to: Toggle) {
        self.switch(Switch::Heartbeat, to);
    }

    /// Whether this node campaigns by itself; see [`Config::elect`].
    pub fn elect(&self, to: Toggle) {
        self.switch(Switch::Elect, to);
    }

    /// Whether this node asks how an election would end before it starts one; see [`Config::pre_vote`].
    pub fn pre_vote(&self, to: Toggle) {
        self.switch(Switch::PreVote, to);
    }
}
