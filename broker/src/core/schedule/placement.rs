//! The demands that tasks make on engines, and the shared queues, one for each set of demands.
//!
//! A task demands a runtime, labels (`require`) and, if its session's token has scopes, one of
//! those. Engines with the same runtimes and labels are of one class; which classes meet a set of
//! demands is worked out once, when either is new. So an engine that nobody waits for is never
//! looked at, however many there are.

use std::collections::{BTreeMap, BTreeSet};

use furlong_wire::ids::OwnerId;
use furlong_wire::message::Runtime;

use super::queues::shared::SharedQueue;
use crate::core::engines::table::Engines;
use crate::core::keys::{ClassId, PlacementId};
use crate::core::tasks::table::Tasks;
use crate::core::turns::work::count;

/// Stale entries that a queue may hold at least.
const STALE_KEPT: u64 = 64;
/// Sets of demands that there may be at once, among all tasks.
const PLACEMENTS_MAX: usize = 4096;

/// The demands of a task.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Demands {
    /// The runtime that must run it.
    pub runtime: Runtime,
    /// Labels that the engine must have: ascending, each once.
    pub require: Vec<String>,
    /// Labels of which the engine must have one, if there are any.
    pub scopes: Vec<String>,
    /// The number of tasks above it that wait for it, see [`super::lending`].
    pub depth: u32,
    /// The time that the engine must have left, in seconds; 0 if none is demanded.
    pub time_s: u64,
    /// The kind of the tasks, if some engines could not begin such ones: their queue is apart from
    /// the others.
    pub kind: Option<Kind>,
}

impl Demands {
    /// The demands of a task.
    pub fn new(
        runtime: Runtime,
        require: &[String],
        scopes: &[String],
        (depth, time_s): (u32, u64),
    ) -> Self {
        let ascending: BTreeSet<&String> = require.iter().collect();
        let require = ascending.into_iter().cloned().collect();
        Self { runtime, require, scopes: scopes.to_vec(), depth, time_s, kind: None }
    }

    /// Returns true if engines of a class meet them, and are set aside for such work.
    fn are_set_aside_in(&self, class: &Class) -> bool {
        class.set_aside.contains(&Work::Runtime(self.runtime))
            || self.kind.is_some_and(|kind| class.set_aside.contains(&Work::Kind(kind)))
    }

    /// Returns true if engines of a class meet them.
    pub fn are_met_by(&self, class: &Class) -> bool {
        class.runtimes.contains(&self.runtime)
            && self.require.iter().all(|label| class.labels.contains(label))
            && self.are_in_scope(class)
    }

    /// Returns true if engines of a class are among those that the session may use.
    pub fn are_in_scope(&self, class: &Class) -> bool {
        self.scopes.is_empty() || self.scopes.iter().any(|scope| class.labels.contains(scope))
    }
}

/// The common properties of the engines of one class.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Class {
    /// The runtimes that they offer.
    pub runtimes: BTreeSet<Runtime>,
    /// Their labels.
    pub labels: BTreeSet<String>,
    /// The work that they could not begin lately.
    pub set_aside: BTreeSet<Work>,
}

/// The owner of tasks, and the client's number for their kind: the program, the function.
pub type Kind = (OwnerId, u32);

/// Work that an engine may be unable to begin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Work {
    /// All of a runtime.
    Runtime(Runtime),
    /// One kind of one owner's tasks.
    Kind(Kind),
}

/// One set of demands, with the shared tasks that have it.
#[derive(Debug)]
pub struct Placement {
    /// The demands.
    pub demands: Demands,
    /// The shared tasks that wait.
    pub queue: SharedQueue,
    /// The number of tasks in it.
    pub waiting: u64,
    /// The number of entries that have become stale since the queue was last cleaned.
    stale: u64,
    /// Unfinished tasks that name it.
    tasks: u64,
    /// The classes that meet the demands.
    classes: BTreeSet<ClassId>,
    /// Those that meet them and are set aside for such work: their engines get it only if there are
    /// no others.
    set_aside: BTreeSet<ClassId>,
}

impl Placement {
    fn add_class(&mut self, id: ClassId, class: &Class) {
        if !self.demands.are_met_by(class) {
            return;
        }
        let of = if self.demands.are_set_aside_in(class) {
            &mut self.set_aside
        } else {
            &mut self.classes
        };
        of.insert(id);
    }

