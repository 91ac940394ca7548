//! The inputs of a command: its standard input, and files whose paths are in its arguments.
//!
//! Each is a memory file that nobody can change, which this process holds open until the program
//! has ended. Its path goes by this process, so that every process that the program starts can open
//! it, whatever files it inherits; and nothing has to be removed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;

use bytes::Bytes;
use furlong_wire::call::{CommandExtras, InputPath};
use furlong_wire::os_text::OsText;
use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, memfd_create};

use super::launch::LaunchError;
use crate::job::Input;
use crate::runtime::Unable;

/// The inputs of one command, open.
#[derive(Debug, Default)]
pub(super) struct InputFiles {
    /// Standard input, if it is inputs.
    stdin: Option<File>,
    /// By the places among the task's inputs.
    named: BTreeMap<u32, File>,
}

impl InputFiles {
    /// Writes those that the command wants.
    ///
    /// # Errors
    /// If an input is not there or has no bytes, or if there is no memory for it.
    pub(super) fn new(extras: &CommandExtras, inputs: &[Input]) -> Result<Self, LaunchError> {
        let bytes = |input: &u32| {
            let found = usize::try_from(*input).ok().and_then(|at| inputs.get(at));
            let found = found.ok_or_else(|| format!("the command has no input {}", input + 1))?;
            let bytes = found.bytes();
            bytes.map_err(|error| format!("input {} cannot be read: {error}", input + 1))
        };
        let mut files = Self::default();
        if !extras.stdin.is_empty() {
            let parts = extras.stdin.iter().map(bytes).collect::<Result<Vec<_>, _>>()?;
            files.stdin = Some(file_of(&parts)?);
        }
        for InputPath { input, .. } in &extras.paths {
            if !files.named.contains_key(input) {
                files.named.insert(*input, file_of(&[bytes(input)?])?);
            }
        }
        Ok(files)
    }

    /// Standard input: from its beginning, and not to be written.
    pub(super) fn stdin(&self) -> Option<io::Result<File>> {
        self.stdin.as_ref().map(|file| File::open(path(file)))
    }

    /// The arguments, with the paths in their places.
    ///
    /// # Errors
    /// If there is no such place.
    pub(super) fn arguments(
        &self,
        argv: &[OsText],
        paths: &[InputPath],
    ) -> Result<Vec<OsString>, LaunchError> {
        let mut filled: Vec<Vec<u8>> = argv.iter().map(|text| text.as_bytes().to_vec()).collect();
        // Backwards, so that the places before them stay what they are.
        for InputPath { argument, offset, input } in paths.iter().rev() {
            let path = path(&self.named[input]).into_bytes();
            let text = filled.get_mut(*argument as usize).filter(|_| *argument > 0);
            let at = usize::try_from(*offset).ok();
            match (text, at) {
                (Some(text), Some(at)) if at <= text.len() => _ = text.splice(at..at, path),
                _ => {
                    return Err("an input goes to an argument that is not there".to_owned().into());
                }
            }
        }
        Ok(filled.into_iter().map(OsString::from_vec).collect())
    }
}

/// As long as this process holds it open.
fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

fn file_of(parts: &[Bytes]) -> Result<File, LaunchError> {
    let write = || -> io::Result<File> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("furlong-input", flags)?);
        parts.iter().try_for_each(|part| file.write_all(part))?;
        fchmod(&file, Mode::RUSR)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(&file, seals)?;
        Ok(file)
    };
    write().map_err(|error| {
        LaunchError::Engine(Unable::Runtime, format!("no memory file for an input: {error}"))
    })
}
