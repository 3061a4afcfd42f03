//! A simulated node is one that production would start.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "a failed step fails the test")]

mod trio;

use std::time::Duration;

use quorate::{Config, StartError};
use quorate_wal::fake::MemDisk;
use trio::Trio;

#[test]
fn tunables_that_production_refuses_are_refused_by_name() {
    type Change = fn(&mut Config);
    let wrong: [(&str, Change); 6] = [
        ("max_inflight_appends", |config| config.max_inflight_appends = 0),
        ("max_inflight_bytes", |config| config.max_inflight_bytes = config.max_append_bytes - 1),
        ("heartbeat_interval", |config| config.heartbeat_interval = config.election_timeout_min),
        ("election_timeout_max", |config| config.election_timeout_max = config.election_timeout_min),
        ("proposal_window_bytes", |config| config.proposal_window_bytes = config.max_command_bytes - 1),
        ("write_timeout", |config| config.read_timeout = Duration::ZERO),
    ];
    let mut trio = Trio::new(vec![MemDisk::new()], Vec::new());
    for (field, change) in wrong {
        let mut config = Config::default();
        change(&mut config);
        let refused = config.check().expect_err("production refuses it");
        assert_eq!(refused.field, field);
        assert_eq!(trio.start_with(0, config), Err(StartError::from(refused).to_string()));
    }
    assert_eq!(trio.start_with(0, Config::default()), Ok(()));
}
