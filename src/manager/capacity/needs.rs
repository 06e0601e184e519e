//! Finds out how many new nodes of a group some tasks need. Pure.

use crate::clients::docker::Resources;

/// Tasks that are all alike.
#[derive(Clone, Debug)]
pub struct Batch {
    pub tasks: usize,
    /// What each of them reserves.
    pub reserved: Resources,
    /// How many of them a node may have.
    pub most: usize,
}

impl Batch {
    /// Returns how many of the tasks an empty node takes.
    pub fn per_node(&self, node: &Resources) -> usize {
        node.count(&self.reserved).min(self.most)
    }
}

/// Returns the number of nodes with the resources `node` that take all tasks, filled one batch after the other, the
/// largest tasks first. Tasks that do not fit on an empty node need none: no number of nodes helps them.
pub fn nodes_for(mut batches: Vec<Batch>, node: &Resources) -> usize {
    batches.retain(|batch| batch.tasks > 0 && batch.per_node(node) > 0);
    let size = |batch: &Batch| (batch.reserved.memory_bytes, batch.reserved.nano_cpus);
    batches.sort_by_key(|batch| std::cmp::Reverse(size(batch)));
    // What is left on some equal nodes.
    let mut bins: Vec<(usize, Resources)> = Vec::new();
    for batch in batches {
        let mut rest = batch.tasks;
        let mut changed = Vec::new();
        for (count, free) in &mut bins {
            let each = free.count(&batch.reserved).min(batch.most);
            if rest == 0 || each == 0 {
                continue;
            }
            let filled = (*count).min(rest.div_ceil(each));
            let taken = each.saturating_mul(filled).min(rest);
            changed.push((filled, free.without(&batch.reserved.times(each))));
            *count -= filled;
            rest -= taken;
        }
        bins.extend(changed);
        if rest > 0 {
            let each = batch.per_node(node);
            bins.push((rest.div_ceil(each), node.without(&batch.reserved.times(each.min(rest)))));
        }
        bins.retain(|(count, _)| *count > 0);
    }
    bins.iter().map(|(count, _)| count).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amount(nano_cpus: u64, memory_bytes: u64) -> Resources {
        Resources { nano_cpus, memory_bytes, ..Resources::default() }
    }

    fn batch(tasks: usize, nano_cpus: u64, memory_bytes: u64) -> Batch {
        Batch { tasks, reserved: amount(nano_cpus, memory_bytes), most: usize::MAX }
    }

    #[test]
    fn tasks_are_packed_by_their_scarcest_resource() {
        let node = amount(4, 100);
        assert_eq!(nodes_for(vec![], &node), 0);
        assert_eq!(nodes_for(vec![batch(8, 1, 10)], &node), 2);
        assert_eq!(nodes_for(vec![batch(3, 1, 60)], &node), 3);
        assert_eq!(nodes_for(vec![batch(1_000_000, 0, 0)], &node), 1, "they reserve nothing");
        let small_beside_large = vec![batch(4, 1, 10), batch(2, 2, 60)];
        assert_eq!(nodes_for(small_beside_large, &node), 2);
    }

    #[test]
    fn what_no_node_takes_needs_none() {
        let node = amount(4, 100);
        assert_eq!(nodes_for(vec![batch(5, 8, 1)], &node), 0);
        assert_eq!(nodes_for(vec![batch(5, 8, 1), batch(1, 1, 1)], &node), 1);
    }

    #[test]
    fn a_limit_on_a_node_counts_for_its_own_batch_alone() {
        let one_each = Batch { most: 1, ..batch(3, 1, 1) };
        assert_eq!(nodes_for(vec![one_each.clone()], &amount(8, 8)), 3);
        assert_eq!(nodes_for(vec![one_each.clone(), batch(6, 1, 1)], &amount(8, 8)), 3);
        assert_eq!(nodes_for(vec![one_each], &amount(1, 1)), 3);
    }

    proptest! {
        /// No more than one node for each task, no fewer than the sums need.
        #[test]
        fn the_number_is_between_the_sum_and_one_each(
            batches in prop::collection::vec((1usize..50, 1u64..10, 1u64..10, 1usize..6), 1..6),
        ) {
            let node = amount(10, 10);
            let batches: Vec<Batch> = batches
                .into_iter()
                .map(|(tasks, cpus, memory, most)| Batch { most, ..batch(tasks, cpus, memory) })
                .collect();
            let tasks: usize = batches.iter().map(|it| it.tasks).sum();
            let sum = |of: fn(&Resources) -> u64| -> u64 {
                batches.iter().map(|it| it.tasks as u64 * of(&it.reserved)).sum()
            };
            let least = sum(|it| it.nano_cpus).max(sum(|it| it.memory_bytes)).div_ceil(10);
            let most_of_one = batches.iter().map(|it| it.tasks.div_ceil(it.most)).max().unwrap();
            let nodes = nodes_for(batches, &node);
            prop_assert!(nodes <= tasks && nodes as u64 >= least && nodes >= most_of_one);
        }
    }
}
