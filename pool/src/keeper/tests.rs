//! The rules of a keeper, one by one.

use super::*;

const NOW: u64 = 1_000_000;

fn shape(engines: u32, per_job: u32) -> Shape {
    let limits = Limits { jobs_max: 100, pending_max: 8, array_max: 1_000 };
    let leaves_out = LeavesOut::Always;
    let wanted = Wanted::exactly(engines);
    Shape { wanted, per_job, limits, leaves_out, ends_now: false }
}

/// A keeper that knows that there are no jobs, and that the broker is there.
fn keeper(shape: Shape) -> Keeper {
    let mut keeper = Keeper::new(NOW, shape, Saved::default(), None);
    assert_eq!(keeper.poll_action(NOW), Some(Action::Query(1)));
    assert_eq!(keeper.poll_action(NOW), None);
    keeper.handle_listed(NOW, 1, Ok(Vec::new()));
    keeper.handle_engines(NOW, &BTreeMap::new());
    keeper
}

fn ids(array: u32, jobs: u32) -> Vec<JobId> {
    (1..=jobs).map(|n| JobId(format!("{array}_{n}"))).collect()
}

fn submit(jobs: u32, engines: u32) -> Action {
    Action::Submit(Submission { jobs, engines, lasting: true })
}

fn online(ids: &[JobId], each: u32) -> BTreeMap<JobId, EnginesOfJob> {
    ids.iter().map(|id| (id.clone(), EnginesOfJob { online: each, busy: 0 })).collect()
}

fn listed(id: &JobId, state: JobState) -> Listed {
    let (node, left) = (String::new(), String::new());
    Listed { id: id.clone(), state, node, why: String::new(), left }
}

/// Answers the next question with these jobs, and returns the time of the answer.
fn answer(keeper: &mut Keeper, from_ms: u64, jobs: &[Listed]) -> u64 {
    for at in (from_ms..from_ms + 60_000).step_by(250) {
        keeper.handle_engines(at, &BTreeMap::new());
        if let Some(Action::Query(number)) = keeper.poll_action(at) {
            keeper.handle_listed(at, number, Ok(jobs.to_vec()));
            return at;
        }
    }
    panic!("nothing is asked");
}

#[test]
fn one_job_goes_ahead_and_the_rest_follows_with_a_smaller_one() {
    let mut keeper = keeper(shape(11, 4));
    assert_eq!(keeper.poll_action(NOW), Some(submit(1, 4)));
    keeper.handle_submitted(NOW, Ok(ids(1, 1)));
    assert_eq!(keeper.poll_action(NOW + 2_000), None);
    keeper.handle_engines(NOW + 2_000, &online(&ids(1, 1), 4));
    assert_eq!(keeper.poll_action(NOW + 2_000), Some(submit(1, 4)));
    keeper.handle_submitted(NOW + 2_100, Ok(ids(2, 1)));
    assert_eq!(keeper.poll_action(NOW + 3_999), Some(Action::Query(2)));
    keeper.handle_listed(NOW + 3_999, 2, Err("squeue fails".to_owned()));
    assert_eq!(keeper.poll_action(NOW + 4_000), None, "nothing is submitted by the blind");
    keeper.handle_engines(NOW + 34_000, &online(&[ids(1, 1), ids(2, 1)].concat(), 4));
    assert_eq!(keeper.poll_action(NOW + 34_000), Some(Action::Query(3)));
    let jobs = [ids(1, 1), ids(2, 1)].concat();
    let jobs: Vec<Listed> = jobs.iter().map(|id| listed(id, JobState::Running)).collect();
    keeper.handle_listed(NOW + 34_000, 3, Ok(jobs));
    assert_eq!(keeper.poll_action(NOW + 34_000), Some(submit(1, 3)));
}

