//! The log of a client, written line by line so that the client can be killed at any time.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::job::Job;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The time at which it was written: microseconds since 1970.
    pub at_us: u64,
    /// The details.
    pub what: What,
}

/// An event in the life of a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum What {
    /// It has a session, of this id.
    Begins([u8; 16]),
    /// The broker has answered what was asked after the submit of this task: what is durable up to
    /// it is accepted.
    Accepted(u64),
    /// It has come for the result of another one's task, which ended so.
    Fetched {
        /// The other one's number.
        of: u32,
        /// The end of its task, for whoever asks.
        end: End,
    },
    /// It submits a task.
    Submits(Box<Job>),
    /// A submit was refused, which should never be.
    Refused {
        /// The task.
        n: u64,
        /// The error.
        text: String,
    },
    /// It cancels a task.
    Cancels(u64),
    /// A task has ended.
    Ended(End),
    /// The first end after the session has come back, where not every end is written down.
    FirstAfterReturn,
    /// The number of tasks it has submitted, and the number of those that have succeeded.
    Counted {
        /// Submits.
        submitted: u64,
        /// Results.
        succeeded: u64,
    },
    /// Its connection was cut, for this reason.
    Cut(String),
    /// Its session has come back.
    Back,
    /// All its tasks have ended.
    Done,
}

/// The end of a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct End {
    /// The identifier.
    pub n: u64,
    /// Its state, if it has one.
    pub state: Option<String>,
    /// The kind of its failure.
    pub kind: Option<String>,
    /// Its failure, or what is wrong with its result.
    pub text: String,
    /// The number of attempts.
    pub attempts: u32,
    /// The engine that ran it last.
    pub engine: Option<u32>,
    /// True if it has a result that is not its own.
    pub is_wrong: bool,
}

/// The writing side.
#[derive(Debug)]
pub struct Log(Mutex<File>);

/// The reading side, which reads on from where it was.
#[derive(Debug)]
pub struct LogReader {
    file: File,
    position: u64,
    rest: Vec<u8>,
}

impl Log {
    /// Begins a log, or goes on with it.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        OpenOptions::new().create(true).append(true).open(path).map(|file| Self(Mutex::new(file)))
    }

    /// Adds a line.
    ///
    /// # Panics
    /// If it cannot be written: then nobody could tell what has happened.
    pub fn add(&self, what: What) {
        let mut line = serde_json::to_vec(&Entry { at_us: now_us(), what }).unwrap();
        line.push(b'\n');
        self.0.lock().unwrap().write_all(&line).unwrap();
    }
}

impl LogReader {
    /// Reads a log that may not be there yet.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        Ok(Self { file, position: 0, rest: Vec::new() })
    }

    /// Reads the entries since the last time. Half a line waits for its other half.
    pub fn read(&mut self) -> std::io::Result<Vec<Entry>> {
        self.file.seek(SeekFrom::Start(self.position))?;
        self.position += self.file.read_to_end(&mut self.rest)? as u64;
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Ok(lines.map(serde_json::from_slice).collect::<Result<_, _>>()?)
    }
}

/// Microseconds since 1970: what all processes of a machine agree on.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
