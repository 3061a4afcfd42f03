//! On what it was measured.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The machine, as far as its kernel tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) cpu: String,
    pub(crate) kernel: String,
    /// The file system below the durable rows.
    pub(crate) disk: String,
}

impl Machine {
    /// The one that this runs on.
    pub(crate) fn this(dir: &Path) -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "unknown".to_owned(), trimmed),
            disk: file_system(dir).unwrap_or_else(|| "unknown".to_owned()),
        }
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        format!("{} cores ({}), Linux {}, {}", self.cores, self.cpu, self.kernel, self.disk)
    }
}

fn trimmed(text: String) -> String {
    text.trim().to_owned()
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

/// The kind of the file system that a directory, or the next one above it, is on.
fn file_system(dir: &Path) -> Option<String> {
    let dir = std::path::absolute(dir).ok()?;
    let dir = dir.ancestors().find(|dir| dir.exists())?.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mounted = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (_device, at, kind) = (words.next()?, words.next()?, words.next()?);
        dir.starts_with(at).then_some((at.len(), kind))
    });
    mounted.max_by_key(|(length, _)| *length).map(|(_, kind)| kind.to_owned())
}

/// How this program was built.
pub(crate) fn build() -> &'static str {
    if cfg!(debug_assertions) { "DEBUG build: the figures mean nothing" } else { "release build" }
}
