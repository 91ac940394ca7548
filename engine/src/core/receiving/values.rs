//! Values: the inputs of jobs beside their arguments. Each comes once, is opened once, and is there
//! until no later job has it. It may be of another session than the jobs: the broker sees to it
//! that both are one owner's.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::call::decode_reply;
use furlong_wire::ids::AttemptId;
use furlong_wire::message::{Inputs, Payload, Value as ValueMessage};
use furlong_wire::payload::{PayloadOpener, unpack_inline};

use super::Purpose;
use crate::core::{BrokerMisbehaved, Call, Core, Output, Request};
use crate::job::{Input, SlotIndex, SlotJob};

/// The values of which the broker has told, by its numbers.
#[derive(Debug, Default)]
pub struct Values {
    told: BTreeMap<u64, Value>,
    /// The number of those that have come.
    made: u64,
    /// The values that are inputs of attempts whose assignments have not come.
    inputs: BTreeMap<AttemptId, Box<[u64]>>,
}

impl Values {
    /// Takes out the numbers of the values that an attempt has as inputs.
    #[inline]
    pub(in crate::core) fn take_inputs(&mut self, attempt: AttemptId) -> Option<Box<[u64]>> {
        if self.inputs.is_empty() { None } else { self.inputs.remove(&attempt) }
    }

    /// Returns true if there are none, nor inputs of attempts that are to come.
    #[cfg(test)]
    pub(in crate::core) fn is_empty(&self) -> bool {
        self.told.is_empty() && self.inputs.is_empty()
    }
}

/// A value, from its announcement until it is no longer needed.
#[derive(Debug)]
struct Value {
    state: State,
    /// The slots that have had it, and may keep it for later jobs.
    slots: BTreeSet<SlotIndex>,
}

#[derive(Debug)]
enum State {
    /// Its chunks come. The calls that wait for it, and whether more may have it.
    Coming(Vec<(Call, Result<Request, String>)>, bool),
    /// It is here, or was forged on the way.
    Here(Result<Input, String>),
}

impl Core {
    /// The broker sends a value, or announces it.
    pub(in crate::core) fn value(
        &mut self,
        message: &ValueMessage,
    ) -> Result<(), BrokerMisbehaved> {
        let ValueMessage { value: number, session, ref secret, ref payload } = *message;
        let can_be_opened = secret.is_some() || self.sessions.knows(session);
        if self.values.told.contains_key(&number) || !can_be_opened {
            return Err(BrokerMisbehaved::Share);
        }
        let state = match payload {
            Payload::Inline(inline) => {
                let buffers = unpack_inline(inline).map_err(|error| error.to_string());
                State::Here(buffers.and_then(|buffers| self.read_value(buffers)))
            }
            Payload::Chunked { counter, bytes, instance, .. } => {
                let purpose = Purpose::Value(number);
                match secret {
                    None => self.receive(session, payload, purpose)?,
                    // Of another session no more is learnt than opens this value.
                    Some(secret) => {
                        let result = instance.map(|of| secret.result_key(&session, &of));
                        let key = result.unwrap_or_else(|| secret.request_key(&session));
                        let opener = PayloadOpener::new(key, *counter, *bytes);
                        self.receive_with(opener, payload, purpose)?;
                    }
                }
                State::Coming(Vec::new(), true)
            }
        };
        let value = Value { state, slots: BTreeSet::new() };
        let before = self.values.told.insert(number, value);
        assert!(before.is_none(), "value {number} is two payloads");
        Ok(())
    }

    /// The values that an attempt has as inputs, whose assignment follows.
    pub(in crate::core) fn inputs(&mut self, inputs: Inputs) -> Result<(), BrokerMisbehaved> {
        let are_known = inputs.values.iter().all(|number| self.values.told.contains_key(number));
        if !are_known || self.values.inputs.insert(inputs.attempt, inputs.values.into()).is_some() {
            return Err(BrokerMisbehaved::Share);
        }
        Ok(())
    }

