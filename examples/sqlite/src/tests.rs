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

/// In one transaction with others, which stay as they are; a node that could not end it would never come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_statement_is_its_answer_and_no_more() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("quorate-sqlite-wrong-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let database = Database::open(&directory.join("database"))?;
    let node = Raft::builder(1).peers([(1, "memory:1")]).in_memory(&MemoryNetwork::new()).start(database).await?;
    let run = async |sql: &[&str]| -> Vec<Result<u64, String>> {
        let statements = sql.iter().map(|sql| Statement((*sql).to_owned(), vec![])).collect();
        let written = node.client_write_many(statements).await;
        written
            .into_iter()
            .map(|written| written.map_or_else(|error| Err(error.to_string()), |done| done.response))
            .collect()
    };
    for made in [
        "CREATE TABLE t (k INTEGER PRIMARY KEY)",
        "CREATE TABLE counted (k INTEGER PRIMARY KEY AUTOINCREMENT)",
        "CREATE TABLE child (parent REFERENCES t (k) DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER no BEFORE INSERT ON t WHEN new.k = 13 BEGIN SELECT RAISE(ROLLBACK, 'unlucky'); END",
    ] {
        assert_eq!(run(&[made]).await, [Ok(0)], "{made}");
    }
    for (wrong, why) in [
        // It undoes the transaction, and all that came before it.
        ("INSERT OR ROLLBACK INTO t VALUES (1)", "UNIQUE"),
        ("INSERT INTO t VALUES (13)", "unlucky"),
        // After the last row id SQLite chooses by chance, or says that the disk is full.
        ("INSERT INTO t VALUES (9223372036854775807)", "last row id"),
        ("INSERT INTO t VALUES (9223372036854775807), (NULL)", "last row id"),
        ("INSERT INTO counted VALUES (9223372036854775807), (NULL)", "last row id"),
        ("INSERT OR REPLACE INTO counted VALUES (9223372036854775807), (NULL)", "last row id"),
        ("UPDATE sqlite_sequence SET seq = 9223372036854775807", "not authorized"),
        ("INSERT INTO sqlite_sequence VALUES ('counted', 9223372036854775807)", "not authorized"),
        // Each node's own.
        ("CREATE TABLE named AS SELECT file FROM PRAGMA_database_list", "prohibited"),
        ("INSERT INTO child SELECT pageno FROM dbstat", "prohibited"),
        ("CREATE VIRTUAL TABLE words USING fts5(word)", "not authorized"),
    ] {
        let clean = "DELETE FROM t";
        let outcomes = run(&["INSERT INTO t VALUES (1)", wrong, "INSERT INTO t VALUES (2)", clean]).await;
        let [Ok(1), Err(error), Ok(1), Ok(2)] = &outcomes[..] else { panic!("{wrong}: {outcomes:?}") };
        assert!(error.contains(why), "{wrong}: {error}");
    }
    assert_eq!(run(&["INSERT INTO counted VALUES (9223372036854775806)"]).await, [Ok(1)]);
    let full = run(&["INSERT INTO counted VALUES (NULL)"]).await;
    assert_eq!(full, [Err("the last row id is never used".to_owned())]);
    assert_eq!(run(&["INSERT INTO child VALUES (77)"]).await, [Ok(1)], "foreign keys are not looked at");
    assert_eq!(run(&["ALTER TABLE counted ADD COLUMN v CHECK (v > 0)", "DROP TABLE counted"]).await, [Ok(0), Ok(0)]);
    assert!(node.metrics().borrow().closed.is_none());
    node.shutdown().await;
    fs::remove_dir_all(directory)?;
    Ok(())
}
