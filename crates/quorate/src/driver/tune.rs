//! Tunables that change while the node runs.

use quorate_core::{ConfigError, Toggle};
use tokio::sync::oneshot;

use super::Driver;
use crate::group::Fired;

/// What someone wants of the tunables.
pub(crate) enum Tune {
    /// To know them.
    Tell(oneshot::Sender<quorate_core::Config>),
    /// To replace them.
    Set { config: Box<quorate_core::Config>, reply: oneshot::Sender<Result<(), ConfigError>> },
    /// To switch one of them.
    Switch { switch: Switch, to: Toggle },
}

/// A tunable that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    Tick,
    Heartbeat,
    Elect,
    PreVote,
}

impl Driver {
    pub(super) fn on_tune(&mut self, tune: Tune, fired: &mut Fired) {
        match tune {
            Tune::Tell(reply) => {
                let config = self.core.config().clone();
                fired.call(move || drop(reply.send(config)));
            }
            Tune::Set { config, reply } => {
                let result = self.reconfigure(*config);
                fired.call(move || drop(reply.send(result)));
            }
            Tune::Switch { switch, to } => {
                let mut config = self.core.config().clone();
                match switch {
                    Switch::Tick => config.tick = to,
                    Switch::Heartbeat => config.heartbeat = to,
                    Switch::Elect => config.elect = to,
                    Switch::PreVote => config.pre_vote = to,
                }
                let switched = self.reconfigure(config);
                debug_assert!(switched.is_ok(), "switches go together with everything");
            }
        }
    }

    fn reconfigure(&mut self, config: quorate_core::Config) -> Result<(), ConfigError> {
        self.core.reconfigure(config)?;
        #[cfg(feature = "sim")]
        if let Some(observer) = &mut self.observer {
            observer.tuned(self.core.config());
        }
        self.max_proposed = self.core.config().max_inflight_appends;
        Ok(())
    }
}