    /// The classes whose engines are given its shared tasks: those that are set aside for such work
    /// only if there is no engine of the others.
    pub fn classes(&self, engines: &Engines) -> &BTreeSet<ClassId> {
        let Self { classes, set_aside, .. } = self;
        let has_others = set_aside.is_empty() || classes.iter().any(|class| engines.has(*class));
        if has_others { classes } else { set_aside }
    }
}

#[cfg(any(test, feature = "invariants"))]
impl Placement {
    /// Unfinished tasks that name it.
    pub fn tasks(&self) -> u64 {
        self.tasks
    }
}

/// All sets of demands, and all classes of engines.
#[derive(Debug)]
pub struct Placements {
    table: BTreeMap<PlacementId, Placement>,
    by_demands: BTreeMap<Demands, PlacementId>,
    /// That of the last task with labels or scopes: the next one mostly has the same.
    recent: Option<PlacementId>,
    ids_made: u32,
    /// Those with waiting tasks.
    waiting: BTreeSet<PlacementId>,
    classes: BTreeMap<ClassId, (Class, u64)>,
    by_class: BTreeMap<Class, ClassId>,
    classes_made: u32,
}

impl Default for Placements {
    /// The plain demands, a runtime and nothing else, are always there.
    fn default() -> Self {
        let mut placements = Self {
            table: BTreeMap::new(),
            by_demands: BTreeMap::new(),
            recent: None,
            ids_made: 0,
            waiting: BTreeSet::new(),
            classes: BTreeMap::new(),
            by_class: BTreeMap::new(),
            classes_made: 0,
        };
        for &runtime in Runtime::ALL {
            placements.add(Demands::new(runtime, &[], &[], (0, 0)));
        }
        placements
    }
}

impl Placements {
    /// The id of a task's demands, for `tasks` tasks more: among them its nesting depth, and the
    /// time that its engine must have left. None if there are too many different ones.
    pub fn enter(
        &mut self,
        runtime: Runtime,
        require: &[String],
        scopes: &[String],
        (depth, time_s): (u32, u64),
        tasks: u64,
    ) -> Option<PlacementId> {
        let is_plain = require.is_empty() && scopes.is_empty() && (depth, time_s) == (0, 0);
        let id = if is_plain {
            let plain = Runtime::ALL.iter().position(|known| *known == runtime);
            PlacementId(plain.expect("`ALL` has all of them") as u32)
        } else {
            self.of_demands(runtime, require, scopes, (depth, time_s))?
        };
        self.get_mut(id).tasks += tasks;
        Some(id)
    }

    fn of_demands(
        &mut self,
        runtime: Runtime,
        require: &[String],
        scopes: &[String],
        (depth, time_s): (u32, u64),
    ) -> Option<PlacementId> {
        let is_same = |it: &Demands| {
            let is_plain = it.depth == depth && it.time_s == time_s && it.kind.is_none();
            is_plain && it.runtime == runtime && it.require == require && it.scopes == scopes
        };
        if let Some(id) =
            self.recent.filter(|id| self.table.get(id).is_some_and(|it| is_same(&it.demands)))
        {
            return Some(id);
        }
        let demands = Demands::new(runtime, require, scopes, (depth, time_s));
        let id = match self.by_demands.get(&demands) {
            Some(id) => *id,
            None if self.table.len() >= PLACEMENTS_MAX => return None,
            None => self.add(demands),
        };
        self.recent = Some(id);
        Some(id)
    }

    /// The id of the same demands for one kind of task, which some engines could not begin, for a
    /// task more. None if there are too many different ones.
    pub fn enter_kind(&mut self, of: PlacementId, kind: Kind) -> Option<PlacementId> {
        let demands = Demands { kind: Some(kind), ..self.get(of).demands.clone() };
        self.enter_demands(demands)
    }

    /// The id of the same demands at another depth, for a task more. None if there are too many
    /// different ones.
    pub fn enter_deeper(&mut self, of: PlacementId, depth: u32) -> Option<PlacementId> {
        let demands = Demands { depth, ..self.get(of).demands.clone() };
        self.enter_demands(demands)
    }

