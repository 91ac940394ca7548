//! What jobs publish on its way from the slots to the core: the last word of each job, until the
//! connection takes it.

use std::collections::BTreeMap;

use crate::core::Core;
use crate::job::{SlotEvent, SlotIndex, SlotJob};
use crate::runtime::Latest;

/// What running jobs have published and nobody took. Until the core can send it, later values
/// replace earlier ones, and nobody is woken for them.
#[derive(Debug, Default)]
pub struct Mailbox(BTreeMap<SlotJob, Latest>);

impl Mailbox {
    /// A job has published something, and nothing of it waited.
    pub fn note(&mut self, attempt: SlotJob, latest: Latest) {
        self.0.insert(attempt, latest);
    }

    /// Gives the core what it can send. Call it when the connection takes something.
    pub fn give_all(&mut self, core: &mut Core) {
        self.0.retain(|attempt, latest| !give(core, *attempt, latest));
    }

    /// Gives the core an event of a slot. A job's end comes after its last word, which is dropped
    /// if it cannot go now.
    pub fn give_event(&mut self, core: &mut Core, slot: SlotIndex, event: SlotEvent) {
        if let SlotEvent::Finished { attempt, .. } = &event
            && let Some(latest) = self.0.remove(attempt)
        {
            give(core, *attempt, &latest);
        }
        core.handle_slot_event(slot, event);
    }
}

/// True if nothing of the job waits any longer.
fn give(core: &mut Core, attempt: SlotJob, latest: &Latest) -> bool {
    let published = latest.take_if(|published| core.may_publish(attempt, published));
    let has_given = published.is_some();
    if let Some(published) = published {
        core.publish(attempt, published);
    }
    has_given
}
