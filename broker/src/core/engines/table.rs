//! All engines, and the order in which shared work looks at them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use furlong_wire::ids::{EngineId, EngineUuid, InstanceId};

use super::engine::Engine;
use super::roster::{Change, Roster, Unused};
use crate::core::keys::ClassId;
use crate::core::turns::work::count;
use crate::core::watch::EngineCounts;

/// All engines, connected or awaited, and the order in which shared work looks at them.
#[derive(Debug, Default)]
pub struct Engines {
    by_id: BTreeMap<EngineId, Engine>,
    by_uuid: BTreeMap<EngineUuid, EngineId>,
    /// Those that are gone and may come back, the one that went first first. An entry may be out of
    /// date.
    gone: VecDeque<EngineUuid>,
    /// Those that take work, by class and by how much they have been assigned. Flat: an engine
    /// moves a few places at most times, and for a few hundred engines that is far cheaper than a
    /// tree.
    by_load: Vec<(ClassId, Vec<(u32, EngineId)>)>,
    /// Those where something waits for tasks.
    lenders: BTreeSet<EngineId>,
    next: u32,
    unused: Unused,
    /// Changes that a later broker should know of and that were not reported yet.
    changes: Vec<Change>,
    /// The number of looks at the farm so far: what changes is marked with it.
    looks: u64,
    /// Engines that went lately, with the look before that.
    went: VecDeque<(u64, EngineId)>,
}

impl Engines {
    /// Begins with what an earlier broker of this cluster knew.
    pub fn new(roster: &Roster) -> Self {
        let by_uuid = roster.engines.iter().map(|(id, uuid)| (*uuid, *id)).collect();
        let here = roster.engines.iter().filter(|(id, _)| roster.here.contains(id));
        let by_id: BTreeMap<EngineId, Engine> =
            here.map(|(id, uuid)| (*id, Engine::new(*uuid))).collect();
        let gone = roster
            .engines
            .iter()
            .filter(|(id, _)| !by_id.contains_key(id))
            .map(|(_, uuid)| *uuid)
            .collect();
        Self {
            by_id,
            by_uuid,
            gone,
            next: roster.next,
            unused: roster.unused.clone(),
            ..Self::default()
        }
    }

    /// Returns the information that a later broker should know: engines that have not been given
    /// up.
    pub fn roster(&self) -> Roster {
        let engines = self.by_uuid.iter().map(|(uuid, id)| (*id, *uuid)).collect();
        let here = self.by_id.keys().copied().collect();
        Roster { next: self.next, engines, unused: self.unused.clone(), here }
    }

    /// Returns the roster's changes since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Returns true if there are integers for so many more engines, whichever they want.
    pub fn has_integers(&self, engines: usize) -> bool {
        (u32::MAX - self.next) as usize > engines + REMEMBERED_MAX + WANTED_AHEAD_MAX as usize
    }

    /// The integer for an engine: the one that it had, else the one that it wants if nobody ever
    /// had it, else the next.
    pub fn admit(&mut self, uuid: EngineUuid, wanted: Option<EngineId>) -> EngineId {
        // One that is only away has its old integer, whatever it wants now.
        let known = self.by_uuid.get(&uuid).copied();
        let id = known.unwrap_or_else(|| self.integer(wanted));
        if known.is_none() {
            self.forget_gone();
        }
        self.by_uuid.insert(uuid, id);
        match self.by_id.entry(id) {
            Entry::Vacant(place) => {
                place.insert(Engine::new(uuid)).counts.changed = self.looks;
                self.changes.push(Change::Here(id, uuid));
            }
            Entry::Occupied(it) => assert!(it.get().uuid == uuid, "engine {id} is another one"),
        }
        id
    }

    /// An integer that nobody has had.
    fn integer(&mut self, wanted: Option<EngineId>) -> EngineId {
        // Counted from the engines that are known, and not from the next integer: otherwise each
        // request would move the bound of the one after it.
        let ahead_max = self.by_uuid.len() as u32 + WANTED_AHEAD_MAX;
        let is_free =
            |id: &EngineId| (id.0 >= self.next && id.0 < ahead_max) || self.unused.contains(*id);
        let id = wanted.filter(is_free).unwrap_or(EngineId(self.next));
        self.unused.take(&mut self.next, id);
        id
    }