    fn enter_demands(&mut self, demands: Demands) -> Option<PlacementId> {
        let id = match self.by_demands.get(&demands) {
            Some(id) => *id,
            None if self.table.len() >= PLACEMENTS_MAX => return None,
            None => self.add(demands),
        };
        self.get_mut(id).tasks += 1;
        Some(id)
    }

    fn add(&mut self, demands: Demands) -> PlacementId {
        let id = PlacementId(self.ids_made);
        self.ids_made += 1;
        let (queue, classes, set_aside) =
            (SharedQueue::default(), BTreeSet::new(), BTreeSet::new());
        let mut placement =
            Placement { demands, queue, waiting: 0, stale: 0, tasks: 0, classes, set_aside };
        self.classes.iter().for_each(|(id, (class, _))| placement.add_class(*id, class));
        let known = self.by_demands.insert(placement.demands.clone(), id);
        assert!(known.is_none(), "demands have two queues, {known:?} and {id:?}");
        self.table.insert(id, placement);
        id
    }

    /// A task with these demands has ended.
    pub fn leave(&mut self, id: PlacementId) {
        let placement = self.get_mut(id);
        assert!(placement.tasks > 0, "more tasks leave {:?} than entered", placement.demands);
        placement.tasks -= 1;
        assert!(placement.waiting <= placement.tasks, "more wait than there are");
        // Anybody may make up labels: what nobody demands any longer is not remembered. The plain
        // demands stay, since all look them up by their place.
        if placement.tasks == 0 && id.0 as usize >= Runtime::ALL.len() {
            let placement = self.table.remove(&id).expect("it was there a moment ago");
            let known = self.by_demands.remove(&placement.demands);
            assert!(known == Some(id), "the demands of {id:?} lead to {known:?}");
            self.waiting.remove(&id);
        }
    }

    /// A set of demands that a task names.
    pub fn get(&self, id: PlacementId) -> &Placement {
        self.table.get(&id).expect("a placement stays while a task names it")
    }

    /// A set of demands that a task names.
    pub fn get_mut(&mut self, id: PlacementId) -> &mut Placement {
        self.table.get_mut(&id).expect("a placement stays while a task names it")
    }

    /// Counts a task that waits from now on, or no longer does.
    pub fn count_waiting(&mut self, id: PlacementId, more: bool) {
        let placement = self.get_mut(id);
        assert!(more || placement.waiting > 0, "nothing waits with {:?}", placement.demands);
        placement.waiting = if more { placement.waiting + 1 } else { placement.waiting - 1 };
        if placement.waiting == 0 {
            self.waiting.remove(&id);
        } else if placement.waiting == 1 {
            self.waiting.insert(id);
        }
    }

    /// The entry of a task that has ended, or has another placement now, is left in the queue. When
    /// there are more of them than of others, all go: so each costs little.
    pub fn count_stale(&mut self, id: PlacementId, tasks: &Tasks) {
        let placement = self.get_mut(id);
        placement.stale += 1;
        if placement.stale > STALE_KEPT && placement.stale > placement.waiting {
            placement.stale = 0;
            let is_here = |key| tasks.get(key).is_some_and(|task| task.placement == id);
            placement.queue.retain(is_here);
        }
    }

    /// The sets of demands with waiting tasks.
    pub fn waiting(&self) -> impl Iterator<Item = PlacementId> {
        self.waiting.iter().inspect(|_| count(1)).copied()
    }

    /// Tasks that wait in all shared queues.
    pub fn tasks_waiting(&self) -> u64 {
        self.waiting.iter().map(|id| self.get(*id).waiting).sum()
    }

    /// The classes whose engines are given shared tasks with these demands.
    pub fn classes(&self, id: PlacementId, engines: &Engines) -> &BTreeSet<ClassId> {
        self.get(id).classes(engines)
    }

    /// Returns true if engines of a class are given shared tasks with these demands.
    pub fn fits(&self, id: PlacementId, class: ClassId, engines: &Engines) -> bool {
        self.classes(id, engines).contains(&class)
    }

    /// The classes that meet these demands, set aside or not.
    pub fn meeting(&self, id: PlacementId) -> impl Iterator<Item = ClassId> {
        let Placement { classes, set_aside, .. } = self.get(id);
        classes.iter().chain(set_aside).copied()
    }

