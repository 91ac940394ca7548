//! The version of glibc that a program or library needs: the newest that its symbols name.

/// That of manylinux2014, which every distribution since 2014 has.
pub const OLDEST: (u32, u32) = (2, 17);

/// The newest version that the bytes name as `GLIBC_2.17`, if they name any.
///
/// All bytes are searched, also those outside the tables of symbols: what merely mentions a newer
/// version is found too, which is on the safe side.
pub fn newest(bytes: &[u8]) -> Option<(u32, u32)> {
    let places = bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    places.filter_map(|(at, _)| version(&bytes[at + MARK.len()..])).max()
}

fn version(bytes: &[u8]) -> Option<(u32, u32)> {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.')?;
    let mut numbers = std::str::from_utf8(&bytes[..end]).ok()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

const MARK: &[u8] = b"GLIBC_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_found_by_number() {
        let bytes = b"\0GLIBC_2.9\0open\0GLIBC_2.17\0GLIBC_2.2.5\0GLIBC_PRIVATE\0";
        assert_eq!(newest(bytes), Some((2, 17)));
        assert_eq!(newest(b"\0GLIBC_2.34\0GLIBC_2.17\0"), Some((2, 34)));
        assert_eq!(newest(b"static"), None);
    }

    #[test]
    fn this_very_program_names_one() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(newest(&program) >= Some((2, 2)));
    }
}
