//! Functions that are sent once a session, and then named by number.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use furlong_wire::call::{Call as HeaderCall, CallHeader, decode_header, encode_header};
use furlong_wire::ids::FunctionHash;
use furlong_wire::message::{Define, FromClient, Undefine};
use furlong_wire::numbers::NumberMap;
use furlong_wire::os_text::OsText;
use furlong_wire::payload::Packed;
use serde_bytes::ByteBuf;

use super::{Call, Content, Core, Outbound, Waiter};
use crate::error::ClientError;

/// Definitions that a session makes of functions; what comes later goes with each of its calls.
const FUNCTIONS_MAX: usize = 4000;
/// Definitions that a session makes; the broker bounds them at 4096.
const DEFINITIONS_MAX: usize = 4090;
/// Definitions up to this size stay as long as the session.
const SMALL_BYTES: u64 = 16 * 1024;
/// Bytes of larger ones that are kept though no task needs them, if the broker has so much.
const KEPT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The part that is sent once a session.
#[derive(Debug)]
pub struct Definition {
    /// The hash that tells it from others.
    pub hash: FunctionHash,
    /// The text, or whatever it is.
    pub source: Bytes,
    /// The substitute that does without it.
    pub instead: Option<Instead>,
}

/// The way to call a function that finds no room among the definitions.
#[derive(Debug)]
pub struct Instead {
    /// The function, for the header of each call.
    pub function: Bytes,
    /// The definition that is needed all the same.
    pub definition: Option<Arc<Definition>>,
}

impl Definition {
    /// One that calls cannot do without.
    pub fn new(hash: FunctionHash, source: Bytes) -> Self {
        Self { hash, source, instead: None }
    }
}

/// The session's definitions.
///
/// Small ones stay. Those beyond `SMALL_BYTES` are bounded in bytes: those that no unfinished task
/// needs are let go, the one that was used the longest time ago first, and sent again when they are
/// needed again.
#[derive(Debug)]
pub struct Definitions {
    sent: BTreeMap<FunctionHash, SentDefinition>,
    hashes: NumberMap<u32, FunctionHash>,
    next_number: u32,
    large_bytes: u64,
    /// Bytes of large ones that are kept though no task needs them.
    kept_bytes_max: u64,
    /// Bytes of large ones that tasks need: what comes beyond goes with each of its calls.
    used_bytes_max: u64,
    uses: u64,
}

#[derive(Debug)]
struct SentDefinition {
    number: u32,
    packed: Packed,
    /// Unfinished tasks that need it; counted of large ones alone.
    tasks: u64,
    last_use: u64,
}

impl SentDefinition {
    fn bytes(&self) -> u64 {
        super::announced_bytes(&self.packed)
    }

    fn is_large(&self) -> bool {
        self.bytes() > SMALL_BYTES
    }
}

impl Definitions {
    /// None yet, for a broker that grants so much.
    pub fn new(credit_bytes: u64) -> Self {
        Self {
            sent: BTreeMap::new(),
            hashes: NumberMap::default(),
            next_number: 1,
            large_bytes: 0,
            kept_bytes_max: KEPT_BYTES_MAX.min(credit_bytes / 4),
            used_bytes_max: credit_bytes / 2,
            uses: 0,
        }
    }

    /// Notes what is sent under a number.
    pub fn insert(&mut self, hash: FunctionHash, number: u32, packed: Packed) {
        let sent = SentDefinition { number, packed, tasks: 0, last_use: 0 };
        self.large_bytes += if sent.is_large() { sent.bytes() } else { 0 };
        assert!(number >= self.next_number, "definition {number} was sent before");
        self.hashes.insert(number, hash);
        let before = self.sent.insert(hash, sent);
        assert!(before.is_none(), "one function has two numbers");
        self.next_number = self.next_number.max(number + 1);
    }

