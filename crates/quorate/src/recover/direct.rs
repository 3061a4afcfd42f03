//! The same recovery without a runtime, sockets or chance of its own: a simulator says what an operator would find out.
//! Not part of the stable API.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use quorate_core::Incarnation;
use quorate_wal::{Disk, ForcedRecovery, force_recovery};

use super::{FoundDirectory, PeerAnswer, Plan, RecoverError, forced_as, look, plan};

/// Looks at the directory of a stopped node.
///
/// # Errors
/// See [`RecoverError`].
pub fn look(disk: &Arc<dyn Disk>, directory: &Path) -> Result<FoundDirectory, RecoverError> {
    look::look_at(disk, directory)
}

/// Decides, where nobody answers but the directories at hand.
///
/// # Errors
/// As [`Recovery::plan`](super::Recovery::plan).
pub fn plan(found: impl IntoIterator<Item = FoundDirectory>) -> Result<Plan, RecoverError> {
    let mut directories = Vec::new();
    for one in found {
        look::take_in(&mut directories, one)?;
    }
    let nobody = |address| (address, PeerAnswer::Nobody("nothing listens".to_owned()));
    let peers = look::others_of(&directories).into_iter().map(|(id, address)| (id, nobody(address))).collect();
    plan::plan(directories, peers, None, &BTreeSet::new())
}

/// What [`force`] writes.
///
/// # Errors
/// If there is no greater term or index.
pub fn forced(plan: &Plan, incarnation: Incarnation, time: u64) -> Result<ForcedRecovery, RecoverError> {
    forced_as(plan, incarnation, time)
}

/// Makes the survivor of a plan the only voter, as this incarnation, at this time in nanoseconds since the Unix epoch,
/// and says what was forced. After an error the directory is as before or recovered.
///
/// # Errors
/// See [`RecoverError`].
pub fn force(
    disk: &Arc<dyn Disk>,
    plan: &Plan,
    incarnation: Incarnation,
    time: u64,
) -> Result<ForcedRecovery, RecoverError> {
    let recovery = forced_as(plan, incarnation, time)?;
    let forced = force_recovery(disk, &plan.directory, &recovery);
    forced.map(|()| recovery).map_err(|error| RecoverError::of_directory(&plan.directory, &error))
}