    /// Reads a value: each has a key that no other one ever had in this process.
    pub(in crate::core) fn read_value(
        &mut self,
        buffers: Vec<bytes::Bytes>,
    ) -> Result<Input, String> {
        let mut data = buffers.into_iter();
        let header = decode_reply(&data.next().unwrap_or_default());
        let header = header.map_err(|error| error.to_string())?;
        self.values.made += 1;
        let key = Some(self.values.made);
        Ok(Input { key, header, data: data.collect(), file: None })
    }

    /// A value is whole, or lost: what waited for it goes on.
    pub(in crate::core) fn take_value(&mut self, number: u64, input: Result<Input, String>) {
        let value = self.values.told.get_mut(&number).expect("a value stays until it is whole");
        let State::Coming(waiting, is_wanted) =
            std::mem::replace(&mut value.state, State::Here(input))
        else {
            unreachable!("a number is one value's, which comes once");
        };
        for (call, request) in waiting {
            self.run(call, request);
        }
        if !is_wanted && let Some(value) = self.values.told.remove(&number) {
            self.let_slots_forget(value);
        }
    }

    /// No later job has a value. Returns false if there is none of that number.
    pub(in crate::core) fn let_go_of_value(&mut self, number: u64) -> bool {
        match self.values.told.get_mut(&number).map(|value| &mut value.state) {
            // Those that wait for it still need it: it goes when it is whole.
            Some(State::Coming(_, is_wanted)) => *is_wanted = false,
            Some(State::Here(_)) => {
                let value = self.values.told.remove(&number).expect("it was just looked at");
                self.let_slots_forget(value);
            }
            None => return false,
        }
        true
    }

    fn let_slots_forget(&mut self, value: Value) {
        let State::Here(Ok(Input { key: Some(key), .. })) = value.state else { return };
        self.outputs.extend(value.slots.into_iter().map(|slot| Output::ForgetInput(slot, key)));
    }

    /// Lets a call wait for one of its inputs, if any has not come whole. Gives it back otherwise.
    pub(in crate::core) fn wait_for_values(
        &mut self,
        call: Call,
        request: Result<Request, String>,
    ) -> Option<(Call, Result<Request, String>)> {
        if self.values.told.is_empty() {
            return Some((call, request));
        }
        let works = call.jobs.iter().filter_map(|job| self.work.get(job));
        let numbers = works.filter_map(|work| work.inputs.as_deref()).flatten();
        let is_coming = |number: &&u64| {
            let value = self.values.told.get(*number);
            matches!(value, Some(Value { state: State::Coming(..), .. }))
        };
        let Some(&number) = numbers.into_iter().find(is_coming) else {
            return Some((call, request));
        };
        if let Some(Value { state: State::Coming(waiting, _), .. }) =
            self.values.told.get_mut(&number)
        {
            waiting.push((call, request));
        }
        None
    }

    /// The inputs of a job, all of which have come; none if it has none.
    ///
    /// # Errors
    /// The reason why one cannot be used, for people.
    pub(in crate::core) fn inputs_of(
        &mut self,
        job: SlotJob,
    ) -> Result<Option<Box<[Input]>>, String> {
        let Some(work) = self.work.get_mut(&job) else { return Ok(None) };
        let (slot, Some(numbers)) = (work.slot, work.inputs.take()) else { return Ok(None) };
        let inputs = numbers.iter().map(|number| {
            match self.values.told.get_mut(number) {
                Some(Value { state: State::Here(input), slots, .. }) => {
                    slots.insert(slot);
                    input.clone()
                }
                // Its task was ended meanwhile, or the broker has broken its word.
                Some(_) | None => Err("an input was let go before its task began".to_owned()),
            }
        });
        inputs.collect::<Result<_, _>>().map(Some)
    }

    /// Numbers belong to a connection: forgets all values, and gives the calls that waited.
    pub(in crate::core) fn forget_values(&mut self) -> Vec<Call> {
        self.values.inputs.clear();
        let mut calls = Vec::new();
        for value in std::mem::take(&mut self.values.told).into_values() {
            match value.state {
                State::Coming(waiting, _) => calls.extend(waiting.into_iter().map(|it| it.0)),
                State::Here(_) => self.let_slots_forget(value),
            }
        }
        calls
    }
}
