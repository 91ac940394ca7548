//! Logs: one line an event, to a file that is rotated and, for a program in the foreground, to its
//! terminal.
//!
//! Every program logs into the folder `log/` of its cluster: `broker.log`, `engine-HOST-PID.log`
//! or, in the job of a batch system, `engine-JOB@HOST-PID.log`, and `cluster.log` of
//! `furlong cluster start`. A file that has reached [`ROTATE_BYTES`] becomes `NAME.log.1`, that one
//! `NAME.log.2`, and so on; of these [`ROTATED_KEPT`] are kept. No log has a secret in it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;
use std::time::SystemTime;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use tracing::Subscriber;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{Writer as FieldWriter, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::printable;
use crate::private_file::append_own;

/// The log level: `error`, `warn`, `info`, `debug` or `trace`.
pub type Level = LevelFilter;

/// Bytes of a log file before it is rotated.
pub const ROTATE_BYTES: u64 = 10 * 1024 * 1024;
/// Rotated files that are kept beside each log file.
pub const ROTATED_KEPT: u32 = 3;
/// Logs of engine processes that have ended, of which the newest are kept.
const ENDED_ENGINES_KEPT: usize = 50;

/// The format of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// Time, level, text: for people.
    #[default]
    Text,
    /// A JSON document a line, with `timestamp`, `level` and `fields.message`: for programs.
    Json,
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if *self == Self::Text { "text" } else { "json" })
    }
}

/// A word that names no [`Format`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a log's format is `text` or `json`")]
pub struct UnknownFormat;

/// Sends log lines of this process to `file` (appended, 0600, rotated), and to stderr what is at
/// least as grave as `terminal`, if that is given. A panic is logged too. Call it once.
///
/// # Errors
/// If the file cannot be opened.
pub fn start(
    file: Option<&Path>,
    terminal: Option<Level>,
    level: Level,
    format: Format,
) -> io::Result<()> {
    let file = file.map(|path| RotatingFile::open(path, ROTATE_BYTES)).transpose()?;
    let to_file = file.map(|file| layer(Mutex::new(file), false, format).with_filter(level));
    let ansi = io::stderr().is_terminal();
    let to_terminal =
        terminal.map(|most| layer(io::stderr, ansi, format).with_filter(most.min(level)));
    // A second call in one process (a test, an embedded engine) keeps the first one's log.
    if tracing_subscriber::registry().with(to_file).with(to_terminal).try_init().is_ok() {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tracing::error!("{panic}");
            print(panic);
        }));
    }
    Ok(())
}

fn layer<S, W>(writer: W, ansi: bool, format: Format) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(ansi).with_target(false);
    match format {
        Format::Text => {
            layer.fmt_fields(debug_fn(write_field).delimited(" ")).with_writer(writer).boxed()
        }
        Format::Json => layer.json().with_writer(Escaping(writer)).boxed(),
    }
}

/// Writes the message, or another field behind its name. Text in it may be a peer's, and one event
/// is one line.
fn write_field(out: &mut FieldWriter<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let text = format!("{value:?}");
    let text = printable::line(&text);
    if field.name() == "message" {
        out.write_str(&text)
    } else {
        write!(out, "{}={text}", field.name())
    }
}

/// Escapes what JSON leaves as it is.
struct Escaping<W>(W);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for Escaping<W> {
    type Writer = Escaping<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        Escaping(self.0.make_writer())
    }
}

impl<W: Write> Write for Escaping<W> {
    /// Takes one line, whole: tracing writes each event with one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.0.write_all(printable::lines(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The log file of this process as an engine, in that job of a batch system. Logs of engine
/// processes that have ended on this machine are removed, but for the newest ones: a cluster that
/// starts engines for years does not fill its disk with them. Of other machines' processes, which
/// may log into the same folder, it is not known whether they live.
pub fn engine_log(folder: &Path, job: Option<&str>) -> PathBuf {
    let host = plain(&crate::machine_name());
    let mut ended: Vec<(SystemTime, PathBuf)> = engine_logs(folder, &host).collect();
    ended.sort();
    for (_, path) in ended.iter().rev().skip(ENDED_ENGINES_KEPT) {
        let files = (1..=ROTATED_KEPT).map(|n| rotated(path, n)).chain([path.clone()]);
        files.for_each(|file| _ = fs::remove_file(file));
    }
    let job = job.map_or_else(String::new, |job| format!("{}@", plain(job)));
    folder.join(format!("engine-{job}{host}-{}.log", std::process::id()))
}

/// A text that is fit for a part of a file's name.
fn plain(text: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "._-[]".contains(it);
    text.chars().take(NAME_PART_CHARS_MAX).map(|it| if is_plain(it) { it } else { '_' }).collect()
}

/// Characters of a job's or host's name in the name of a file.
const NAME_PART_CHARS_MAX: usize = 64;

/// The logs of engine processes that have ended on this machine, with when they were last written
/// to.
fn engine_logs(folder: &Path, host: &str) -> impl Iterator<Item = (SystemTime, PathBuf)> {
    folder.read_dir().into_iter().flatten().flatten().filter_map(move |entry| {
        let name = entry.file_name();
        let name = name.to_str()?.strip_prefix("engine-")?.strip_suffix(".log")?;
        let (of, pid) = name.rsplit_once('-')?;
        let is_of_here = of.rsplit('@').next() == Some(host);
        let pid = Pid::from_raw(pid.parse().ok()?).filter(|_| is_of_here)?;
        let ended = test_kill_process(pid) == Err(Errno::SRCH);
        Some((entry.metadata().ok()?.modified().ok()?, entry.path())).filter(|_| ended)
    })
}

/// A log file that is renamed when it has grown too big, and begun anew.
#[derive(Debug)]
struct RotatingFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl RotatingFile {
    fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, bytes_max })
    }

    fn rotate(&mut self) -> io::Result<()> {
        // Counted from here also where it fails: the next try is as many bytes later, not at each
        // line.
        self.bytes = 0;
        for n in (1..ROTATED_KEPT).rev() {
            let _ = fs::rename(rotated(&self.path, n), rotated(&self.path, n + 1));
        }
        fs::rename(&self.path, rotated(&self.path, 1))?;
        self.file = append(&self.path)?;
        Ok(())
    }
}

