//! The surroundings of an engine process: the rank that MPI or Slurm gave it, and the variables
//! that its tasks find.

use std::ffi::OsString;

use crate::runtime::SlotIndex;

/// A process's place in the job that started it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rank {
    /// Its number in the job.
    pub(crate) global: u32,
    /// Its number among those on this machine.
    pub(crate) local: u32,
    /// The number of them on this machine.
    pub(crate) local_size: u32,
}

impl Rank {
    /// Finds it in the variables that Open MPI, other PMI starters and Slurm set. The worker has
    /// the same rule for the variable `rank` (`find_rank` in `namespace.py`).
    pub(crate) fn find(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name)?.parse::<u32>().ok();
        let first = |names: &[&str]| names.iter().find_map(|name| number(name));
        // Slurm sets it for a batch script too, which is one task of one.
        let by_slurm = || {
            number("SLURM_PROCID").filter(|_| number("SLURM_NTASKS").is_some_and(|tasks| tasks > 1))
        };
        let global = first(&["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"]).or_else(by_slurm)?;
        let local =
            first(&["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"]).unwrap_or(0);
        let local_size =
            first(&["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"]).unwrap_or(1).max(1);
        Some(Self { global, local, local_size })
    }
}

/// Variables for the code of tasks, beyond the engine's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    /// For all slots.
    pub(crate) all: Vec<(OsString, OsString)>,
    /// The GPU of each slot, if each gets one.
    pub(crate) devices: Vec<String>,
}

impl Variables {
    /// Those of one slot.
    pub(crate) fn of_slot(&self, slot: SlotIndex) -> Vec<(OsString, OsString)> {
        let device = self.devices.get(slot as usize).map(|device| (CUDA.into(), device.into()));
        self.all.iter().cloned().chain(device).collect()
    }
}

/// One GPU for each of `slots` slots, the first of which is number `first` on this machine: in turn
/// of those that the process may use (`visible`, as `CUDA_VISIBLE_DEVICES` says), else by the
/// slots' numbers.
pub(crate) fn devices(visible: Option<&str>, first: u32, slots: u32) -> Vec<String> {
    let names: Vec<&str> =
        visible.into_iter().flat_map(|list| list.split(',')).map(str::trim).collect();
    let device = |slot: u32| {
        let name = names.get(slot as usize % names.len().max(1));
        name.map_or_else(|| slot.to_string(), |name| (*name).to_owned())
    };
    (first..first.saturating_add(slots)).map(device).collect()
}

/// The variable that says which GPUs a process may use.
pub(crate) const CUDA: &str = "CUDA_VISIBLE_DEVICES";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_come_from_mpi_and_from_slurm_with_more_than_one_task() {
        let find = |set: &[(&str, &str)]| {
            let find = |name: &str| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            Rank::find(find)
        };
        let rank = |global, local, local_size| Some(Rank { global, local, local_size });
        let open_mpi = [
            ("OMPI_COMM_WORLD_RANK", "5"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
            ("SLURM_PROCID", "0"),
        ];
        assert_eq!(find(&open_mpi), rank(5, 1, 4));
        assert_eq!(
            find(&[("PMI_RANK", "3"), ("MPI_LOCALRANKID", "2"), ("MPI_LOCALNRANKS", "8")]),
            rank(3, 2, 8)
        );
        assert_eq!(find(&[("PMIX_RANK", "2")]), rank(2, 0, 1));
        assert_eq!(find(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")]), None);
        assert_eq!(find(&[("SLURM_PROCID", "0")]), None);
        assert_eq!(
            find(&[("SLURM_PROCID", "7"), ("SLURM_NTASKS", "16"), ("SLURM_LOCALID", "3")]),
            rank(7, 3, 1)
        );
        assert_eq!(find(&[("OMPI_COMM_WORLD_RANK", "no number")]), None);
    }

    #[test]
    fn gpus_go_to_slots_in_turn() {
        assert_eq!(devices(None, 0, 3), ["0", "1", "2"]);
        assert_eq!(devices(None, 4, 2), ["4", "5"]);
        assert_eq!(devices(Some("3, GPU-1"), 0, 3), ["3", "GPU-1", "3"]);
        assert_eq!(devices(Some("2,5,7"), 2, 2), ["7", "2"]);
        assert_eq!(devices(Some(""), 0, 2), ["", ""], "there are none to use");
        let variables =
            Variables { all: vec![("A".into(), "1".into())], devices: devices(None, 0, 2) };
        assert_eq!(
            variables.of_slot(1),
            [("A".into(), "1".into()), (CUDA.into(), "1".into())] as [(OsString, OsString); 2]
        );
    }
}
