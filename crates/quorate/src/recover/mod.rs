//! Recovering a lost quorum: offline, from the directory of a stopped node (law 16).
//!
//! When so many nodes are lost for good that no quorum of a group can ever come together again, somebody has to decide
//! that what a survivor holds is the truth. [`Recovery::plan`] looks at the directories of survivors, asks every other
//! member whether it is there, and says what would be done and what may be lost. [`Recovery::apply`] does it: the
//! survivor with the most complete log becomes the only voter of the cluster's next *recovery*. It keeps its log. Nodes
//! of an earlier recovery are refused from then on; with an emptied directory they join as new nodes do, as learners
//! first.
//!
//! One directory is recovered, with every group in it: the recovery is part of the cluster id, and a directory has one.
//!
//! ```no_run
//! # async fn example() -> Result<(), quorate::recover::RecoverError> {
//! use quorate::recover::Recovery;
//!
//! let recovery = Recovery::new(["data/1"]);
//! println!("{}", recovery.plan().await?);
//! recovery.apply().await?;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "sim")]
pub mod direct;
mod error;
mod look;
mod plan;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_core::{ForcedMembership, Incarnation, NodeId};
use quorate_wal::{Disk, ForcedGroup, ForcedRecovery, RealDisk, force_recovery};

pub use self::error::RecoverError;
pub use self::look::{FoundDirectory, FoundGroup, PeerAnswer};
pub use self::plan::{GroupPlan, Plan};
use crate::identity::random_u128;

/// How long a member may take to accept a connection, and to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What to recover a lost quorum from. See the [module](self).
#[derive(Clone, Debug)]
pub struct Recovery {
    directories: Vec<PathBuf>,
    survivor: Option<NodeId>,
    lost: BTreeSet<NodeId>,
    patience: Duration,
    disk: Arc<dyn Disk>,
}

impl Recovery {
    /// From the data directories of these survivors, all of them stopped. One is enough; the more there are, the more
    /// certain is the choice of the most complete log.
    pub fn new<D: Into<PathBuf>>(directories: impl IntoIterator<Item = D>) -> Self {
        Self {
            directories: directories.into_iter().map(Into::into).collect(),
            survivor: None,
            lost: BTreeSet::new(),
            patience: PATIENCE,
            disk: Arc::new(RealDisk),
        }
    }

    /// Takes this node's directory, even if another one's log is more complete. What that loses is in the plan.
    pub fn survivor(mut self, node: impl Into<NodeId>) -> Self {
        self.survivor = Some(node.into());
        self
    }

    /// Declares nodes lost although something listens at their addresses that does not say who it is, such as another
    /// program on the machine that replaced them, or members that speak TLS. A member that answers for itself is never
    /// taken for lost.
    pub fn lost(mut self, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        self.lost.extend(nodes);
        self
    }

    /// How long each member may take to accept a connection, and as long again to answer. Default 2 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Opens the directories through this disk instead of the file system: for tests of what a disk may do.
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// Says what [`apply`](Self::apply) would do, and changes nothing.
    ///
    /// # Errors
    /// See [`RecoverError`]: among others, if a quorum can be reached.
    pub async fn plan(&self) -> Result<Plan, RecoverError> {
        let found = look::look(self.disk.clone(), self.directories.clone()).await?;
        let peers = look::ask(&found, self.patience).await;
        plan::plan(found, peers, self.survivor, &self.lost)
    }

    /// Plans anew, then makes the survivor the only voter. After a crash its directory is as before or recovered.
    ///
    /// # Errors
    /// See [`RecoverError`]; a second time it finds a quorum: the survivor itself.
    pub async fn apply(&self) -> Result<Plan, RecoverError> {
        let plan = self.plan().await?;
        let recovery = forced(&plan)?;
        let (disk, directory) = (Arc::clone(&self.disk), plan.directory.clone());
        let force = move || force_recovery(&disk, &directory, &recovery);
        let failed = |text: String| RecoverError::Directory { directory: plan.directory.clone(), text };
        match tokio::task::spawn_blocking(force).await {
            Ok(Ok(())) => Ok(plan),
            Ok(Err(error)) => Err(RecoverError::of_directory(&plan.directory, &error)),
            Err(_) => Err(failed("the runtime is shutting down".into())),
        }
    }
}

/// What is written to the survivor's directory, drawn and timed now.
fn forced(plan: &Plan) -> Result<ForcedRecovery, RecoverError> {
    let random = random_u128().map_err(|error| RecoverError::Random(error.to_string()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    forced_as(plan, Incarnation(random), u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2))
}

fn forced_as(plan: &Plan, incarnation: Incarnation, time: u64) -> Result<ForcedRecovery, RecoverError> {
    let mut groups = Vec::with_capacity(plan.groups.len());
    for group in &plan.groups {
        let forced = ForcedMembership::new(plan.survivor, incarnation, group.seen_term, group.kept, &group.membership);
        let forced = forced.ok_or(RecoverError::Exhausted)?;
        groups.push(ForcedGroup { group: group.group, time, forced });
    }
    Ok(ForcedRecovery { before: plan.cluster, after: plan.recovered, incarnation, groups })
}
