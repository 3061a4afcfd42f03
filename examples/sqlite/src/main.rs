//! A replicated SQL database: SQLite in every node, kept equal by the log. `cargo run --release -p sqlite`
//!
//! A statement is a command; what is committed together is one transaction of SQLite, in which the node also keeps how far
//! it has applied the log. So a node that comes back goes on from its own file. Statements run on every node, so what gives
//! another answer on each (chance, clocks, the node's files) is refused, and so are transactions of a statement's own. What is
//! wrong with a statement is its answer, and nothing is looked at when the transaction ends: there are no foreign keys.
use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::{Checkpoint, Commands, LastApplied, Raft, RaftStateMachine, ReadPolicy};
use rusqlite::backup::Backup;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode as Code, OptionalExtension, ToSql, params_from_iter};
use serde::{Deserialize, Serialize};

/// A value of SQL.
#[rustfmt::skip]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Cell { Null, Integer(i64), Real(f64), Text(String), Blob(Vec<u8>) }

/// A statement with its parameters.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Statement(String, Vec<Cell>);

/// Where the library's bytes are kept, in the same file as the user's tables.
const KEEP: &str = "INSERT OR REPLACE INTO quorate_kept VALUES (0, ?1)";
const MAKE: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; \
                    CREATE TABLE IF NOT EXISTS quorate_kept (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL)";

/// Functions that give another answer on each node, or at another time.
const FORBIDDEN: &str = "random randomblob date time datetime julianday unixepoch strftime timediff current_date \
                         current_time current_timestamp changes total_changes last_insert_rowid load_extension";

/// A database in a file; `guarded` while a client's statement is prepared, `at_end` once one took the last row id.
#[rustfmt::skip]
struct Database { connection: Connection, path: PathBuf, guarded: Arc<AtomicBool>, at_end: Arc<AtomicBool> }

impl Database {
    fn open(path: &Path) -> io::Result<Self> {
        let mut connection = Connection::open(path).map_err(io::Error::other)?;
        connection.execute_batch(MAKE).map_err(io::Error::other)?;
        let (guarded, at_end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (guard, end) = (Arc::clone(&guarded), Arc::clone(&at_end));
        let judge = move |asked: AuthContext<'_>| match guard.load(Ordering::Relaxed) && is_forbidden(asked.action) {
            true => Authorization::Deny,
            false => Authorization::Allow,
        };
        connection.authorizer(Some(judge)).map_err(io::Error::other)?;
        let note = move |_, _: &str, _: &str, row| _ = end.fetch_or(row == i64::MAX, Ordering::Relaxed);
        connection.update_hook(Some(note)).map_err(io::Error::other)?;
        Ok(Self { connection, path: path.to_owned(), guarded, at_end })
    }

    /// The rows that a query gives; it changes nothing.
    fn query(&self, sql: &str) -> rusqlite::Result<Vec<Vec<Cell>>> {
        let mut query = self.connection.prepare(sql)?;
        if !query.readonly() {
            return Err(rusqlite::Error::InvalidQuery);
        }
        let columns = query.column_count();
        let row = |row: &rusqlite::Row<'_>| (0..columns).map(|at| row.get_ref(at).map(cell)).collect();
        query.query_map([], row)?.collect()
    }

    /// Runs a statement: all of it, or nothing; a conflict that rolls back takes the transaction with it. Fails only for
    /// reasons of this node's own.
    fn run(&self, Statement(sql, cells): &Statement) -> rusqlite::Result<Result<u64, String>> {
        self.connection.execute_batch("SAVEPOINT statement")?;
        let before = self.connection.total_changes();
        self.at_end.store(false, Ordering::Relaxed);
        self.guarded.store(true, Ordering::Relaxed);
        let prepared = self.connection.prepare(sql);
        self.guarded.store(false, Ordering::Relaxed);
        let done = prepared.and_then(|mut prepared| prepared.execute(params_from_iter(cells)));
        let done = match done {
            // The next one would be chosen by chance, or fail as if the disk were full.
            _ if self.at_end.load(Ordering::Relaxed) => Err("the last row id is never used".to_owned()),
            Err(error) if is_local(&error) => return Err(error),
            // Not what `execute` returns: after a statement that changes no rows that is of the one before.
            done => done.map(|_| self.connection.total_changes() - before).map_err(|error| error.to_string()),
        };
        let undo = if done.is_err() { "ROLLBACK TO statement; " } else { "" };
        if !self.connection.is_autocommit() {
            self.connection.execute_batch(&format!("{undo}RELEASE statement"))?;
        }
        Ok(done)
    }
}

/// Whether other nodes may not have this error: a full disk, for example. What is wrong with a statement is wrong on all.
fn is_local(error: &rusqlite::Error) -> bool {
    let (unknown, refused) = (Code::Unknown, Code::AuthorizationForStatementDenied);
    let known =
        [unknown, refused, Code::ConstraintViolation, Code::ParameterOutOfRange, Code::TooBig, Code::TypeMismatch];
    error.sqlite_error_code().is_some_and(|code| !known.contains(&code))
}

