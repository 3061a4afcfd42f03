//! Snapshots of a state machine: built from what is applied, and installed in its place.

use std::io::{BufWriter, Read, Write};

use quorate_core::{Bug, Event, LogId, SnapshotMeta, bug};

use super::halt::UntilOver;
use super::{ApplyQueue, Fatal, Machine, fail_those, machine_panicked};
use crate::blame;
use crate::driver::Input;
use crate::events::SNAPSHOT;
use crate::group::book::Book;
use crate::group::content::{Watched, has_panicked, read_header, restore, restored_by, write_header};
use crate::group::{Failure, Fired};
use crate::session::SessionTable;
use crate::{RaftStateMachine, SnapshotData, StorageError, StorageErrorKind};

impl<S: RaftStateMachine> ApplyQueue<S> {
    /// First the new state, then the durable snapshot; only then is the old state let go, and only then does the
    /// core reset the log (law 11).
    pub(super) fn install(
        &self,
        machine: &mut Machine<S>,
        meta: SnapshotMeta,
        data: SnapshotData,
        fired: &mut Fired,
    ) -> Result<(), Fatal> {
        let _span = tracing::debug_span!(
            target: SNAPSHOT, "snapshot_install", node = self.node.0, group = self.group.0, last = %meta.last_log_id
        )
        .entered();
        let received = blame::storage(|| self.snapshots.receive(self.group, data)).and_then(|received| {
            match blame::storage(|| received.meta() == &meta) {
                true => Ok(received),
                false => {
                    let text = "a received snapshot holds something else than its header said";
                    Err(StorageError::new(StorageErrorKind::Corrupt, text))
                }
            }
        });
        let installed = match self.durable {
            true => received
                .and_then(|received| blame::storage(|| received.adopt()))
                .map(|()| self.install_kept(machine, &meta)),
            false => received.and_then(|received| {
                let mut content = Watched::new(blame::storage(|| received.content())?);
                let restored = restore(&mut UntilOver { over: &self.over, bytes: &mut content });
                if let Some(damage) = content.damage {
                    // Whatever the state machine made of it.
                    return Err(damage);
                }
                let restored = match restored {
                    Ok(restored) => restored,
                    // The old state stands; but a machine that panics is not asked again and again.
                    Err(error) if has_panicked(&error) => return Ok(Err(error)),
                    Err(error) => return Err(error.into()),
                };
                blame::storage(|| received.adopt())?;
                machine.replace(restored, &meta);
                Ok(Ok(()))
            }),
        };
        match installed {
            Ok(installed) => {
                installed.map_err(|error| Fatal::Machine(format!("it cannot install a snapshot: {error}")))?;
                machine.applied = meta.last_log_id;
                self.cover(meta.last_log_id, fired);
                self.tell(Input::Installed { meta, time: machine.book.time });
            }
            Err(_) if self.is_over() => {}
            Err(error) => {
                let (node, group) = (self.node.0, self.group.0);
                tracing::error!(
                    name: "snapshot_install_failed", target: SNAPSHOT, node, group, %error,
                    "cannot install the leader's snapshot"
                );
                self.tell(Input::Event(Event::SnapshotInstallFailed));
            }
        }
        Ok(())
    }

    /// Puts the newest snapshot, which is durable, into a machine that keeps its state itself. In the other order a crash
    /// in between would leave a state that neither log nor snapshot leads to. If it fails nobody knows what the machine
    /// holds: the group is over, and the next start installs the snapshot again.
    fn install_kept(&self, machine: &mut Machine<S>, meta: &SnapshotMeta) -> std::io::Result<()> {
        let stored = blame::storage(|| self.snapshots.latest(self.group)).map_err(std::io::Error::other)?;
        let Some(stored) = stored.filter(|stored| blame::storage(|| stored.meta() == meta)) else {
            return Err(std::io::Error::other("the snapshot that was kept is no longer the newest"));
        };
        let bytes = blame::Stored(blame::storage(|| stored.content())?);
        let mut content = UntilOver { over: &self.over, bytes };
        machine.book = install_into(&mut machine.state, &mut content, meta)?;
        Ok(())
    }