    /// Makes room for a new engine among those that are remembered.
    fn forget_gone(&mut self) {
        while self.by_uuid.len() >= REMEMBERED_MAX
            && let Some(uuid) = self.gone.pop_front()
        {
            count(1);
            // It may have come back since it went: its entry here is then out of date.
            if let Some(id) =
                self.by_uuid.get(&uuid).copied().filter(|id| !self.by_id.contains_key(id))
            {
                self.by_uuid.remove(&uuid);
                self.changes.push(Change::Left(id));
            }
        }
    }

    /// Returns true if a uuid is that of an engine of another process.
    pub fn belongs_to_another(&self, uuid: EngineUuid, instance: InstanceId) -> bool {
        self.find(uuid).and_then(|engine| engine.instance).is_some_and(|of| of != instance)
    }

    /// The engine of a uuid.
    pub fn find(&self, uuid: EngineUuid) -> Option<&Engine> {
        self.by_uuid.get(&uuid).and_then(|id| self.by_id.get(id))
    }

    /// The engine of a uuid, if it is lost and has not lost all that it had.
    pub fn being_lost(&self, uuid: EngineUuid) -> Option<EngineId> {
        let id = *self.by_uuid.get(&uuid)?;
        self.by_id.get(&id)?.loss.map(|_| id)
    }

    /// Whether an engine is here, or may come back.
    pub fn is_known(&self, id: EngineId) -> bool {
        self.by_id.get(&id).is_some_and(|engine| engine.loss.is_none())
    }

    /// An engine.
    pub fn get(&self, id: EngineId) -> Option<&Engine> {
        self.by_id.get(&id)
    }

    /// Changes an engine, and its place in the order of loads with it.
    pub fn update<R>(&mut self, id: EngineId, change: impl FnOnce(&mut Engine) -> R) -> Option<R> {
        let engine = self.by_id.get_mut(&id)?;
        let before = engine.class.map(|class| (class, engine.load()));
        let result = change(engine);
        engine.counts.changed = self.looks;
        let after = engine.class.map(|class| (class, engine.load()));
        // Asked in this order, since mostly nothing is lent anywhere, and this is on every task's
        // way.
        if !engine.work.lent.is_empty() {
            self.lenders.insert(id);
        } else if !self.lenders.is_empty() {
            self.lenders.remove(&id);
        }
        if before == after {
            return Some(result);
        }
        match (before, after) {
            (Some((class, load)), Some((same, other))) if class == same => {
                self.move_in_order(class, id, load, other);
            }
            _ => {
                if let Some((class, load)) = before {
                    self.leave_order(class, (load, id));
                }
                if let Some((class, load)) = after {
                    self.join_order(class, (load, id));
                }
            }
        }
        Some(result)
    }

    /// Counts something of an engine for those who look.
    pub fn count(&mut self, id: EngineId, count: impl FnOnce(&mut EngineCounts)) {
        if let Some(engine) = self.by_id.get_mut(&id) {
            count(&mut engine.counts);
            engine.counts.changed = self.looks;
        }
    }

    fn order(&mut self, class: ClassId) -> Option<&mut Vec<(u32, EngineId)>> {
        let place = self.by_load.binary_search_by_key(&class, |(of, _)| *of).ok()?;
        Some(&mut self.by_load[place].1)
    }

    fn order_of(&self, class: ClassId) -> Option<&[(u32, EngineId)]> {
        let place = self.by_load.binary_search_by_key(&class, |(of, _)| *of).ok()?;
        Some(&self.by_load[place].1)
    }

