//! The answers of the batch system about the pool's jobs.

use super::job::{End, Job, JobId, JobState, Listed};
use super::nodes::{LeavesOut, NodeEnd};
use super::{ENDED_MAX, Keeper};

/// A job that is missing in so many answers in a row has ended.
const MISSING_MAX: u32 = 10;

impl Keeper {
    /// The answer to [`super::Action::Query`]: all jobs of this pool, or why there is no answer.
    /// One that is late, or comes twice, is left aside.
    pub fn handle_listed(&mut self, now_ms: u64, number: u64, answer: Result<Vec<Listed>, String>) {
        let Some(asked_ms) = self.questions.take(now_ms, number) else { return };
        let listed = match answer {
            Ok(listed) => listed,
            Err(why) => {
                self.blind = Some(why);
                self.questions.note_failure();
                return;
            }
        };
        self.blind = None;
        self.questions.note_answer(asked_ms);
        let unclear = self.unclear.take_if(|(since_ms, _)| asked_ms >= *since_ms);
        let found = self.submission.or(unclear.and_then(|(_, submission)| submission));
        for job in &listed {
            self.handle_one(now_ms, asked_ms, job, found.map(|it| (it.engines, it.lasting)));
        }
        self.note_missing(now_ms, asked_ms, &listed);
    }

    fn handle_one(
        &mut self,
        now_ms: u64,
        asked_ms: u64,
        listed: &Listed,
        found: Option<(u32, bool)>,
    ) {
        if !self.jobs.contains_key(&listed.id) {
            let is_old = asked_ms_is_before_end(&self.ended, &listed.id, asked_ms);
            if matches!(listed.state, JobState::Ended(_)) || is_old {
                return;
            }
            // An earlier keeper's, or one that was started again by the batch system.
            let again = self.ended.iter().find(|(id, _)| *id == listed.id);
            let (engines, lasting) = again
                .map(|(_, job)| (job.engines, job.lasting))
                .or(found)
                .unwrap_or((self.shape.per_job, false));
            self.ended.retain(|(id, _)| *id != listed.id);
            self.jobs.insert(listed.id.clone(), Job::new(now_ms, engines, lasting));
        }
        let job = self.jobs.get_mut(&listed.id).expect("it is there by now");
        (job.missing, job.is_seen) = (0, true);
        job.node.clone_from(&listed.node);
        job.why.clone_from(&listed.why);
        job.left.clone_from(&listed.left);
        match listed.state {
            JobState::Pending if job.online == 0 => {
                if job.state != JobState::Pending {
                    (job.state, job.had_engine) = (JobState::Pending, false);
                }
            }
            JobState::Pending => {}
            JobState::Running => {
                if job.state == JobState::Pending {
                    (job.state, job.since_ms) = (JobState::Running, now_ms);
                }
            }
            JobState::Ended(end) => self.note_end(now_ms, &listed.id, end),
        }
    }

    /// Jobs of which the answer knows nothing. Those that were submitted while it was on its way
    /// may be missing, and those whose engines are here live.
    fn note_missing(&mut self, now_ms: u64, asked_ms: u64, listed: &[Listed]) {
        let mut gone = Vec::new();
        for (id, job) in &mut self.jobs {
            let is_listed = listed.iter().any(|it| it.id == *id);
            if is_listed || job.online > 0 || job.submitted_ms >= asked_ms {
                continue;
            }
            job.missing += 1;
            self.questions.ask_often(now_ms);
            if job.missing >= MISSING_MAX {
                gone.push(id.clone());
            }
        }
        for id in gone {
            self.note_end(now_ms, &id, End::Gone);
        }
    }

    fn note_end(&mut self, now_ms: u64, id: &JobId, end: End) {
        let mut job = self.jobs.remove(id).expect("only a known job ends");
        let can_leave_out = match self.shape.leaves_out {
            LeavesOut::Never => false,
            LeavesOut::OnceProven => self.proven,
            LeavesOut::Always => true,
        };
        let of_node = self.nodes.note_end(now_ms, &job, end, can_leave_out);
        let is_vain = !job.had_engine && job.leaving.is_none() && !end.is_excused();
        if is_vain && of_node != NodeEnd::Known {
            self.gate.note_vain_end(&job.why);
        }
        if let NodeEnd::Hopeless(why) = of_node {
            self.gate.pause(why);
        }
        (job.state, job.since_ms) = (JobState::Ended(end), now_ms);
        (job.online, job.busy) = (0, 0);
        self.ended.push_back((id.clone(), job));
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
    }
}

/// Returns true if the job has ended since this question was asked.
fn asked_ms_is_before_end(
    ended: &std::collections::VecDeque<(JobId, Job)>,
    id: &JobId,
    asked_ms: u64,
) -> bool {
    ended.iter().any(|(it, job)| it == id && job.since_ms >= asked_ms)
}