    /// What became of awaited entries that a snapshot covers cannot be told.
    pub(super) fn cover(&self, upto: LogId, fired: &mut Fired) {
        // Proposals of an earlier leadership, with higher indexes, may stand in front of covered ones.
        let mut expected = self.expected.lock();
        let stops =
            expected.front().is_some_and(|first| first.next > upto.index) && bug(Bug::CoveredWaiterBehindAnotherWaits);
        fail_those(&mut expected, |head| head.next <= upto.index && !stops, &Failure::Unknown, fired);
    }

    pub(super) fn build(&self, machine: &Machine<S>) {
        let meta = machine.book.meta();
        if machine.state.defer_snapshot() {
            return self.tell(Input::Event(Event::SnapshotDeferred));
        }
        let time = machine.book.time;
        match (machine.state.freeze(), self.me.upgrade()) {
            (Some(frozen), Some(me)) => {
                // Answers are refcounted: this copies the table's tree, not their bytes.
                let sessions = machine.book.sessions.clone();
                self.spawn_beside(Box::new(move || {
                    if me.is_over() {
                        return;
                    }
                    let written = blame::catch(|| me.write_snapshot(&meta, time, &sessions, frozen));
                    match written {
                        Ok(written) => me.built(meta, written),
                        Err(panic) => {
                            me.tell(Input::Close(blame::reason(&panic, machine_panicked)));
                        }
                    }
                }));
            }
            (_, _) => {
                let state = &machine.state;
                let written = self.write_snapshot(&meta, time, &machine.book.sessions, |out| state.snapshot(out));
                self.built(meta, written);
            }
        }
    }

    fn write_snapshot(
        &self,
        meta: &SnapshotMeta,
        time: u64,
        sessions: &SessionTable,
        write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<(), StorageError> {
        let _span = tracing::debug_span!(
            target: SNAPSHOT, "snapshot_build", node = self.node.0, group = self.group.0, last = %meta.last_log_id
        )
        .entered();
        let began = self.meters.now();
        let created = blame::storage(|| self.snapshots.create(self.group, meta))?;
        let stored = UntilOver { over: &self.over, bytes: blame::Stored(created) };
        let mut out = BufWriter::with_capacity(1 << 16, stored);
        write_header(&mut out, time, sessions)?;
        write(&mut out)?;
        let written = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        written.check()?;
        blame::storage(|| written.bytes.0.commit())?;
        self.meters.snapshots_built.add(1);
        self.meters.enter_since(&self.meters.snapshot_build, began);
        Ok(())
    }

    fn built(&self, meta: SnapshotMeta, written: Result<(), StorageError>) {
        let (node, group) = (self.node.0, self.group.0);
        let error = match written {
            Ok(()) => {
                let last = meta.last_log_id;
                tracing::info!(name: "snapshot_built", target: SNAPSHOT, node, group, %last, "built a snapshot");
                return self.tell(Input::Event(Event::SnapshotBuilt(meta)));
            }
            // Cut short, or in vain: nobody waits for it.
            Err(_) if self.is_over() => return,
            Err(error) => error,
        };
        tracing::error!(
            name: "snapshot_build_failed", target: SNAPSHOT, node, group, %error, "cannot build a snapshot; will try again"
        );
        self.tell(Input::Event(Event::SnapshotBuildFailed));
    }
}

/// Puts a snapshot's content into a machine that keeps its state itself; returns what is known of it then.
pub(crate) fn install_into<S: RaftStateMachine>(
    state: &mut S,
    content: &mut dyn Read,
    meta: &SnapshotMeta,
) -> std::io::Result<Book> {
    let (time, sessions) = read_header(content)?;
    let book = Book::at(meta.clone(), time, sessions);
    restored_by(|| state.install(content, book.checkpoint()))?;
    Ok(book)
}