    fn move_in_order(&mut self, class: ClassId, id: EngineId, before: u32, after: u32) {
        let order = self.order(class).expect("an engine that takes work is in its class's order");
        let from = order.binary_search(&(before, id)).expect("its place there is by its load");
        // Those between are moved up or down by one: taking it out and putting it in would move the
        // rest of the list twice.
        let place = (after, id);
        let to = if after > before {
            let to = from + order[from + 1..].partition_point(|other| *other < place);
            order.copy_within(from + 1..=to, from);
            to
        } else {
            let to = order[..from].partition_point(|other| *other < place);
            order.copy_within(to..from, to + 1);
            to
        };
        order[to] = place;
        let is_in_order = (to == 0 || order[to - 1] < place)
            && order.get(to + 1).is_none_or(|next| place < *next);
        assert!(is_in_order, "engine {id} is not in the order of loads");
    }

    fn leave_order(&mut self, class: ClassId, place: (u32, EngineId)) {
        let order = self.order(class).expect("an engine that takes work is in its class's order");
        let at = order.binary_search(&place).expect("its place there is by its load");
        order.remove(at);
        if order.is_empty() {
            self.by_load.retain(|(of, _)| *of != class);
        }
    }

    fn join_order(&mut self, class: ClassId, place: (u32, EngineId)) {
        if let Err(place) = self.by_load.binary_search_by_key(&class, |(of, _)| *of) {
            self.by_load.insert(place, (class, Vec::new()));
        }
        let order = self.order(class).expect("it was just made if it was not there");
        let at = order.partition_point(|other| *other < place);
        order.insert(at, place);
    }

    /// Takes an engine out. Should it come back after all, it gets its integer back.
    pub fn remove(&mut self, id: EngineId) -> Option<Engine> {
        // Through `update`, which takes it out of the order of loads and of the lenders.
        self.update(id, |engine| {
            (engine.process, engine.class) = (None, None);
            engine.work.lent.clear();
        });
        let engine = self.by_id.remove(&id);
        if self.went.len() == WENT_MAX {
            self.went.pop_front();
        }
        self.went.push_back((self.looks, id));
        self.changes.extend(engine.is_some().then_some(Change::Away(id)));
        self.gone.extend(engine.as_ref().map(|engine| engine.uuid));
        if self.gone.len() > 2 * self.by_uuid.len() + GONE_KEPT {
            let (by_uuid, by_id) = (&self.by_uuid, &self.by_id);
            self.gone.retain(|uuid| by_uuid.get(uuid).is_some_and(|id| !by_id.contains_key(id)));
        }
        engine
    }

    /// Takes an engine out for ever: it has said goodbye.
    pub fn remove_for_ever(&mut self, id: EngineId) -> Option<Engine> {
        let engine = self.remove(id)?;
        let known = self.by_uuid.remove(&engine.uuid);
        assert!(known == Some(id), "engine {id} is known as {known:?}");
        self.changes.push(Change::Left(id));
        Some(engine)
    }

    /// Somebody looks: what changes from now on is for the next look.
    pub fn note_look(&mut self, look: u64) {
        self.looks = look;
    }

    /// Engines that went at this look or later, and are not here now.
    pub fn went_since(&self, look: u64) -> impl Iterator<Item = EngineId> {
        let went = self.went.iter().filter(move |(at, _)| *at >= look);
        went.map(|(_, id)| *id).filter(|id| !self.by_id.contains_key(id))
    }

    /// The engine of these classes with the fewest assigned, if that is less than `limit`.
    pub fn idlest(&self, classes: impl Iterator<Item = ClassId>, limit: u32) -> Option<EngineId> {
        let of_class = |class| self.order_of(class)?.first().copied();
        classes.filter_map(of_class).min().filter(|(load, _)| *load < limit).map(|(_, id)| id)
    }

    /// Those where something waits for tasks.
    pub fn lenders(&self) -> impl Iterator<Item = (EngineId, &Engine)> {
        self.lenders.iter().map(|id| (*id, self.get(*id).expect("a lender is in the table")))
    }

    /// Returns true if there is an engine of a class.
    pub fn has(&self, class: ClassId) -> bool {
        self.order_of(class).is_some()
    }

    /// The engines of a class that take work.
    pub fn engines_of(&self, class: ClassId) -> impl Iterator<Item = EngineId> {
        self.order_of(class).into_iter().flatten().map(|(_, id)| *id)
    }

