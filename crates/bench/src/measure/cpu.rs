//! Processor time and memory of this process, processor time of others.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The kernel's unit of time in `/proc/PID/stat` on Linux, whatever the kernel's own tick is.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of this whole process: what `getrusage` tells, in nanoseconds.
pub(crate) fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// User and system time of these processes and their threads, in steps of 10 ms; those that are gone count nothing.
pub(crate) fn children_cpu(pids: &[u32]) -> Duration {
    pids.iter().map(|pid| ticks(*pid).unwrap_or(0)).sum::<u32>() * TICK
}

/// Memory that this process has, as the kernel tells it.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn ticks(pid: u32) -> Option<u32> {
    ticks_of(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name of the program may hold blanks and parentheses: fields are counted from behind it.
fn ticks_of(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let user: u32 = fields.nth(11)?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_the_fourteenth_and_fifteenth_field() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 10 0 0 0 300 45 7 8 20 0 5 0";
        assert_eq!(ticks_of(stat), Some(345));
        assert_eq!(ticks_of("42"), None);
        assert!(ticks(std::process::id()).is_some());
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 16));
    }
}
