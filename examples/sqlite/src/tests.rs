//! The machine passes the suite for durable ones, and three nodes keep equal databases.

use quorate::{MemoryNetwork, Raft};
use quorate_testkit::{Chance, machine};

use super::*;

fn statement(chance: &mut Chance) -> Statement {
    let (key, value) = (Cell::Integer(chance.below(8) as i64), Cell::Text(format!("v{}", chance.below(100))));
    match chance.below(8) {
        0 => Statement("CREATE TABLE t (k INTEGER PRIMARY KEY, v)".into(), vec![]),
        1 => Statement("DELETE FROM t WHERE k = ?1".into(), vec![key]),
        2 => Statement("UPDATE t SET v = v || ?1 WHERE k > 3".into(), vec![value]),
        3 => Statement("INSERT INTO t VALUES (?1, ?2)".into(), vec![key, value]),
        4 => Statement("no SQL".into(), vec![]),
        _ => Statement("INSERT OR REPLACE INTO t VALUES (?1, ?2)".into(), vec![key, value]),
    }
}

/// All that users put there.
fn dump(database: &Database) -> String {
    let schema = database.query("SELECT sql FROM sqlite_master WHERE name NOT LIKE 'quorate%'");
    format!("{schema:?} {:?}", database.query("SELECT * FROM t ORDER BY k").ok())
}

#[test]
fn it_conforms() {
    let suite = machine::Suite::durable(|dir| Database::open(&dir.join("database")), statement);
    let report = suite.contents(dump).seeds(1, 2).commands(30).run();
    println!("{report}");
    assert_eq!(
        report.assert_passed().not_run_parts().len(),
        4,
        "the parts for memory, and crashes of a disk in memory"
    );
}

#[test]
fn what_differs_between_nodes_is_refused() -> io::Result<()> {
    let directory = std::env::temp_dir().join(format!("quorate-sqlite-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let mut database = Database::open(&directory.join("database"))?;
    let mut run = |sql: &str| database.apply(Statement(sql.into(), vec![]));
    assert_eq!(run("CREATE TABLE t (k, at)"), Ok(0));
    for sql in [
        "INSERT INTO t VALUES (random(), 1)",
        "INSERT INTO t VALUES (datetime('now'), 1)",
        "CREATE TABLE u (k, at DEFAULT CURRENT_TIMESTAMP)",
        "INSERT INTO t VALUES (total_changes(), 1)",
        "CREATE TEMP TABLE forgotten (k)",
        "COMMIT",
        "PRAGMA journal_mode = OFF",
        "ATTACH 'other' AS other",
        "DELETE FROM quorate_kept",
        "DROP TABLE quorate_kept",
    ] {
        assert!(run(sql).is_err_and(|error| error.contains("not authorized") || error.contains("prohibited")), "{sql}");
    }
    assert_eq!(run("INSERT INTO t VALUES (7, 8)"), Ok(1));
    drop(database);
    fs::remove_dir_all(directory)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_keep_equal_databases() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("quorate-sqlite-cluster-{}", std::process::id()));
    let peers = [(1, "memory:1"), (2, "memory:2"), (3, "memory:3")];
    for round in 1..=2 {
        let (network, mut nodes) = (MemoryNetwork::new(), Vec::new());
        for (id, _) in peers {
            let home = directory.join(id.to_string());
            fs::create_dir_all(&home)?;
            let database = Database::open(&home.join("database"))?;
            let builder = Raft::builder(id).peers(peers).in_memory(&network).data_dir(home);
            nodes.push(builder.start(database).await?);
        }
        let write = |sql: &str| nodes[0].client_write(Statement(sql.into(), vec![]));
        if round == 1 {
            write("CREATE TABLE t (k INTEGER PRIMARY KEY, v)").await?.response?;
        }
        // Applied once: a second time it would be refused.
        write(&format!("INSERT INTO t VALUES ({round}, 'round')")).await?.response?;
        for node in &nodes {
            let rows =
                node.read(ReadPolicy::ReadIndex, |database| database.query("SELECT k FROM t ORDER BY k")).await??;
            assert_eq!(rows, (1..=round).map(|k| vec![Cell::Integer(k)]).collect::<Vec<_>>(), "round {round}");
        }
        nodes[1].trigger().snapshot().await?;
        for node in nodes {
            node.shutdown().await;
        }
    }
    fs::remove_dir_all(directory)?;
    Ok(())
}