    /// For each class with an engine that has nothing assigned, one such engine.
    pub fn idle(&self) -> impl Iterator<Item = (ClassId, EngineId)> {
        let first = self.by_load.iter().inspect(|_| count(1));
        let first = first.filter_map(|(class, order)| Some((*class, *order.first()?)));
        first.filter(|(_, (load, _))| *load == 0).map(|(class, (_, id))| (class, id))
    }

    /// Engines that have most assigned, and more than one task: of each class the first few.
    pub fn busiest(&self, of_each_class: usize) -> impl Iterator<Item = EngineId> {
        let busy = self.by_load.iter().inspect(|_| count(1)).flat_map(move |(_, order)| {
            order.iter().rev().take(of_each_class).take_while(|(load, _)| *load >= 2)
        });
        busy.map(|(_, id)| *id)
    }

    /// Returns the number of classes of engines that take work.
    pub fn classes(&self) -> usize {
        self.by_load.len()
    }

    /// All of them, by integer.
    pub fn iter(&self) -> impl Iterator<Item = (EngineId, &Engine)> {
        self.by_id.iter().inspect(|_| count(1)).map(|(id, engine)| (*id, engine))
    }

    /// Those after one of them; all for none.
    pub fn iter_after(&self, after: Option<EngineId>) -> impl Iterator<Item = (EngineId, &Engine)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_id.range((from, Bound::Unbounded)).map(|(id, engine)| (*id, engine))
    }

    /// The integers of the connected ones.
    pub fn online(&self) -> impl Iterator<Item = EngineId> {
        self.online_after(None)
    }

    /// Of those after one of them, the integers of the connected ones.
    pub fn online_after(&self, after: Option<EngineId>) -> impl Iterator<Item = EngineId> {
        self.iter_after(after).filter(|(_, engine)| engine.process.is_some()).map(|(id, _)| id)
    }
}

