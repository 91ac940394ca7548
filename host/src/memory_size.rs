//! Sizes of memory, as flags name them.

use std::str::FromStr;

/// A size in bytes, or a share of the machine's memory.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum MemorySize {
    /// Bytes.
    Bytes(u64),
    /// Percent of the machine's memory.
    Percent(u64),
}

impl MemorySize {
    /// The bytes that it means on this machine.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => machine_bytes() / 100 * percent,
        }
    }
}

/// A size that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a size is written as 512M, 4G or 25%, and is at least 64M")]
pub struct BadMemorySize;

impl FromStr for MemorySize {
    type Err = BadMemorySize;

    fn from_str(text: &str) -> Result<Self, BadMemorySize> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.parse().ok().filter(|percent| (1..=90).contains(percent));
            return percent.map(Self::Percent).ok_or(BadMemorySize);
        }
        let text = text.strip_suffix('B').unwrap_or(text).strip_suffix('i').unwrap_or(text);
        let (number, shift) = match text.as_bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
            Some(b'T' | b't') => (&text[..text.len() - 1], 40),
            _ => (text, 0),
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        bytes.filter(|bytes| *bytes >= 64 << 20).map(Self::Bytes).ok_or(BadMemorySize)
    }
}

fn machine_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_shares_and_nothing_else() {
        assert_eq!("64M".parse(), Ok(MemorySize::Bytes(64 << 20)));
        assert_eq!("4GiB".parse(), Ok(MemorySize::Bytes(4 << 30)));
        assert_eq!("25%".parse(), Ok(MemorySize::Percent(25)));
        for wrong in ["", "G", "0", "63M", "0%", "91%", "-1G", "4X", "99999999999G"] {
            assert_eq!(wrong.parse::<MemorySize>(), Err(BadMemorySize), "{wrong}");
        }
        assert!(MemorySize::Percent(25).bytes() > 0);
    }
}
