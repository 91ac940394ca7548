//! The capability of an engine process: a file, which is read anew for each connection, or what
//! came on standard input.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use furlong_host::home::{CapabilityFileError, load_capability};
use furlong_wire::capability::Capability;
use furlong_wire::limits::CAPABILITY_FILE_BYTES_MAX;

use crate::EngineError;

/// The source of the capability.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A file, which may come later and change.
    File(PathBuf),
    /// What standard input had, once.
    Given(Arc<Capability>),
}

impl Source {
    /// Reads a capability from standard input, as far as it goes: the rest is left, so that
    /// whoever has written it can keep the pipe open.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn from_stdin() -> Result<Self, EngineError> {
        let text = read_object(&mut io::stdin().lock(), CAPABILITY_FILE_BYTES_MAX);
        let text = text.map_err(|error| EngineError::GivenCapability(error.to_string()))?;
        let read = Capability::from_json(&text);
        let read = read.map_err(|error| EngineError::GivenCapability(error.to_string()))?;
        Ok(Self::Given(Arc::new(read)))
    }

    /// The capability as it is now.
    ///
    /// # Errors
    /// If its file is not there, or refused.
    pub(crate) fn load(&self) -> Result<Arc<Capability>, CapabilityFileError> {
        match self {
            Self::File(path) => Ok(Arc::new(load_capability(path)?)),
            Self::Given(capability) => Ok(capability.clone()),
        }
    }

    /// Its place, for people.
    pub(crate) fn place(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Given(_) => Path::new("standard input").to_owned(),
        }
    }
}

/// Reads one JSON object, and nothing after it.
fn read_object(reader: &mut impl BufRead, bytes_max: u64) -> io::Result<String> {
    let mut text = Vec::new();
    let (mut depth, mut in_string, mut is_escaped) = (0_u32, false, false);
    for byte in reader.take(bytes_max).bytes() {
        let byte = byte?;
        text.push(byte);
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'{' if !in_string => depth += 1,
            b'}' if !in_string => depth = depth.saturating_sub(1),
            _ if depth == 0 && !byte.is_ascii_whitespace() => break,
            _ => {}
        }
        if depth == 0 && byte == b'}' {
            return String::from_utf8(text).map_err(io::Error::other);
        }
    }
    Err(io::Error::other("it has no whole JSON object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_is_read_and_nothing_after_it() {
        let mut input: &[u8] = b" {\"a\": {\"b}\\\"\": 1}}\nrest";
        assert_eq!(read_object(&mut input, 100).unwrap(), " {\"a\": {\"b}\\\"\": 1}}");
        assert_eq!(input, b"\nrest");
        for (bad, bytes_max) in [("", 9), ("{", 9), ("no", 9), ("}", 9), ("{\"a\": 1}", 5)] {
            let read = read_object(&mut bad.as_bytes(), bytes_max);
            assert!(read.is_err() || bad == "}", "{bad}");
        }
    }
}