#[rustfmt::skip]
fn is_forbidden(action: AuthAction<'_>) -> bool {
    match action {
        AuthAction::Function { function_name } => FORBIDDEN.split(' ').any(|name| name.eq_ignore_ascii_case(function_name)),
        AuthAction::Insert { table_name } => ["quorate_kept", "sqlite_sequence"].contains(&table_name),
        AuthAction::Update { table_name: "sqlite_sequence", column_name } => column_name == "seq",
        AuthAction::Update { table_name, .. } | AuthAction::Delete { table_name }
        | AuthAction::DropTable { table_name } | AuthAction::AlterTable { table_name, .. } => table_name == "quorate_kept",
        AuthAction::Read { table_name, .. } => {
            let name = table_name.to_ascii_lowercase();
            name.starts_with("pragma_") && name != "pragma_quick_check" || name == "dbstat"
        }
        AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } | AuthAction::Pragma { .. } => true,
        AuthAction::Attach { .. } | AuthAction::Detach { .. } | AuthAction::CreateTempTable { .. } => true,
        AuthAction::CreateTempView { .. } | AuthAction::CreateTempTrigger { .. } | AuthAction::CreateVtable { .. } => true,
        _ => false,
    }
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Integer(number),
        ValueRef::Real(number) => Cell::Real(number),
        ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Cell::Blob(bytes.to_vec()),
    }
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Cell::Null => ValueRef::Null,
            Cell::Integer(number) => ValueRef::Integer(*number),
            Cell::Real(number) => ValueRef::Real(*number),
            Cell::Text(text) => ValueRef::Text(text.as_bytes()),
            Cell::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl RaftStateMachine for Database {
    type Command = Statement;
    /// Rows changed, also by triggers, or what SQLite says.
    type Response = Result<u64, String>;

    fn apply(&mut self, statement: Statement) -> Self::Response {
        self.run(&statement).unwrap_or_else(|error| Err(error.to_string()))
    }

    fn apply_batch(&mut self, commands: &mut Commands<'_, Self>) -> io::Result<()> {
        let mut apply = || {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
            let mut done = Vec::new();
            while let Some((_, statement)) = commands.next_command() {
                commands.respond(self.run(&statement)?);
                if self.connection.is_autocommit() {
                    // It undid what came before it, too: that is done again, and ends as it did.
                    self.connection.execute_batch("BEGIN IMMEDIATE")?;
                    done.iter().try_for_each(|earlier| self.run(earlier).map(drop))?;
                } else {
                    done.push(statement);
                }
            }
            self.connection.execute(KEEP, [commands.checkpoint().as_bytes()])?;
            self.connection.execute_batch("COMMIT")
        };
        apply().map_err(io::Error::other)
    }

    fn last_applied(&mut self) -> io::Result<LastApplied> {
        let kept = self.connection.query_row("SELECT bytes FROM quorate_kept", [], |row| row.get(0)).optional();
        kept.map(LastApplied::kept).map_err(io::Error::other)
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        let file = self.path.with_extension("snapshot");
        drop(fs::remove_file(&file));
        self.connection.execute("VACUUM INTO ?1", [file.to_string_lossy()]).map_err(io::Error::other)?;
        io::copy(&mut fs::File::open(&file)?, out)?;
        fs::remove_file(file)
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a database in a file is installed into"))
    }

    fn install(&mut self, input: &mut dyn Read, checkpoint: Checkpoint) -> io::Result<()> {
        let file = self.path.with_extension("installing");
        io::copy(input, &mut fs::File::create(&file)?)?;
        let replaced = Connection::open(&file).and_then(|from| {
            from.execute(KEEP, [checkpoint.as_bytes()])?;
            // In one transaction of SQLite.
            Backup::new(&from, &mut self.connection)?.run_to_completion(1024, Duration::ZERO, None)
        });
        replaced.map_err(io::Error::other)?;
        fs::remove_file(file)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let peers = [(1, "127.0.0.1:7001"), (2, "127.0.0.1:7002"), (3, "127.0.0.1:7003")];
    let mut nodes = Vec::new();
    for (id, _) in peers {
        let directory = PathBuf::from(format!("data/sqlite/{id}"));
        fs::create_dir_all(&directory)?;
        let database = Database::open(&directory.join("database"))?;
        nodes.push(Raft::builder(id).peers(peers).data_dir(directory).start(database).await?);
    }
    let run = |sql: &str, cells| nodes[1].client_write(Statement(sql.into(), cells));
    run("CREATE TABLE IF NOT EXISTS cities (name TEXT PRIMARY KEY, people INTEGER)", vec![]).await?.response?;
    let oslo = vec![Cell::Text("Oslo".into()), Cell::Integer(717_710)];
    run("INSERT OR REPLACE INTO cities VALUES (?1, ?2)", oslo).await?.response?;
    let rows = nodes[2].read(ReadPolicy::ReadIndex, |database| database.query("SELECT * FROM cities")).await??;
    println!("node 2 wrote, node 3 reads {rows:?}");
    tokio::join!(nodes[0].shutdown(), nodes[1].shutdown(), nodes[2].shutdown());
    Ok(())
}

#[cfg(test)]
mod tests;