#[test]
fn five_hundred_jobs_cost_five_commands_in_the_first_minute() {
    let limits = Limits { jobs_max: 500, pending_max: 500, array_max: 1_000 };
    let shape = Shape { limits, ..shape(500, 1) };
    let mut keeper = Keeper::new(NOW, shape, Saved::default(), None);
    let (mut jobs, mut commands, mut told) = (Vec::new(), 0, Vec::new());
    for at in (NOW..NOW + 60_000).step_by(250) {
        // An engine of the first job comes within two seconds, and seven others later.
        let is_there = usize::from(at > NOW + 1_500) * 8.min(jobs.len());
        keeper.handle_engines(at, &online(&jobs[..is_there], 1));
        while let Some(action) = keeper.poll_action(at) {
            commands += 1;
            told.push((at - NOW, action.clone()));
            match action {
                Action::Query(number) => {
                    let all = jobs.iter().map(|id| listed(id, JobState::Pending));
                    keeper.handle_listed(at, number, Ok(all.collect()));
                }
                Action::Submit(submission) => {
                    let new = ids(commands, submission.jobs);
                    jobs.extend(new.clone());
                    keeper.handle_submitted(at, Ok(new));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((jobs.len(), keeper.jobs().len()), (500, 500));
    assert!(commands <= 5, "{commands} commands: {told:?}");
}

#[test]
fn three_jobs_that_end_at_once_pause_the_pool_until_it_is_resumed() {
    let mut keeper = keeper(shape(64, 1));
    let mut now = NOW;
    for n in 1..=3 {
        assert_eq!(keeper.poll_action(now), Some(submit(1, 1)), "job {n}");
        let id = ids(n, 1);
        keeper.handle_submitted(now, Ok(id.clone()));
        now = answer(&mut keeper, now, &[listed(&id[0], JobState::Ended(End::Failed))]);
    }
    assert_eq!(keeper.poll_action(now), None);
    let said = keeper.describe();
    assert_eq!(said, "paused: 3 jobs in a row ended without an engine");
    let mut again = Keeper::new(now, shape(64, 1), keeper.saved(), None);
    now = answer(&mut again, now, &[]);
    assert_eq!(again.poll_action(now), None, "also after a restart");
    again.handle_resume(now);
    assert_eq!(again.poll_action(now + 2_000), Some(submit(1, 1)));
}

#[test]
fn ends_that_say_nothing_about_the_script_pause_nothing() {
    for end in [End::TimeLimit, End::Preempted, End::NodeFailed] {
        let mut keeper = keeper(shape(1, 1));
        let mut now = NOW;
        for n in 1..10 {
            assert_eq!(keeper.poll_action(now), Some(submit(1, 1)), "job {n}");
            keeper.handle_submitted(now, Ok(ids(n, 1)));
            now = answer(&mut keeper, now, &[listed(&ids(n, 1)[0], JobState::Ended(end))]);
        }
    }
}

#[test]
fn refused_submits_are_made_again_later_and_later_and_then_no_more() {
    let mut keeper = keeper(shape(1, 1));
    let mut times = Vec::new();
    for second in 0..7_200 {
        let at = NOW + second * 1_000;
        keeper.handle_engines(at, &BTreeMap::new());
        while let Some(action) = keeper.poll_action(at) {
            if let Action::Query(number) = action {
                keeper.handle_listed(at, number, Ok(Vec::new()));
            } else {
                times.push(second);
                keeper.handle_submitted(at, Err(Refusal::Refused("no".to_owned())));
            }
        }
    }
    assert_eq!(times, [0, 2, 62, 362, 1_262]);
    assert_eq!(keeper.describe(), "paused: 5 submits in a row failed: no");
}

#[test]
fn what_is_forbidden_pauses_at_once() {
    let mut keeper = keeper(shape(1, 1));
    assert_eq!(keeper.poll_action(NOW), Some(submit(1, 1)));
    keeper.handle_submitted(NOW, Err(Refusal::Forbidden("not yours".to_owned())));
    assert_eq!(keeper.describe(), "paused: not yours");
}

#[test]
fn a_full_queue_is_waited_for_and_pauses_nothing() {
    let mut keeper = keeper(shape(1, 1));
    for minute in 0..300 {
        let at = NOW + minute * 60_000;
        keeper.handle_engines(at, &BTreeMap::new());
        while let Some(action) = keeper.poll_action(at) {
            match action {
                Action::Query(number) => keeper.handle_listed(at, number, Ok(Vec::new())),
                _ => keeper.handle_submitted(at, Err(Refusal::Full("full".to_owned()))),
            }
        }
    }
    assert_eq!(keeper.gate.paused, None);
    assert_eq!(keeper.describe(), "full");
}

#[test]
fn a_missing_job_has_ended_at_the_tenth_time() {
    let mut keeper = keeper(shape(1, 1));
    assert_eq!(keeper.poll_action(NOW), Some(submit(1, 1)));
    keeper.handle_submitted(NOW, Ok(ids(1, 1)));
    let mut now = NOW;
    for _ in 0..9 {
        now = answer(&mut keeper, now + 250, &[]);
        assert_eq!(keeper.jobs().len(), 1);
    }
    answer(&mut keeper, now + 250, &[]);
    assert_eq!(keeper.jobs().len(), 0);
}

#[test]
fn a_smaller_pool_loses_waiting_jobs_first_and_drains_the_idle() {
    let mut keeper = keeper(shape(4, 1));
    keeper.proven = true;
    assert_eq!(keeper.poll_action(NOW), Some(submit(4, 1)));
    let all = ids(1, 4);
    keeper.handle_submitted(NOW, Ok(all.clone()));
    let mut engines = online(&all[..3], 1);
    engines.get_mut(&all[0]).unwrap().busy = 1;
    keeper.handle_engines(NOW + 500, &engines);
    keeper.handle_shape(shape(1, 1));
    let first = keeper.poll_action(NOW + 500);
    let second = keeper.poll_action(NOW + 500);
    let third = keeper.poll_action(NOW + 500);
    let told = [first, second, third].map(|action| action.unwrap());
    assert!(told.contains(&Action::CancelWaiting(vec![all[3].clone()])), "{told:?}");
    assert!(told.contains(&Action::Drain(all[1].clone())), "{told:?}");
    assert!(told.contains(&Action::Drain(all[2].clone())), "{told:?}");
    // A drained job is cancelled a minute after its engines have left, not before.
    keeper.handle_engines(NOW + 1_000, &online(&all[..1], 1));
    let cancels = |keeper: &mut Keeper, at| {
        std::iter::from_fn(|| keeper.poll_action(at))
            .any(|action| matches!(action, Action::Cancel(ids) if ids.contains(&all[1])))
    };
    for second in [20, 40, 60] {
        keeper.handle_engines(NOW + second * 1_000, &online(&all[..1], 1));
        assert!(!cancels(&mut keeper, NOW + second * 1_000));
    }
    keeper.handle_engines(NOW + 62_000, &online(&all[..1], 1));
    assert!(cancels(&mut keeper, NOW + 62_000));
}

#[test]
fn a_pool_that_ends_now_cancels_all_jobs_until_they_have_ended() {
    let mut keeper = keeper(shape(3, 1));
    keeper.proven = true;
    assert_eq!(keeper.poll_action(NOW), Some(submit(3, 1)));
    let all = ids(1, 3);
    keeper.handle_submitted(NOW, Ok(all.clone()));
    let mut engines = online(&all[..2], 1);
    engines.get_mut(&all[0]).unwrap().busy = 1;
    keeper.handle_engines(NOW + 500, &engines);
    keeper.handle_shape(shape(1, 1));
    while keeper.poll_action(NOW + 500).is_some() {}
    keeper.handle_shape(Shape { ends_now: true, ..shape(0, 1) });
    let mut told = Vec::new();
    // Also without word of the broker.
    for at in (NOW + 500..NOW + 61_000).step_by(500) {
        while let Some(action) = keeper.poll_action(at) {
            match action {
                Action::Query(number) => {
                    let jobs = all.iter().map(|id| listed(id, JobState::Running)).collect();
                    keeper.handle_listed(at, number, Ok(jobs));
                }
                Action::Cancel(ids) => told.push((at - NOW, ids)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(told, [500, 30_500, 60_500].map(|at| (at, all.clone())));
}

#[test]
fn a_job_that_was_to_leave_and_is_wanted_again_stays() {
    let mut keeper = keeper(shape(2, 1));
    keeper.proven = true;
    assert_eq!(keeper.poll_action(NOW), Some(submit(2, 1)));
    let all = ids(1, 2);
    keeper.handle_submitted(NOW, Ok(all.clone()));
    // They run by the word of the batch system, and have no engines yet that could be told.
    let jobs: Vec<Listed> = all.iter().map(|id| listed(id, JobState::Running)).collect();
    let now = answer(&mut keeper, NOW, &jobs);
    keeper.handle_shape(shape(1, 1));
    keeper.handle_engines(now, &BTreeMap::new());
    assert_eq!(keeper.poll_action(now), None);
    assert_eq!(keeper.counted().count(), 1);
    keeper.handle_shape(shape(2, 1));
    let told: Vec<Action> = std::iter::from_fn(|| keeper.poll_action(now + 2_500)).collect();
    assert!(!told.iter().any(|it| matches!(it, Action::Submit(_))), "{told:?}");
    assert_eq!(keeper.counted().count(), 2);
}

#[test]
fn a_keeper_that_starts_again_drains_jobs_at_work_and_cancels_none() {
    let mut keeper = keeper(shape(2, 1));
    keeper.proven = true;
    let all = ids(1, 2);
    assert_eq!(keeper.poll_action(NOW), Some(submit(2, 1)));
    keeper.handle_submitted(NOW, Ok(all.clone()));
    keeper.handle_engines(NOW + 500, &online(&all, 1));
    let mut keeper = Keeper::new(NOW + 9_000, shape(0, 1), keeper.saved(), None);
    assert!(matches!(keeper.poll_action(NOW + 9_000), Some(Action::Query(_))));
    assert_eq!(keeper.poll_action(NOW + 9_000), None, "neither side has been heard");
    let jobs: Vec<Listed> = all.iter().map(|id| listed(id, JobState::Running)).collect();
    keeper.handle_listed(NOW + 9_100, 1, Ok(jobs));
    assert_eq!(keeper.poll_action(NOW + 9_100), None, "the broker has not been heard");
    keeper.handle_engines(NOW + 9_200, &online(&all, 1));
    let told: Vec<Action> = std::iter::from_fn(|| keeper.poll_action(NOW + 9_200)).collect();
    let drains: Vec<Action> = all.into_iter().map(Action::Drain).collect();
    assert_eq!(told, drains);
}

#[test]
fn an_engine_that_names_a_job_of_others_makes_it_no_job_of_the_pool() {
    let mut keeper = keeper(shape(1, 1));
    keeper.handle_engines(NOW, &online(&[JobId("--me".to_owned()), JobId("77".to_owned())], 1));
    assert!(keeper.jobs().is_empty());
}

#[test]
fn jobs_of_an_earlier_keeper_are_found_and_not_submitted_again() {
    let begun = Submission { jobs: 3, engines: 2, lasting: true };
    let saved = Saved { proven: true, ..Saved::default() };
    let mut keeper = Keeper::new(NOW, shape(6, 2), saved, Some(begun));
    keeper.handle_engines(NOW, &BTreeMap::new());
    assert_eq!(keeper.poll_action(NOW), Some(Action::Query(1)));
    assert_eq!(keeper.poll_action(NOW), None, "nothing before the answer");
    let jobs: Vec<Listed> = ids(7, 3).iter().map(|id| listed(id, JobState::Pending)).collect();
    keeper.handle_listed(NOW, 1, Ok(jobs));
    assert_eq!(keeper.poll_action(NOW + 3_000), None);
    assert_eq!(keeper.jobs().values().map(|job| job.engines).sum::<u32>(), 6);
}

#[test]
fn without_a_broker_nothing_is_submitted() {
    let mut keeper = Keeper::new(NOW, shape(1, 1), Saved::default(), None);
    assert_eq!(keeper.poll_action(NOW), Some(Action::Query(1)));
    keeper.handle_listed(NOW, 1, Ok(Vec::new()));
    assert_eq!(keeper.poll_action(NOW), None);
    keeper.handle_engines(NOW, &BTreeMap::new());
    assert_eq!(keeper.poll_action(NOW + 40_000), Some(Action::Query(2)));
    assert_eq!(keeper.poll_action(NOW + 40_000), None);
}

#[test]
fn an_elastic_pool_keeps_its_least_engines_and_never_drains_for_want_of_work() {
    let wanted = Wanted { min: 1, max: 4 };
    let mut keeper = keeper(Shape { wanted, ..shape(0, 1) });
    assert_eq!(keeper.poll_action(NOW), Some(submit(1, 1)));
    keeper.handle_submitted(NOW, Ok(ids(1, 1)));
    for second in 0..9 {
        let at = NOW + second * 1_000;
        keeper.handle_engines(at, &online(&ids(1, 1), 1));
        keeper.handle_tasks(at, 10);
        if let Some(Action::Submit(submission)) = keeper.poll_action(at) {
            assert_eq!((second, submission.jobs, submission.lasting), (5, 3, false));
            keeper.handle_submitted(at, Ok(ids(2, 3)));
        }
    }
    let all = [ids(1, 1), ids(2, 3)].concat();
    keeper.handle_tasks(NOW + 9_000, 0);
    keeper.handle_engines(NOW + 9_000, &online(&all, 1));
    assert_eq!((keeper.poll_action(NOW + 9_000), keeper.jobs().len()), (None, 4));
}

/// A job that has failed on a node.
fn failed_on(id: &JobId, node: &str) -> Listed {
    let (node, why) = (node.to_owned(), "no space left".to_owned());
    Listed { node, why, ..listed(id, JobState::Ended(End::Failed)) }
}

/// A keeper of which one engine of two has come, and the time.
fn proven_keeper(leaves_out: LeavesOut) -> (Keeper, u64) {
    let mut keeper = keeper(Shape { leaves_out, ..shape(2, 1) });
    assert_eq!(keeper.poll_action(NOW), Some(submit(1, 1)));
    keeper.handle_submitted(NOW, Ok(ids(1, 1)));
    keeper.handle_engines(NOW + 1_000, &online(&ids(1, 1), 1));
    (keeper, NOW + 2_000)
}

/// Has the second engine's job submitted, and lets it fail on this node.
fn fail_once(keeper: &mut Keeper, now: u64, number: u32, node: &str) -> u64 {
    let good = Listed { node: "n2".to_owned(), ..listed(&ids(1, 1)[0], JobState::Running) };
    for at in (now..now + 120_000).step_by(250) {
        keeper.handle_engines(at, &online(&ids(1, 1), 1));
        while let Some(action) = keeper.poll_action(at) {
            match action {
                Action::Submit(_) => keeper.handle_submitted(at, Ok(ids(number, 1))),
                Action::Query(question) => {
                    let id = &ids(number, 1)[0];
                    let failed = keeper.jobs().contains_key(id).then(|| failed_on(id, node));
                    let jobs = [Some(good.clone()), failed.clone()].into_iter().flatten();
                    keeper.handle_listed(at, question, Ok(jobs.collect()));
                    if failed.is_some() {
                        return at;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    panic!("no job fails: {keeper:?}");
}

#[test]
fn a_node_that_ends_jobs_at_once_is_left_out_and_pauses_nothing() {
    let (mut keeper, now) = proven_keeper(LeavesOut::Always);
    let now = fail_once(&mut keeper, now, 2, "n1");
    assert_eq!(keeper.left_out(now), Vec::<String>::new());
    let now = fail_once(&mut keeper, now, 3, "n1");
    assert_eq!((keeper.left_out(now), keeper.describe()), (vec!["n1".to_owned()], "ok".to_owned()));
    let again = Keeper::new(now, shape(2, 1), keeper.saved(), None);
    assert_eq!(again.left_out(now + 3_599_000), ["n1"], "also after a restart");
    assert_eq!(again.left_out(now + 3_600_000), Vec::<String>::new(), "not for ever");
    // After that time one such end is enough.
    let later = fail_once(&mut keeper, now + 3_600_000, 4, "n1");
    assert_eq!(keeper.left_out(later), ["n1"]);
    keeper.handle_resume(later);
    assert_eq!(keeper.left_out(later), Vec::<String>::new());
}

#[test]
fn a_job_that_lasts_on_a_node_clears_it() {
    let (mut keeper, now) = proven_keeper(LeavesOut::Always);
    let now = fail_once(&mut keeper, now, 2, "n1");
    let due = (now..).step_by(250).find(|at| {
        keeper.handle_engines(*at, &online(&ids(1, 1), 1));
        keeper.poll_action(*at) == Some(submit(1, 1))
    });
    let now = due.unwrap();
    keeper.handle_submitted(now, Ok(ids(3, 1)));
    let both = [ids(1, 1), ids(3, 1)].concat();
    keeper.handle_engines(now + 1_000, &online(&both, 1));
    let job = keeper.jobs.get_mut(&both[1]).unwrap();
    job.node = "n1".to_owned();
    keeper.handle_engines(now + 60_000, &online(&both, 1));
    assert_ne!(keeper.saved().nodes, Nodes::default(), "it does not last yet");
    keeper.handle_engines(now + 61_000, &online(&both, 1));
    assert_eq!(keeper.saved().nodes, Nodes::default());
}

#[test]
fn a_node_that_cannot_be_left_out_pauses_the_pool_with_the_reason() {
    let (mut keeper, mut now) = proven_keeper(LeavesOut::Never);
    for number in 2..=4 {
        assert_eq!(keeper.gate.paused, None, "job {number}");
        now = fail_once(&mut keeper, now, number, "n1");
        // Engines that come elsewhere say nothing about this node.
        keeper.gate.note_engine();
    }
    let said = keeper.describe();
    assert_eq!(said, "paused: 3 jobs on node n1 ended at once: no space left");
    assert_eq!(keeper.left_out(now), Vec::<String>::new());
}

#[test]
fn jobs_on_a_node_that_is_left_out_in_vain_pause_the_pool() {
    let (mut keeper, mut now) = proven_keeper(LeavesOut::Always);
    for number in 2..=6 {
        assert_eq!(keeper.gate.paused, None, "job {number}");
        now = fail_once(&mut keeper, now, number, "n1");
        keeper.gate.note_engine();
    }
    let said = keeper.describe();
    let expected = "paused: jobs begin on node n1, though they leave it out, and end at once: ";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn many_jobs_of_one_array_on_one_bad_node_pause_nothing() {
    let limits = Limits { jobs_max: 100, pending_max: 8, array_max: 1_000 };
    let mut keeper = keeper(Shape { limits, ..shape(9, 1) });
    assert_eq!(keeper.poll_action(NOW), Some(submit(1, 1)));
    keeper.handle_submitted(NOW, Ok(ids(1, 1)));
    keeper.handle_engines(NOW + 2_000, &online(&ids(1, 1), 1));
    assert_eq!(keeper.poll_action(NOW + 2_000), Some(submit(8, 1)));
    keeper.handle_submitted(NOW + 2_000, Ok(ids(2, 8)));
    let mut jobs: Vec<Listed> = ids(2, 8).iter().map(|id| failed_on(id, "n1")).collect();
    jobs.push(listed(&ids(1, 1)[0], JobState::Running));
    let now = answer(&mut keeper, NOW + 3_000, &jobs);
    assert_eq!((keeper.gate.paused.as_ref(), keeper.left_out(now)), (None, vec!["n1".to_owned()]));
}

#[test]
fn a_pool_without_another_node_takes_the_bad_one_back_and_pauses() {
    let mut keeper = keeper(shape(4, 1));
    let mut now = NOW;
    for number in 1..=2 {
        assert_eq!(keeper.poll_action(now), Some(submit(1, 1)), "job {number}");
        keeper.handle_submitted(now, Ok(ids(number, 1)));
        now = answer(&mut keeper, now, &[failed_on(&ids(number, 1)[0], "n1")]);
    }
    assert_eq!(keeper.left_out(now), ["n1"]);
    assert_eq!(keeper.poll_action(now), Some(submit(1, 1)));
    keeper.handle_submitted(now, Err(Refusal::NoNode("no node".to_owned())));
    assert_eq!((keeper.left_out(now), keeper.describe()), (Vec::new(), "ok".to_owned()));
    let due = (now..now + 5_000).step_by(250).find(|at| {
        keeper.handle_engines(*at, &BTreeMap::new());
        keeper.poll_action(*at) == Some(submit(1, 1))
    });
    now = due.unwrap();
    keeper.handle_submitted(now, Ok(ids(3, 1)));
    now = answer(&mut keeper, now, &[failed_on(&ids(3, 1)[0], "n1")]);
    let said = "paused: 3 jobs in a row ended without an engine: no space left";
    assert_eq!((keeper.describe().as_str(), keeper.left_out(now)), (said, Vec::new()));
}

#[test]
fn ends_that_say_nothing_about_a_node_leave_none_out() {
    for (end, node) in [
        (End::Cancelled, "n1"),
        (End::NodeFailed, "n1"),
        (End::Failed, ""),
        (End::Failed, "n[1-2]"),
        (End::Failed, "-x"),
    ] {
        let (mut keeper, now) = proven_keeper(LeavesOut::Always);
        keeper.handle_submitted_jobs(now, 4);
        let ended = |id| Listed { state: JobState::Ended(end), ..failed_on(id, node) };
        let mut jobs: Vec<Listed> = ids(9, 4).iter().map(ended).collect();
        jobs.push(listed(&ids(1, 1)[0], JobState::Running));
        let now = answer(&mut keeper, now, &jobs);
        assert_eq!(keeper.left_out(now), Vec::<String>::new(), "{end:?} on `{node}`");
    }
}

impl Keeper {
    /// Jobs of an array that the next submit has given, whatever was asked.
    fn handle_submitted_jobs(&mut self, now: u64, jobs: u32) {
        self.submission = Some(Submission { jobs, engines: 1, lasting: true });
        self.handle_submitted(now, Ok(ids(9, jobs)));
    }
}