    /// So many tasks that need it are submitted. Gives its number if it is large: the end of each
    /// is to be told.
    pub fn begin_use(&mut self, definition: &Definition, tasks: u64) -> Option<u32> {
        let sent = self.sent.get_mut(&definition.hash).filter(|sent| sent.is_large())?;
        self.uses += 1;
        sent.last_use = self.uses;
        sent.tasks += tasks;
        Some(sent.number)
    }

    /// A task that needed a large one has ended.
    pub fn end_use(&mut self, number: u32) {
        let sent = self.hashes.get(&number).and_then(|hash| self.sent.get_mut(hash));
        let sent = sent.expect("a definition stays while a task needs it");
        assert!(sent.tasks > 0, "more tasks that need definition {number} end than began");
        sent.tasks -= 1;
    }

    /// The payload that was sent under a number, if it was not let go.
    pub fn packed(&self, number: u32) -> Option<Packed> {
        Some(self.sent.get(self.hashes.get(&number)?)?.packed.clone())
    }

    /// The numbers of all.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.sent.values().map(|sent| sent.number)
    }

    /// Makes room for another one, and says if there is: what is not needed is let go for it, if
    /// need be. Gives numbers and bytes of that.
    fn make_room(&mut self, bytes: u64) -> (bool, Vec<(u32, u64)>) {
        let mut let_go = Vec::new();
        if bytes <= SMALL_BYTES {
            return (self.sent.len() < FUNCTIONS_MAX, let_go);
        }
        while self.large_bytes + bytes > self.kept_bytes_max || self.sent.len() >= FUNCTIONS_MAX {
            let idle = self.sent.iter().filter(|(_, sent)| sent.is_large() && sent.tasks == 0);
            let Some(hash) = idle.min_by_key(|(_, sent)| sent.last_use).map(|(hash, _)| *hash)
            else {
                break;
            };
            let sent = self.sent.remove(&hash).expect("it was just found");
            // Its number is not given again: the broker may still have tasks that name it.
            self.hashes.remove(&sent.number);
            assert!(sent.bytes() <= self.large_bytes, "{} bytes are let go", sent.bytes());
            self.large_bytes -= sent.bytes();
            let_go.push((sent.number, sent.bytes()));
        }
        (self.large_bytes + bytes <= self.used_bytes_max && self.sent.len() < FUNCTIONS_MAX, let_go)
    }
}

impl<W: Waiter> Core<W> {
    /// Puts the function into the call's header if this one finds no room among the session's
    /// definitions.
    pub(super) fn do_without_definition(&mut self, call: &mut Call) {
        let Some(definition) = &call.definition else { return };
        if self.definitions.sent.contains_key(&definition.hash) {
            return;
        }
        let (has_room, let_go) = self.definitions.make_room(definition.source.len() as u64);
        // Also if there is no room all the same: what nobody needs makes it for the next one.
        for (number, bytes) in let_go {
            self.flow.handle_let_go(bytes);
            self.outbound.push_back(Outbound::Message(FromClient::Undefine(Undefine { number })));
        }
        if has_room {
            return;
        }
        let (Some(instead), Content::Buffers(header, _)) = (&definition.instead, &mut call.content)
        else {
            // It cannot do without, or was packed with its number when it was refused before.
            return;
        };
        let Ok(mut decoded) = decode_header::<CallHeader>(header) else { return };
        match &mut decoded.call {
            HeaderCall::Source { source, .. } => {
                *source = Some(OsText::from_bytes(instead.function.to_vec()));
            }
            HeaderCall::Pickled(pickled) => {
                pickled.blob = Some(ByteBuf::from(&instead.function[..]));
            }
            _ => return,
        }
        *header = encode_header(&decoded).into();
        call.definition = instead.definition.clone();
    }