    /// Returns true if engines of a class meet these demands, set aside or not.
    pub fn is_met_by(&self, id: PlacementId, class: ClassId) -> bool {
        let Placement { classes, set_aside, .. } = self.get(id);
        classes.contains(&class) || set_aside.contains(&class)
    }

    /// Returns true if a task names this set of demands.
    pub fn is_named(&self, id: PlacementId) -> bool {
        self.table.contains_key(&id)
    }

    /// The class of a process's engines, for one process more.
    pub fn enter_class(&mut self, class: Class) -> ClassId {
        if let Some(id) = self.by_class.get(&class) {
            let (_, processes) = self.classes.get_mut(id).expect("a class is in both tables");
            *processes += 1;
            return *id;
        }
        let id = ClassId(self.classes_made);
        self.classes_made += 1;
        count(self.table.len());
        self.table.values_mut().for_each(|placement| placement.add_class(id, &class));
        self.by_class.insert(class.clone(), id);
        self.classes.insert(id, (class, 1));
        id
    }

    /// A process of a class is gone.
    pub fn leave_class(&mut self, id: ClassId) {
        let class = self.classes.get_mut(&id);
        let (_, processes) = class.expect("a class stays while a process is of it");
        assert!(*processes > 0, "more processes leave a class than entered it");
        *processes -= 1;
        if *processes == 0 {
            let (class, _) = self.classes.remove(&id).expect("it was there a moment ago");
            self.by_class.remove(&class);
            for placement in self.table.values_mut() {
                placement.classes.remove(&id);
                placement.set_aside.remove(&id);
            }
        }
    }

    /// Returns the properties of an engine class.
    pub fn class(&self, id: ClassId) -> Option<&Class> {
        self.classes.get(&id).map(|(class, _)| class)
    }

    /// All of them, for the tests.
    #[cfg(any(test, feature = "invariants"))]
    pub fn iter(&self) -> impl Iterator<Item = (PlacementId, &Placement)> {
        self.table.iter().map(|(id, placement)| (*id, placement))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(runtimes: &[Runtime], labels: &[&str]) -> Class {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Class { runtimes: runtimes.iter().copied().collect(), labels, set_aside: BTreeSet::new() }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn demands_meet_classes_whichever_comes_first() {
        let mut placements = Placements::default();
        let plain = placements.enter_class(class(&[Runtime::Python], &[]));
        let gpu =
            placements.enter(Runtime::Python, &names(&["gpu", "gpu"]), &[], (0, 0), 1).unwrap();
        let both = placements.enter_class(class(&[Runtime::Python], &["gpu", "big"]));
        let scoped =
            placements.enter(Runtime::Python, &[], &names(&["big", "other"]), (0, 0), 1).unwrap();
        let any = placements.enter(Runtime::Python, &[], &[], (0, 0), 1).unwrap();
        let native = placements.enter(Runtime::Native, &[], &[], (0, 0), 1).unwrap();
        let engines = Engines::default();
        let classes = |id| placements.classes(id, &engines).iter().copied().collect::<Vec<_>>();
        assert_eq!(classes(gpu), [both]);
        assert_eq!(classes(scoped), [both]);
        assert_eq!(classes(any), [plain, both]);
        assert!(classes(native).is_empty());
        assert_eq!(placements.enter(Runtime::Python, &names(&["gpu"]), &[], (0, 0), 1), Some(gpu));
        placements.leave_class(both);
        assert!(
            placements.classes(gpu, &engines).is_empty() && !placements.fits(any, both, &engines)
        );
    }

    #[test]
    fn demands_are_forgotten_with_their_last_task_and_bounded() {
        let mut placements = Placements::default();
        let plain = placements.table.len();
        for round in 0..3 {
            let ids: Vec<_> = (0..PLACEMENTS_MAX)
                .map_while(|label| {
                    placements.enter(Runtime::Native, &[format!("{round} {label}")], &[], (0, 0), 1)
                })
                .collect();
            assert_eq!(ids.len(), PLACEMENTS_MAX - plain);
            for id in ids {
                placements.leave(id);
            }
            assert_eq!(placements.table.len(), plain);
        }
    }
}
