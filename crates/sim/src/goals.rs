//! What clients and the operator must have achieved somewhere in a search: what never happens is not tested.

use std::fmt;

use crate::workload::Workload;
use crate::world::World;

macro_rules! goals {
    ($($(#[doc = $what:literal])+ $goal:ident = $name:literal,)+) => {
        /// Something that a search must have seen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Goal {
            $($(#[doc = $what])+ $goal,)+
        }

        impl Goal {
            /// Every goal.
            pub const ALL: &[Goal] = &[$(Goal::$goal,)+];

            /// Its name, as printed.
            pub fn name(self) -> &'static str {
                match self {
                    $(Goal::$goal => $name,)+
                }
            }
        }
    };
}

goals! {
    /// A session was opened.
    SessionOpened = "session-opened",
    /// A command of a session was applied, and its client told.
    SessionWrite = "session-write",
    /// A command was answered after it had been sent more than once.
    SessionRetried = "session-retried",
    /// An answered command was sent again, and got the same answer.
    SessionEcho = "session-echo",
    /// A repeated command was refused because its answer was acknowledged.
    SessionAcknowledged = "session-acknowledged",
    /// A command of a closed or expired session was refused.
    SessionGone = "session-gone",
    /// A session was kept alive.
    SessionKept = "session-kept",
    /// A session expired.
    SessionExpired = "session-expired",
    /// A session was closed.
    SessionClosed = "session-closed",
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl<W: Workload> World<W> {
    /// This was achieved, once more.
    pub(crate) fn reach(&mut self, goal: Goal) {
        self.counters.add(goal.name(), 1);
    }
}
