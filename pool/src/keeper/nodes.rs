//! Nodes on which jobs end as soon as they have begun. Such a node is always free, and would get
//! every job: new jobs leave it out where the batch system can do that, else the pool pauses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::job::{End, Job, JobState};

/// A job that failed within this time of its start, as far as the keeper saw it, failed at once.
const AT_ONCE_MS: u64 = 60_000;
/// So many such ends leave a node out.
const ENDS_MAX: u32 = 2;
/// So many pause the pool, where the node cannot be left out, or is and gets jobs nevertheless.
const ENDS_IN_SPITE_MAX: u32 = 3;
/// A node is left out for so long; the next such end does it again.
const LEFT_OUT_MS: u64 = 60 * 60_000;
/// So many nodes are left out at a time: with more, it is not the nodes.
const LEFT_OUT_MAX: usize = 8;
/// The nodes that are remembered.
const NODES_MAX: usize = 64;
/// The most characters of a node's name.
const NAME_MAX: usize = 255;

/// The jobs of a pool that can leave nodes out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeavesOut {
    /// None: the batch system has no words for it.
    Never,
    /// Those of a pool of which an engine has come: the batch system does not refuse a job for
    /// which no node is left, but lets it wait for ever.
    OnceProven,
    /// All.
    Always,
}

/// The nodes of a pool of which something bad is known.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Nodes {
    nodes: BTreeMap<String, BadNode>,
    /// True since no node was left without those that were left out.
    needs_all: bool,
}

/// A node on which jobs ended as soon as they had begun.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BadNode {
    /// Such ends.
    pub ends: u32,
    /// The reason of the last one.
    pub why: String,
    /// The time of the last one.
    pub last_ms: u64,
    /// The time at which it was left out, and until which it is.
    pub left_out_ms: Option<(u64, u64)>,
}

/// The meaning of a job's end for its node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeEnd {
    /// It says nothing about it, or may be the script's fault as well.
    Unclear,
    /// It is the fault of a node that is left out already.
    Known,
    /// The node ends all jobs, and gets more of them: the reason to pause.
    Hopeless(String),
}

impl BadNode {
    fn is_left_out(&self, now_ms: u64) -> bool {
        self.left_out_ms.is_some_and(|(_, until_ms)| now_ms < until_ms)
    }
}

impl Nodes {
    /// The nodes that new jobs leave out, by name.
    pub fn left_out(&self, now_ms: u64) -> impl Iterator<Item = (&str, &BadNode)> {
        let all = self.nodes.iter().map(|(name, node)| (name.as_str(), node));
        all.filter(move |(_, node)| node.is_left_out(now_ms))
    }

    /// A job has ended.
    pub fn note_end(&mut self, now_ms: u64, job: &Job, end: End, can_leave_out: bool) -> NodeEnd {
        if !is_fault(now_ms, job, end) {
            return NodeEnd::Unclear;
        }
        let can_leave_out = can_leave_out && !self.needs_all;
        let has_room = self.left_out(now_ms).count() < LEFT_OUT_MAX;
        self.forget_oldest(&job.node);
        let new = BadNode { ends: 0, why: String::new(), last_ms: now_ms, left_out_ms: None };
        let node = self.nodes.entry(job.node.clone()).or_insert(new);
        let left_out_ms = node.left_out_ms.filter(|_| node.is_left_out(now_ms));
        // Jobs that were submitted before may still begin there.
        if left_out_ms.is_some_and(|(since_ms, _)| job.submitted_ms < since_ms) {
            return NodeEnd::Known;
        }
        node.ends += 1;
        (node.last_ms, node.why) = (now_ms, job.why.clone());
        let is_left_out = left_out_ms.is_some();
        if can_leave_out && has_room && !is_left_out {
            if node.ends >= ENDS_MAX {
                node.ends = ENDS_MAX;
                node.left_out_ms = Some((now_ms, now_ms + LEFT_OUT_MS));
            }
            return NodeEnd::Unclear;
        }
        let most = if is_left_out { ENDS_MAX + ENDS_IN_SPITE_MAX } else { ENDS_IN_SPITE_MAX };
        if node.ends < most {
            return NodeEnd::Unclear;
        }
        let (name, ends) = (&job.node, node.ends);
        let why = if job.why.is_empty() { String::new() } else { format!(": {}", job.why) };
        NodeEnd::Hopeless(if is_left_out {
            format!("jobs begin on node {name}, though they leave it out, and end at once{why}")
        } else if has_room {
            format!("{ends} jobs on node {name} ended at once{why}")
        } else {
            format!("jobs end at once on more than {LEFT_OUT_MAX} nodes, the last {name}{why}")
        })
    }

    /// A job on this node has its engines, since this time.
    pub fn note_engine(&mut self, now_ms: u64, node: &str, since_ms: u64) {
        let lasts = now_ms >= since_ms + AT_ONCE_MS;
        // One that began before the others ended says nothing.
        if lasts && self.nodes.get(node).is_some_and(|node| node.last_ms < since_ms) {
            self.nodes.remove(node);
        }
    }

    /// An engine has come: nodes may be left out again.
    pub fn note_proof(&mut self) {
        self.needs_all = false;
    }

    /// No node is left without those that were left out. Returns false if there were none.
    pub fn take_back(&mut self, now_ms: u64) -> bool {
        let were_left_out = self.left_out(now_ms).next().is_some();
        if were_left_out {
            self.nodes.values_mut().for_each(|node| node.left_out_ms = None);
            self.needs_all = true;
        }
        were_left_out
    }

    /// Somebody has mended them.
    pub fn forgive(&mut self) {
        *self = Self::default();
    }

    /// Makes room for a node.
    fn forget_oldest(&mut self, name: &str) {
        if self.nodes.len() < NODES_MAX || self.nodes.contains_key(name) {
            return;
        }
        let oldest = self.nodes.iter().min_by_key(|(_, node)| node.last_ms);
        if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
            self.nodes.remove(&oldest);
        }
    }
}

/// Returns true if this end speaks against the job's node: its engines never came, or it failed at
/// once although they had.
fn is_fault(now_ms: u64, job: &Job, end: End) -> bool {
    let since_ms = if job.state == JobState::Running { job.since_ms } else { now_ms };
    let was_short = now_ms < since_ms + AT_ONCE_MS;
    let is_fault = match end {
        End::Failed => !job.had_engine || was_short,
        End::Completed | End::Gone => !job.had_engine,
        End::Cancelled | End::TimeLimit | End::Preempted | End::NodeFailed => false,
    };
    is_fault && job.leaving.is_none() && is_name(&job.node)
}

/// Returns true for one node's name. Nothing else goes into a command line.
fn is_name(node: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=NAME_MAX).contains(&node.len()) && !node.starts_with('-') && node.bytes().all(is_good)
}
