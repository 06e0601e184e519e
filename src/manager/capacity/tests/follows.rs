//! A group that follows its metric, with tasks that Docker spreads over its nodes.

use proptest::prelude::*;

use super::*;

/// The group's nodes, each with the reservations of its tasks, and the tasks that wait.
struct World {
    nodes: Vec<Vec<Resources>>,
    waiting: Vec<Resources>,
    kinds: Kinds,
}

impl World {
    /// Docker gives each waiting task to the node with the fewest tasks that has room.
    fn place(&mut self) {
        let size = amount(4, 8);
        let mut waiting = Vec::new();
        for task in std::mem::take(&mut self.waiting) {
            let free = |tasks: &Vec<Resources>| {
                tasks.iter().fold(size.clone(), |free, task| free.without(task))
            };
            let fits = self.nodes.iter_mut().filter(|tasks| free(tasks).count(&task) > 0);
            match fits.min_by_key(|tasks| tasks.len()) {
                Some(tasks) => tasks.push(task),
                None => waiting.push(task),
            }
        }
        self.waiting = waiting;
    }

    fn percent(&mut self) -> f64 {
        let name = |n: usize| format!("n{n}");
        let nodes: Vec<_> = (0..self.nodes.len()).map(|n| node(&name(n), "workers")).collect();
        let placed = self.nodes.iter().enumerate().flat_map(|(n, tasks)| {
            let on = move |reserved: &Resources| ServiceTask {
                reserved: reserved.clone(),
                ..task(&name(n), RUNNING)
            };
            tasks.iter().map(on)
        });
        let all = placed.chain(self.waiting.iter().cloned().map(waits)).collect();
        let services = [replicated("web", &["node.role==worker"])];
        let seen = look_with(&nodes, &services, &tasks([("web", all)]), &mut self.kinds);
        seen.groups.get("workers").map_or(100.0, |it| it.capacity.needed_percent())
    }

    /// Target tracking with a target of 100; only idle nodes are scaled in. Returns the change.
    fn scale(&mut self) -> isize {
        let (before, percent) = (self.nodes.len(), self.percent());
        let wanted = (before.max(1) as f64 * percent / 100.0).ceil() as usize;
        if percent > 100.0 {
            self.nodes.resize(wanted.max(before + 1), Vec::new());
        } else if percent < 90.0 {
            let mut excess = before - wanted;
            self.nodes.retain(|tasks| {
                let goes = tasks.is_empty() && excess > 0;
                excess -= usize::from(goes);
                !goes
            });
        }
        self.nodes.len() as isize - before as isize
    }
}

proptest! {
    /// Tasks that fit on no node buy none, all others run in the end, and the group comes to rest.
    #[test]
    fn a_group_that_follows_its_tasks_comes_to_rest(
        nodes in 0usize..6,
        sizes in prop::collection::vec((0u64..6, 0u64..10), 0..25),
    ) {
        let waiting: Vec<_> = sizes.iter().map(|(cpus, gib)| amount(*cpus, *gib)).collect();
        let mut world = World { nodes: vec![Vec::new(); nodes], waiting, kinds: Kinds::default() };
        let mut changes = Vec::new();
        for _ in 0..12 {
            world.place();
            changes.push(world.scale());
        }
        prop_assert_eq!(changes[8..].iter().filter(|it| **it != 0).count(), 0, "{:?}", changes);
        let turns = changes.iter().filter(|it| **it != 0).map(|it| it.signum());
        let turns: Vec<_> = turns.collect();
        prop_assert!(!turns.windows(3).any(|it| it == [1, -1, 1]), "it flaps: {:?}", changes);
        let size = amount(4, 8);
        // Without a node there was nothing to learn from, and no task names the group.
        let is_helpless = |task: &Resources| size.count(task) == 0;
        prop_assert!(nodes == 0 || world.waiting.iter().all(is_helpless));
    }
}