/// The furthest integer (MPI rank) an engine may ask for beyond the number of known engines:
/// otherwise one peer could use up all of them.
const WANTED_AHEAD_MAX: u32 = 65_536;
/// Engines that went, and are named to those who look.
const WENT_MAX: usize = 4096;
/// Entries of engines that have come back among those that are gone.
const GONE_KEPT: usize = 64;
/// Engines whose integer is remembered while they are away.
const REMEMBERED_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::keys::AttemptId;

    fn uuid(byte: u8) -> EngineUuid {
        EngineUuid([byte; 16])
    }

    #[test]
    fn integers_are_given_in_order_returned_to_their_engine_and_never_to_another() {
        let mut engines = Engines::default();
        assert_eq!(engines.admit(uuid(1), None), EngineId(0));
        assert_eq!(engines.admit(uuid(2), None), EngineId(1));
        engines.remove_for_ever(EngineId(0));
        assert_eq!(
            engines.admit(uuid(3), Some(EngineId(0))),
            EngineId(2),
            "an integer that somebody had is not given"
        );
        engines.remove(EngineId(1));
        assert_eq!(
            engines.admit(uuid(2), None),
            EngineId(1),
            "who was only away gets the old one back"
        );
        assert_eq!(engines.admit(uuid(4), Some(EngineId(7))), EngineId(7));
        assert_eq!(engines.admit(uuid(5), Some(EngineId(u32::MAX))), EngineId(8));
        assert_eq!(
            engines.admit(uuid(6), Some(EngineId(5))),
            EngineId(5),
            "ranks come in any order"
        );
        assert_eq!(engines.admit(uuid(7), Some(EngineId(5))), EngineId(9));
    }

    #[test]
    fn an_integer_too_far_beyond_the_known_engines_is_not_given() {
        let mut engines = Engines::default();
        assert_eq!(engines.admit(uuid(1), Some(EngineId(65_536))), EngineId(0));
        assert_eq!(engines.admit(uuid(2), Some(EngineId(65_536))), EngineId(65_536));
    }

    #[test]
    fn wanted_integers_use_up_few_however_many_are_asked_for() {
        let mut engines = Engines::default();
        for n in 0..20_000_u32 {
            let uuid = EngineUuid(u128::from(n).to_le_bytes());
            engines.admit(uuid, Some(EngineId(engines.next.saturating_add(WANTED_AHEAD_MAX - 1))));
            engines.remove_for_ever(EngineId(engines.next - 1));
        }
        assert!(engines.next <= 20_000 + WANTED_AHEAD_MAX, "{}", engines.next);
        assert!(
            engines.unused.runs() <= 2,
            "what nobody has had is kept as runs: {:?}",
            engines.unused
        );
        assert!(engines.has_integers(1024));
        engines.next = u32::MAX - 1024;
        assert!(!engines.has_integers(1024), "the last ones are not given");
    }

    #[test]
    fn the_engine_that_is_gone_longest_is_forgotten_first() {
        let mut engines = Engines::default();
        let uuid = |n: usize| EngineUuid((n as u128).to_le_bytes());
        for n in 0..REMEMBERED_MAX {
            let id = engines.admit(uuid(n), None);
            if n > 0 {
                engines.remove(id);
            }
        }
        engines.admit(uuid(REMEMBERED_MAX), None);
        assert_eq!(engines.by_uuid.len(), REMEMBERED_MAX);
        assert!(engines.find(uuid(0)).is_some(), "who is here is not forgotten");
        assert_eq!(engines.admit(uuid(1), None).0 as usize, REMEMBERED_MAX + 1);
        assert_eq!(engines.admit(uuid(3), None).0, 3);
    }

    #[test]
    fn a_roster_gives_engines_their_integers_back() {
        let mut engines = Engines::default();
        engines.admit(uuid(1), None);
        engines.admit(uuid(2), None);
        engines.remove(EngineId(0));
        let mut restarted = Engines::new(&engines.roster());
        assert_eq!(restarted.admit(uuid(3), None), EngineId(2));
        assert_eq!(restarted.admit(uuid(2), None), EngineId(1));
    }

    #[test]
    fn changes_make_the_same_roster_and_none_is_told_twice() {
        let mut engines = Engines::default();
        let mut roster = Roster::default();
        let mut changes = 0;
        for step in 0..2_000_u64 {
            let n = step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            let id = EngineId((n % 64) as u32);
            match n % 7 {
                0 => _ = engines.remove(id),
                1 => _ = engines.remove_for_ever(id),
                2 => _ = engines.admit(uuid((n % 200) as u8), Some(id)),
                _ => _ = engines.admit(uuid((n % 200) as u8), None),
            }
            let told = engines.take_changes();
            assert!(told.len() <= 2, "step {step}: {told:?}");
            changes += told.len();
            for change in told {
                roster.apply(change);
            }
            assert_eq!(roster, engines.roster(), "step {step}");
        }
        assert!(changes > 200, "{changes}");
        engines.admit(uuid(201), None);
        engines.take_changes();
        engines.admit(uuid(201), None);
        assert!(engines.take_changes().is_empty(), "it was here before");
    }

    #[test]
    fn the_order_of_loads_follows_every_change() {
        let mut engines = Engines::default();
        let (a, b) = (engines.admit(uuid(1), None), engines.admit(uuid(2), None));
        assert_eq!(engines.idle().count(), 0, "nobody takes work");
        for id in [a, b] {
            engines.update(id, |engine| engine.class = Some(ClassId(3)));
        }
        engines.update(a, |engine| engine.work.assigned.push_back(AttemptId(5)));
        assert_eq!(engines.idlest([ClassId(2), ClassId(3)].into_iter(), 9), Some(b));
        assert_eq!(engines.idle().collect::<Vec<_>>(), [(ClassId(3), b)]);
        assert_eq!(engines.busiest(1).next(), None, "it has nothing to spare");
        engines.update(a, |engine| engine.work.assigned.push_back(AttemptId(6)));
        assert_eq!(engines.busiest(1).next(), Some(a));
        engines.remove(b);
        assert_eq!(engines.idlest([ClassId(3)].into_iter(), 2), None);
        assert_eq!(engines.idlest([ClassId(3)].into_iter(), 3), Some(a));
        engines.remove(a);
        assert!(engines.by_load.is_empty());
    }
}