    /// The number of a definition, and what is to be sent if the broker does not have it.
    pub(super) fn define(
        &mut self,
        definition: &Definition,
    ) -> Result<(u32, Option<Packed>), ClientError> {
        if let Some(sent) = self.definitions.sent.get(&definition.hash) {
            return Ok((sent.number, None));
        }
        if self.definitions.sent.len() >= DEFINITIONS_MAX {
            return Err(ClientError::TooManyFunctions { functions_max: DEFINITIONS_MAX });
        }
        let number = self.definitions.next_number;
        Ok((number, Some(self.sealer.pack(vec![definition.source.clone()])?)))
    }

    pub(super) fn send_definition(&mut self, number: u32, packed: Packed) {
        self.send_payload(packed, |payload| FromClient::Define(Define { number, payload }));
    }
}

#[cfg(test)]
mod tests {
    use furlong_wire::ids::SessionId;
    use furlong_wire::payload::PayloadSecret;

    use super::*;

    const KIB: usize = 1024;

    fn define(
        definitions: &mut Definitions,
        seed: u8,
        bytes: usize,
    ) -> (bool, Vec<u32>, Definition) {
        let definition = Definition::new(FunctionHash([seed; 32]), vec![seed; bytes].into());
        let (has_room, let_go) = definitions.make_room(bytes as u64);
        if has_room {
            let mut sealer =
                PayloadSecret::new([1; 32]).request_key(&SessionId::default()).into_sealer();
            let packed = sealer.pack(vec![definition.source.clone()]).unwrap();
            definitions.insert(definition.hash, definitions.next_number, packed);
        }
        (has_room, let_go.into_iter().map(|(number, _)| number).collect(), definition)
    }

    #[test]
    fn what_was_used_the_longest_time_ago_goes_and_is_defined_anew() {
        let mut definitions = Definitions::new(1600 * KIB as u64);
        let mut made = Vec::new();
        for seed in 1..=3 {
            let (has_room, let_go, definition) = define(&mut definitions, seed, 100 * KIB);
            assert!(has_room && let_go.is_empty());
            made.push(definition);
        }
        for used in [1, 2, 0] {
            let number = definitions.begin_use(&made[used], 1).unwrap();
            definitions.end_use(number);
        }
        let (has_room, let_go, _) = define(&mut definitions, 4, 150 * KIB);
        assert!(has_room && let_go == [2], "{let_go:?}");
        assert!(definitions.packed(2).is_none() && definitions.begin_use(&made[1], 1).is_none());
        let (has_room, let_go, _) = define(&mut definitions, 2, 100 * KIB);
        assert!(has_room && let_go == [4] || let_go == [3, 4] || let_go == [4, 3], "{let_go:?}");
        assert!(definitions.numbers().all(|number| number != 2), "no number is used twice");
    }

    #[test]
    fn what_tasks_need_stays_and_what_finds_no_room_beside_it_goes_with_its_calls() {
        let mut definitions = Definitions::new(1600 * KIB as u64);
        let (_, _, first) = define(&mut definitions, 1, 700 * KIB);
        let number = definitions.begin_use(&first, 2).unwrap();
        let (has_room, let_go, _) = define(&mut definitions, 2, 200 * KIB);
        assert!(!has_room && let_go.is_empty());
        definitions.end_use(number);
        assert!(!define(&mut definitions, 2, 200 * KIB).0);
        definitions.end_use(number);
        let (has_room, let_go, _) = define(&mut definitions, 2, 200 * KIB);
        assert!(has_room && let_go == [number]);
        assert!(
            !define(&mut definitions, 3, 900 * KIB).0,
            "it is larger than all that may be needed at once"
        );
    }

    #[test]
    fn small_ones_are_not_counted_and_stay() {
        let mut definitions = Definitions::new(1600 * KIB as u64);
        let (_, _, small) = define(&mut definitions, 1, 2 * KIB);
        assert_eq!(definitions.begin_use(&small, 1), None);
        assert!(
            define(&mut definitions, 2, 700 * KIB).0 && define(&mut definitions, 3, 700 * KIB).0
        );
        assert!(definitions.packed(1).is_some() && definitions.packed(2).is_none());
    }
}