impl Write for RotatingFile {
    /// Takes one line, whole: tracing writes each event with one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            // A full disk or a read-only folder: going on in the old file loses nothing.
            let _ = self.rotate();
        }
        let written = self.file.write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append(path: &Path) -> io::Result<File> {
    append_own(path).map_err(|error| io::Error::other(error.problem.to_string()))
}

/// The path of the n-th older file.
fn rotated(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_log_is_rotated_by_size_and_its_oldest_file_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut log = RotatingFile::open(&path, 10).unwrap();
        for line in
            ["one\n", "two\n", "three\n", "four\n", "five\n", "six\n", "a longer line\n", "end\n"]
        {
            log.write_all(line.as_bytes()).unwrap();
        }
        let read = |n: u32| {
            fs::read_to_string(if n == 0 { path.clone() } else { rotated(&path, n) }).unwrap()
        };
        assert_eq!(
            [0, 1, 2, 3].map(read),
            ["end\n", "a longer line\n", "six\n", "four\nfive\n"].map(str::to_owned)
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_log_goes_on_where_it_ended_and_where_it_cannot_be_rotated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        RotatingFile::open(&path, 10).unwrap().write_all(b"before\n").unwrap();
        let mut log = RotatingFile::open(&path, 10).unwrap();
        for n in 1..=ROTATED_KEPT {
            fs::create_dir(rotated(&path, n)).unwrap();
            fs::write(rotated(&path, n).join("in the way"), "").unwrap();
        }
        log.write_all(b"after\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\nafter\n");
    }

    #[test]
    fn logs_of_ended_engines_of_this_host_go_but_for_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: String| folder.path().join(name);
        let ours = engine_log(folder.path(), None);
        fs::write(&ours, "").unwrap();
        let name = ours.file_name().unwrap().to_str().unwrap();
        let host = name.strip_prefix("engine-").unwrap().rsplit_once('-').unwrap().0;
        // No process has such an id: the kernel gives them up to 2^22.
        let ended = |n: u32| {
            let job = if n.is_multiple_of(2) { format!("{n}_1@") } else { String::new() };
            at(format!("engine-{job}{host}-{}.log", 5_000_000 + n))
        };
        let elsewhere = at("engine-7@another-5000000.log".to_owned());
        let write = |path: &Path, second: u64| {
            let written = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
            File::create(path).unwrap().set_modified(written).unwrap();
        };
        (0..ENDED_ENGINES_KEPT as u32 + 2).for_each(|n| write(&ended(n), u64::from(n)));
        write(&elsewhere, 0);
        fs::write(rotated(&ended(0), 1), "").unwrap();
        fs::write(folder.path().join("broker.log"), "").unwrap();
        assert_eq!(engine_log(folder.path(), None), ours);
        assert!(!ended(0).exists() && !ended(1).exists() && !rotated(&ended(0), 1).exists());
        assert!(ended(2).exists() && ours.exists() && folder.path().join("broker.log").exists());
        assert!(elsewhere.exists());
        let of_job = engine_log(folder.path(), Some("15_2 /../x"));
        let of_job = of_job.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(of_job.starts_with("engine-15_2__.._x@"), "{of_job}");
    }

    #[test]
    fn an_event_is_one_line_whatever_text_is_in_it() {
        for format in [Format::Text, Format::Json] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.log");
            let file = Mutex::new(RotatingFile::open(&path, ROTATE_BYTES).unwrap());
            let log = tracing_subscriber::registry().with(layer(file, false, format));
            tracing::subscriber::with_default(log, || {
                tracing::info!(who = "a\u{9b}31m\nb", "left: \x1b[2J\r\n\u{202e}2020 INFO forged");
            });
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(
                text.contains("INFO") && text.contains("\\u001b[2J\\r\\n\\u202e2020 INFO forged"),
                "{text:?}"
            );
            assert_eq!(printable::lines(&text), text);
        }
    }

    #[test]
    fn formats_have_names() {
        for format in [Format::Text, Format::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("xml".parse::<Format>(), Err(UnknownFormat));
    }
}
