//! Carries out what keys have asked for, over a connection of its own: the one that looks may only
//! look.

use std::time::Duration;

use anyhow::{Context, Result};
use furlong_client::{Client, EngineTargets, Inspectable, Signal};
use furlong_wire::message::TaskRange;
use furlong_wire::token::Role;
use tokio::task::JoinHandle;

use super::acts::{Act, Done, PROFILE_S, Rights, Verb};
use crate::connect::ConnectArgs;
use crate::namespace::DIRECT;
use crate::selected::ASKING;
use crate::{print, profile};

/// Looks a second at an interpreter that is profiled.
const SAMPLES_PER_S: u32 = 100;
/// The time that what has been asked for gets when its user leaves.
const LEAVE: Duration = Duration::from_secs(2);

/// The rights of the capability files that are there.
pub fn rights(connect: &ConnectArgs) -> Rights {
    let has = |roles: &[Role], may: fn(Role) -> bool| {
        connect.capability(roles).is_ok_and(|capability| may(capability.role()))
    };
    Rights {
        tasks: has(ASKING, Role::may_cancel),
        engines: has(DIRECT, Role::may_submit_direct),
        stops: has(&[Role::Admin], Role::may_administer),
    }
}

/// An act that is being done, beside the screen.
#[derive(Debug)]
pub struct Doing {
    connect: ConnectArgs,
    now: Option<(Verb, JoinHandle<Result<Done>>)>,
}

impl Doing {
    /// Nothing, so far.
    pub fn new(connect: ConnectArgs) -> Self {
        Self { connect, now: None }
    }

    /// Begins. One that goes on yet is let go: its end is no longer told.
    pub fn begin(&mut self, act: Act) {
        let verb = act.verb;
        self.now = Some((verb, tokio::spawn(carry_out(act, self.connect.clone()))));
    }

    /// Returns when it is done; never, if there is nothing to do.
    pub async fn done(&mut self) -> Result<Done> {
        let Some((_, doing)) = &mut self.now else { return std::future::pending().await };
        let done = doing.await;
        self.now = None;
        done.context("it has ended before its time")?
    }

    /// Waits a moment for what goes on, as nobody is there to ask for it again. A profile is only
    /// for who looks at it.
    pub async fn leave(self) {
        if let Some((verb, doing)) = self.now
            && verb != Verb::Profile
        {
            // Its end is not told to anybody.
            let _ = tokio::time::timeout(LEAVE, doing).await;
        }
    }
}

/// Does it.
async fn carry_out(act: Act, connect: ConnectArgs) -> Result<Done> {
    let roles = match act.verb {
        Verb::Interrupt | Verb::Restart => DIRECT,
        Verb::Drain => &[Role::Admin],
        Verb::Cancel | Verb::Kill | Verb::Profile => ASKING,
    };
    // A cut connection that is told of would be written over the screen.
    let client = connect.connect_telling(roles, |_| ()).await?;
    let done = with(&client, &act).await;
    client.close().await;
    done
}

async fn with(client: &Client, act: &Act) -> Result<Done> {
    let targets = || EngineTargets::Ids(act.engines.clone());
    let engines = || client.multiengine(targets());
    let on = act.on();
    Ok(Done::Said(match act.verb {
        Verb::Cancel | Verb::Kill => cancel(client, act).await?,
        Verb::Interrupt => {
            engines().signal(Signal::new(SIGINT)?).await?;
            format!("{on}: what runs of yours there is interrupted")
        }
        Verb::Restart => {
            engines().restart().await?;
            format!("{on}: restarted")
        }
        Verb::Drain => {
            client.shutdown(targets(), true).await?;
            format!("{on}: told to leave when what it has been given is done")
        }
        Verb::Profile => {
            let of = match (act.tasks.first(), act.engines.first()) {
                (Some(task), _) => Inspectable::Task(*task),
                (None, engine) => Inspectable::Engine(*engine.context("nothing is meant")?),
            };
            let length = Duration::from_secs(PROFILE_S);
            let seen = client.profile(of, length, SAMPLES_PER_S).await?;
            return Ok(Done::Report(profile::report(&seen)));
        }
    }))
}

async fn cancel(client: &Client, act: &Act) -> Result<String> {
    let tasks = act.tasks.iter();
    let ranges: Vec<TaskRange> = tasks
        .map(|task| TaskRange { session: task.session, first: task.n, last: task.n })
        .collect();
    let cancelled = client.cancel_tasks(&ranges, act.verb == Verb::Kill).await?.cancelled;
    let others = match (act.tasks.len() as u64).saturating_sub(cancelled) {
        0 => String::new(),
        1 => "; 1 had ended before, or was not yours".to_owned(),
        others => format!("; {others} had ended before, or were not yours"),
    };
    Ok(format!("{} cancelled{others}", print::counted(cancelled, "task")))
}

const SIGINT: i32 = 2;
