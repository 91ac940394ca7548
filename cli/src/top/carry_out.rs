//! Carries out what keys have asked for, over a connection of its own: the one that looks may only
//! look.

use std::time::Duration;

use anyhow::{Context, Result};
use furlong_client::{Client, EngineTargets, Inspectable, Signal};
use furlong_wire::message::TaskRange;
use furlong_wire::token::Role;

use super::acts::{Act, Done, PROFILE_S, Rights, Verb};
use crate::connect::ConnectArgs;
use crate::namespace::DIRECT;
use crate::selected::ASKING;
use crate::{print, profile};

/// Looks a second at an interpreter that is profiled.
const SAMPLES_PER_S: u32 = 100;

/// The rights of the capability files that are there.
pub fn rights(connect: &ConnectArgs) -> Rights {
    let has = |roles: &[Role], may: fn(Role) -> bool| {
        connect.capability(roles).is_ok_and(|capability| may(capability.role()))
    };
    Rights { tasks: has(ASKING, Role::may_cancel), engines: has(DIRECT, Role::may_submit_direct) }
}

/// Does it.
pub async fn carry_out(act: Act, connect: ConnectArgs) -> Result<Done> {
    let roles = if matches!(act.verb, Verb::Interrupt | Verb::Restart) { DIRECT } else { ASKING };
    // What it says of a connection that is cut would be written over the screen.
    let client = connect.connect_telling(roles, |_| ()).await?;
    let done = with(&client, &act).await;
    client.close().await;
    done
}

async fn with(client: &Client, act: &Act) -> Result<Done> {
    let engines = || client.multiengine(EngineTargets::Ids(act.engines.clone()));
    let on = act.on();
    Ok(Done::Said(match act.verb {
        Verb::Cancel | Verb::Kill => {
            let ranges: Vec<TaskRange> = act
                .tasks
                .iter()
                .map(|task| TaskRange { session: task.session, first: task.n, last: task.n })
                .collect();
            let ended = client.cancel_tasks(&ranges, act.verb == Verb::Kill).await?.cancelled;
            let others = (act.tasks.len() as u64).saturating_sub(ended);
            let others = match others {
                0 => String::new(),
                _ => format!(", {others} had ended before"),
            };
            format!("{} cancelled{others}", print::counted(ended, "task"))
        }
        Verb::Interrupt => {
            engines().signal(Signal::new(SIGINT)?).await?;
            format!("{on}: what runs of yours there is interrupted")
        }
        Verb::Restart => {
            engines().restart().await?;
            format!("{on}: restarted")
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

const SIGINT: i32 = 2;
