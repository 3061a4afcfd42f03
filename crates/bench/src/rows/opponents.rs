//! OR: OpenRaft under each of the settings that the rows beside it may give it, so that which is its best is measured.

use crate::args::{Appends, Options};
use crate::measure::{Contender, Load, RowPlan, measure_row};
use crate::report::{Better, Report, Row, Side};
use crate::sides::openraft;

/// As many as write so much that it matters how often a snapshot is made.
const MOST_CLIENTS: usize = 4096;
/// Entries between OpenRaft's snapshots, unless it is told otherwise; 1000 of those behind the snapshot stay in the log.
const SNAPSHOT_BY_DEFAULT: u64 = 5000;

pub(crate) fn openraft_settings(options: &Options, report: &mut Report) -> Result<(), String> {
    report.versions.push(openraft::about(options).0);
    report.settings.push("the server threads are those of each row; other tables take those that are best in a trial before their pairs, unless --openraft-network says one, and snapshots as --openraft-snapshot says".to_owned());
    let mut kinds: Vec<(String, Options)> = openraft::settings(options)
        .into_iter()
        .map(|(threads, appends)| {
            let name = format!("--server-threads {threads}, appends by {appends:?}");
            (name, Options { server_threads: threads, openraft_appends: Some(appends), ..options.clone() })
        })
        .collect();
    // As many clients as M1, M2 and M5 have.
    for clients in [1, 64, MOST_CLIENTS] {
        let load = Load::in_process(clients);
        let what = format!("{clients} {}", if clients == 1 { "client" } else { "clients" });
        if clients == MOST_CLIENTS {
            let name = format!("--server-threads 2, appends by Stream, --openraft-snapshot {SNAPSHOT_BY_DEFAULT}");
            let often = Options {
                openraft_snapshot: SNAPSHOT_BY_DEFAULT,
                openraft_appends: Some(Appends::Stream),
                ..options.clone()
            };
            kinds.push((name, Options { server_threads: 2, ..often }));
        }
        let plan = RowPlan { id: "OR", what, unit: "put/s", better: Better::Higher, goal: None };
        let sides = kinds
            .iter()
            .map(|(name, set)| Contender::beside(name, move || openraft::trial(set, load, openraft::Put)))
            .collect();
        // They took turns as the sides of one row; told one by one, because nothing of ours is beside them.
        let Row { id, what, unit, better, goal, sides } = measure_row(options, plan, sides)?;
        report.rows.extend(sides.into_iter().map(|side| Row {
            id: id.clone(),
            what: format!("{what}, {}", side.name),
            unit: unit.clone(),
            better,
            goal,
            sides: vec![Side { name: "openraft".to_owned(), ..side }],
        }));
    }
    Ok(())
}
