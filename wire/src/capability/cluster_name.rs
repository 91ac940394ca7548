//! The name of a cluster.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A cluster's name among its user's clusters: 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with a
/// dot.
///
/// It is the name of a folder, so the rules keep out `..`, hidden folders and separators.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ClusterName(String);

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ClusterName {
    /// The cluster that is meant when none is named: `default`.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for ClusterName {
    type Err = BadClusterName;

    fn from_str(name: &str) -> Result<Self, BadClusterName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let good =
            (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed);
        if good { Ok(Self(name.to_owned())) } else { Err(BadClusterName) }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A text that is no [`ClusterName`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error(
    "a cluster's name is 1 to 64 letters, digits, \".\", \"_\" or \"-\", and does not begin with a dot"
)]
pub struct BadClusterName;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_folders() {
        for good in ["default", "a", "lab-2.x_y", "-x", &"n".repeat(64)] {
            assert_eq!(good.parse::<ClusterName>().unwrap().as_str(), good);
        }
        for bad in
            ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "ä", "a\0", "a\n", &"n".repeat(65)]
        {
            assert_eq!(bad.parse::<ClusterName>(), Err(BadClusterName), "{bad:?}");
        }
    }
}
