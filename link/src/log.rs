//! Logs: one line an event, to a file and, for a program in the foreground, to its terminal.

use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How much is logged: `error`, `warn`, `info`, `debug` or `trace`.
pub type Level = LevelFilter;

/// Sends log lines of this process to `file` (appended, 0600), and to stderr if `terminal` is set. Call it once.
///
/// # Errors
/// If the file cannot be opened.
pub fn start(file: Option<&Path>, terminal: bool, level: Level) -> std::io::Result<()> {
    let file = file.map(open).transpose()?;
    let to_file =
        file.map(|file| tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_writer(file));
    let ansi = std::io::stderr().is_terminal();
    let to_terminal = terminal
        .then(|| tracing_subscriber::fmt::layer().with_ansi(ansi).with_target(false).with_writer(std::io::stderr));
    let layers = to_file.map(|layer| layer.with_filter(level));
    let terminal_layer = to_terminal.map(|layer| layer.with_filter(level));
    // A second call in one process (a test, an embedded engine) keeps the first one's log.
    let _ = tracing_subscriber::registry().with(layers).with(terminal_layer).try_init();
    Ok(())
}

fn open(path: &Path) -> std::io::Result<Arc<File>> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(Arc::new)
}
