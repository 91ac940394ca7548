//! The decision to send jobs to the interpreter ahead of time.

/// The pace of recent jobs. The next may be sent before they end if they were short, so that they
/// are rarely cancelled and never recalled, and quiet, so that output is attributed without holding
/// it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Jobs to see before it is brisk.
    wanted: u32,
}

impl Pace {
    /// A job has ended.
    pub(super) fn note(&mut self, run_us: u64, has_output: bool) {
        self.wanted = if has_output {
            QUIET_JOBS_WANTED
        } else if run_us > SHORT_JOB_US {
            self.wanted.max(1)
        } else {
            self.wanted.saturating_sub(1)
        };
    }

    /// Returns true if the next job may be sent before the last one has ended.
    pub(super) fn is_brisk(&self) -> bool {
        self.wanted == 0
    }
}

const SHORT_JOB_US: u64 = 1000;
const QUIET_JOBS_WANTED: u32 = 16;
