//! File systems: which of them are over the network, where SQLite keeps nothing safe.

use std::io;
use std::path::Path;

/// The name of the file system of a folder, if it is one over the network.
///
/// # Errors
/// The folder cannot be looked at.
pub fn network_file_system(folder: &Path) -> io::Result<Option<&'static str>> {
    let about = rustix::fs::statfs(folder)?;
    // The numbers are signed on some machines; a kind has 32 bits.
    Ok(network_kind(about.f_type as u32))
}

/// The kinds of `statfs(2)` that are on the network.
fn network_kind(kind: u32) -> Option<&'static str> {
    Some(match kind {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        0x00c3_6400 => "Ceph",
        0x0102_1997 => "9P",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0xaad7_aaea => "PanFS",
        0x6573_5546 => "FUSE",
        0x7375_7245 => "Coda",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_by_their_numbers() {
        assert_eq!(network_kind(0x6969), Some("NFS"));
        assert_eq!(network_kind(0xfe53_4d42), Some("SMB"));
        // ext4, tmpfs, btrfs, xfs, overlayfs
        for local in [0xef53, 0x0102_1994, 0x9123_683e, 0x5846_5342, 0x794c_7630] {
            assert_eq!(network_kind(local), None, "{local:#x}");
        }
    }
}
