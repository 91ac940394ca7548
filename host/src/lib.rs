//! The machine that a program of Furlong runs on: the files of `$FURLONG_HOME`, logs, memory sizes
//! and durations as people write them, signals, and text from elsewhere on terminals.
//!
//! Nothing here speaks to the network; that is `furlong-link`.
//!
//! # Example
//!
//! ```
//! use furlong_host::memory_size::MemorySize;
//! use furlong_host::printable;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! assert_eq!("512M".parse::<MemorySize>()?.bytes(), 512 << 20);
//! // Text of a peer cannot move the cursor of whoever reads a log.
//! assert_eq!(printable::line("a\u{1b}[2Jb"), r"a\u001b[2Jb");
//! # Ok(())
//! # }
//! ```

pub mod bearer;
pub mod durations;
pub mod file_system;
pub mod home;
pub mod log;
pub mod memory_size;
pub mod printable;
pub mod private_file;
pub mod revoked;
pub mod stop;

/// The name of this machine, as it calls itself.
pub fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
