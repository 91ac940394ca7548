//! The machines of the job of a batch system in which a command runs.

use std::collections::BTreeMap;

/// Looks a variable up.
type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The machines on which engines are started, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Allocation {
    /// This machine alone, with the number of cores that the job has here, if that is said.
    Local(Option<u32>),
    /// The nodes of a Slurm job: one `srun` reaches all of them, this one too.
    Slurm {
        /// The number of nodes.
        nodes: u32,
        /// The cores of this one.
        cores: Option<u32>,
    },
    /// This machine, with so many cores, and others, each with its cores.
    Hosts {
        /// The cores here.
        here: u32,
        /// The words that run a command on another one: its name follows.
        launcher: &'static [&'static str],
        /// The others.
        others: Vec<(String, u32)>,
    },
}

/// The command of each system that reaches another machine of a job. PBS has none that passes on
/// standard input.
const SSH: &[&str] = &["ssh", "-T", "-oBatchMode=yes", "-oConnectTimeout=10", "-oLogLevel=ERROR"];
const QRSH: &[&str] = &["qrsh", "-inherit"];
const BLAUNCH: &[&str] = &["blaunch"];

impl Allocation {
    /// Finds it in the variables of Slurm, PBS, Grid Engine and LSF, and in the files that they
    /// name.
    ///
    /// # Errors
    /// A file cannot be read, or a name in it is none of a machine.
    pub fn find(variable: Variable<'_>, this_host: &str) -> Result<Self, String> {
        let number = |name: &str| variable(name)?.parse::<u32>().ok().filter(|number| *number > 0);
        if variable("SLURM_JOB_ID").is_some() {
            let nodes = number("SLURM_JOB_NUM_NODES").or_else(|| number("SLURM_NNODES"));
            let cores = number("SLURM_CPUS_ON_NODE");
            return Ok(match nodes {
                Some(nodes) if nodes > 1 => Self::Slurm { nodes, cores },
                _ => Self::Local(cores),
            });
        }
        let read =
            |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        if let Some(path) = variable("PE_HOSTFILE") {
            let text = read(&path)?;
            let words = |line: &str| {
                let mut words = line.split_whitespace();
                Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
            };
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            let hosts = lines.map(|line| words(line).ok_or(format!("{path}: not a host: {line}")));
            return Self::of(hosts.collect::<Result<_, _>>()?, QRSH, this_host);
        }
        if let Some(path) = variable("PBS_NODEFILE") {
            let text = read(&path)?;
            return Self::of(counted(text.split_whitespace()), SSH, this_host);
        }
        if let Some(hosts) = variable("LSB_HOSTS") {
            return Self::of(counted(hosts.split_whitespace()), BLAUNCH, this_host);
        }
        Ok(Self::Local(number("NSLOTS")))
    }

    /// The machines of a list, of which one is this one: the first, if none has its name.
    fn of(
        hosts: Vec<(String, u32)>,
        launcher: &'static [&'static str],
        this_host: &str,
    ) -> Result<Self, String> {
        // A name that begins with `-` would be a flag of the launcher.
        let is_name = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
        let is_wrong = |name: &str| name.starts_with('-') || !name.chars().all(is_name);
        if let Some((wrong, _)) = hosts.iter().find(|(name, _)| is_wrong(name)) {
            return Err(format!("`{wrong}` is no machine's name"));
        }
        let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        let here = hosts.iter().position(|(name, _)| short(name) == short(this_host)).unwrap_or(0);
        let mut others = hosts;
        if others.is_empty() {
            return Ok(Self::Local(None));
        }
        let (_, here) = others.remove(here);
        Ok(if others.is_empty() {
            Self::Local(Some(here))
        } else {
            Self::Hosts { here, launcher, others }
        })
    }
}

/// Machines in the order of their first mention, with the number of their mentions.
fn counted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(String, u32)> {
    let (mut order, mut counts) = (Vec::new(), BTreeMap::new());
    for name in names {
        let count = counts.entry(name).or_insert(0);
        if *count == 0 {
            order.push(name);
        }
        *count += 1;
    }
    order.into_iter().map(|name| (name.to_owned(), counts[name])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(set: &[(&str, &str)]) -> Result<Allocation, String> {
        let find = |name: &str| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Allocation::find(&find, "n1.example.org")
    }

    fn hosts(here: u32, launcher: &'static [&'static str], others: &[(&str, u32)]) -> Allocation {
        let others = others.iter().map(|(name, cores)| ((*name).to_owned(), *cores)).collect();
        Allocation::Hosts { here, launcher, others }
    }

    #[test]
    fn machines_are_found_as_each_system_says_them() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        assert_eq!(find(&[]), Ok(Allocation::Local(None)));
        let slurm = [("SLURM_JOB_ID", "1"), ("SLURM_CPUS_ON_NODE", "4"), ("SLURM_NNODES", "2")];
        assert_eq!(find(&slurm[..2]), Ok(Allocation::Local(Some(4))));
        assert_eq!(find(&slurm), Ok(Allocation::Slurm { nodes: 2, cores: Some(4) }));
        let pbs = write("pbs", "n2\nn1\nn2\n");
        assert_eq!(find(&[("PBS_NODEFILE", &pbs)]), Ok(hosts(1, SSH, &[("n2", 2)])));
        let sge = write("sge", "m1 4 all.q@m1 UNDEFINED\nm2.org 2 all.q@m2 UNDEFINED\n");
        let expected = hosts(4, QRSH, &[("m2.org", 2)]);
        assert_eq!(find(&[("PE_HOSTFILE", &sge), ("NSLOTS", "6")]), Ok(expected));
        assert_eq!(find(&[("LSB_HOSTS", "n1 n1 n3")]), Ok(hosts(2, BLAUNCH, &[("n3", 1)])));
        assert_eq!(find(&[("LSB_HOSTS", "n1 n1")]), Ok(Allocation::Local(Some(2))));
    }

    #[test]
    fn names_that_are_flags_or_commands_are_refused() {
        for wrong in ["n1 -oProxyCommand=x", "n1 a;b", "n1 $(x)"] {
            assert!(find(&[("LSB_HOSTS", wrong)]).unwrap_err().contains("no machine's name"));
        }
        assert!(find(&[("PE_HOSTFILE", "/no/such/file")]).unwrap_err().starts_with("/no/such"));
    }
}
