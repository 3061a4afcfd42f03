//! A durable state machine: a map in redb, which goes on from its own file. `cargo run --release -p redb-map`
//!
//! What is committed together is one transaction of redb, and with it goes how far the log is applied: a crash leaves both or
//! neither. A snapshot is a read transaction, which holds nothing up.
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use quorate::{Checkpoint, Commands, Frozen, LastApplied, Raft, RaftStateMachine, ReadPolicy};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::{Deserialize, Serialize};

const ENTRIES: TableDefinition<'_, &str, &str> = TableDefinition::new("entries");
/// What the library wants to be kept with the entries.
const KEPT: TableDefinition<'_, (), &[u8]> = TableDefinition::new("kept");

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Command {
    Put(String, String),
    Remove(String),
}

struct Map(Database);

fn failed(error: impl Into<redb::Error>) -> io::Error {
    io::Error::other(error.into())
}

impl Map {
    fn open(path: &Path) -> io::Result<Self> {
        if !path.exists() {
            // A crash while redb makes a file leaves one that it refuses: only a whole one gets the name.
            let new = path.with_extension("new");
            drop(Database::create(&new).map_err(failed)?);
            fs::rename(&new, path)?;
            File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Database::open(path).map(Self).map_err(failed)
    }

    fn get(&self, key: &str) -> Result<Option<String>, redb::Error> {
        match self.0.begin_read()?.open_table(ENTRIES) {
            Ok(entries) => Ok(entries.get(key)?.map(|value| value.value().to_owned())),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All that these commands change, in one transaction.
    fn write(&self, commands: &mut Commands<'_, Self>) -> Result<(), redb::Error> {
        let write = self.0.begin_write()?;
        {
            let (mut entries, mut kept) = (write.open_table(ENTRIES)?, write.open_table(KEPT)?);
            while let Some((_, command)) = commands.next_command() {
                let before = match &command {
                    Command::Put(key, value) => entries.insert(&**key, &**value)?,
                    Command::Remove(key) => entries.remove(&**key)?,
                };
                let before = before.map(|value| value.value().to_owned());
                commands.respond(before);
            }
            kept.insert((), commands.checkpoint().as_bytes())?;
        }
        Ok(write.commit()?)
    }

    fn replace(&self, input: &mut dyn Read, checkpoint: &Checkpoint) -> io::Result<()> {
        let write = self.0.begin_write().map_err(failed)?;
        write.delete_table(ENTRIES).map_err(failed)?;
        {
            let mut entries = write.open_table(ENTRIES).map_err(failed)?;
            let mut input = BufReader::new(input);
            while !input.fill_buf()?.is_empty() {
                let (key, value) = (read_text(&mut input)?, read_text(&mut input)?);
                entries.insert(&*key, &*value).map_err(failed)?;
            }
            let mut kept = write.open_table(KEPT).map_err(failed)?;
            kept.insert((), checkpoint.as_bytes()).map_err(failed)?;
        }
        write.commit().map_err(failed)
    }
}

fn write_all(read: &ReadTransaction, out: &mut dyn Write) -> io::Result<()> {
    let entries = match read.open_table(ENTRIES) {
        Ok(entries) => entries,
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries.iter().map_err(failed)? {
        let (key, value) = entry.map_err(failed)?;
        for text in [key.value(), value.value()] {
            out.write_all(&(text.len() as u64).to_le_bytes())?;
            out.write_all(text.as_bytes())?;
        }
    }
    Ok(())
}

fn read_text(input: &mut impl Read) -> io::Result<String> {
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let mut text = String::new();
    let length = u64::from_le_bytes(length);
    match input.take(length).read_to_string(&mut text)? as u64 == length {
        true => Ok(text),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl RaftStateMachine for Map {
    type Command = Command;
    /// What was there before.
    type Response = Option<String>;

    fn apply(&mut self, _command: Command) -> Option<String> {
        unreachable!("`apply_batch` applies")
    }

    fn apply_batch(&mut self, commands: &mut Commands<'_, Self>) -> io::Result<()> {
        self.write(commands).map_err(io::Error::other)
    }

    fn last_applied(&mut self) -> io::Result<LastApplied> {
        let read = self.0.begin_read().map_err(failed)?;
        match read.open_table(KEPT) {
            Ok(kept) => {
                let bytes = kept.get(()).map_err(failed)?;
                Ok(LastApplied::kept(bytes.map(|bytes| bytes.value().to_vec())))
            }
            Err(TableError::TableDoesNotExist(_)) => Ok(LastApplied::Nothing),
            Err(error) => Err(failed(error)),
        }
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        write_all(&self.0.begin_read().map_err(failed)?, out)
    }

    fn freeze(&self) -> Option<Frozen> {
        // What is committed later is not in it.
        let read = self.0.begin_read().ok()?;
        Some(Box::new(move |out| write_all(&read, out)))
    }

    fn restore(_input: &mut dyn Read) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a map in a file is installed into"))
    }

    fn install(&mut self, input: &mut dyn Read, checkpoint: Checkpoint) -> io::Result<()> {
        self.replace(input, &checkpoint)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let peers = [(1, "127.0.0.1:7001"), (2, "127.0.0.1:7002"), (3, "127.0.0.1:7003")];
    let mut nodes = Vec::new();
    for (id, _) in peers {
        let directory = Path::new("data/redb-map").join(id.to_string());
        fs::create_dir_all(&directory)?;
        let map = Map::open(&directory.join("map.redb"))?;
        nodes.push(Raft::builder(id).peers(peers).data_dir(directory).start(map).await?);
    }
    let before = nodes[0].client_write(Command::Put("city".into(), "Oslo".into())).await?.response;
    let now = nodes[2].read(ReadPolicy::ReadIndex, |map| map.get("city")).await??;
    println!("node 1 wrote over {before:?}, node 3 reads {now:?}; run it again");
    nodes[1].client_write(Command::Remove("nothing".into())).await?;
    tokio::join!(nodes[0].shutdown(), nodes[1].shutdown(), nodes[2].shutdown());
    Ok(())
}

#[cfg(test)]
mod tests;
