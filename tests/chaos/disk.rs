//! A small disk of its own for the farm's home, which can be filled.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// A file system in memory, mounted for as long as this lives.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Mounts it over a folder.
    ///
    /// # Errors
    /// If we may not: that needs root.
    pub fn mount(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let options = format!("size={SIZE_MIB}m,mode=700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder);
        let output = mount.output().context("there is no `mount`")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let zeros = vec![0; 64 * 1024];
        let Ok(mut file) = File::create(self.filler()) else { return };
        let mut step = zeros.len();
        while step > 0 {
            if file.write_all(&zeros[..step]).is_err() {
                step /= 2;
            }
        }
    }

    /// Makes room again.
    pub fn free(&self) {
        // An error says that it was never filled.
        let _ = std::fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // At once for who looks, and in truth when nobody has a file of it open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).output();
    }
}

/// Logs, and the journal of a long history, have room in it.
const SIZE_MIB: u32 = 256;
