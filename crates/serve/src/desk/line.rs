//! Who waits at the desk, and whose turn it is. Pure.

use std::collections::{HashMap, VecDeque};

/// What waits: by model, each of which has its turn, so that one with long texts does not hold up the others.
pub(super) struct Line<T> {
    /// What was begun; it goes before anything new.
    finishing: VecDeque<T>,
    /// By model id; a queue that is empty is dropped.
    beginning: HashMap<u64, VecDeque<T>>,
    /// The models that have a queue, in the order of their turns.
    turns: VecDeque<u64>,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { finishing: VecDeque::new(), beginning: HashMap::new(), turns: VecDeque::new() }
    }
}

impl<T> Line<T> {
    /// Lets `job` of the model with this id wait, unless `capacity` of that model do already.
    ///
    /// # Errors
    /// How many wait, when they are too many.
    pub(super) fn begin(&mut self, model: u64, capacity: usize, job: T) -> Result<(), usize> {
        let queue = self.beginning.entry(model).or_default();
        if queue.len() >= capacity {
            return Err(queue.len());
        }
        if queue.is_empty() {
            self.turns.push_back(model);
        }
        queue.push_back(job);
        Ok(())
    }

    /// Lets `job` wait, which was begun: the lanes have seen it, and so their queues bound how many there are.
    pub(super) fn finish(&mut self, job: T) {
        self.finishing.push_back(job);
    }

    /// What is done next.
    pub(super) fn next(&mut self) -> Option<T> {
        if let Some(job) = self.finishing.pop_front() {
            return Some(job);
        }
        let model = self.turns.pop_front()?;
        let queue = self.beginning.get_mut(&model)?;
        let job = queue.pop_front();
        if queue.is_empty() {
            self.beginning.remove(&model);
        } else {
            self.turns.push_back(model);
        }
        job
    }

    /// Everything that waits, which leaves.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_take_turns_and_what_was_begun_goes_first() {
        let mut line = Line::default();
        for (model, job) in [(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (3, "c1"), (3, "c2")] {
            line.begin(model, 3, job).unwrap();
        }
        assert_eq!(line.begin(1, 3, "a4"), Err(3));
        assert_eq!(line.next(), Some("a1"));
        line.finish("done");
        line.begin(1, 3, "a4").unwrap();
        let rest: Vec<_> = std::iter::from_fn(|| line.next()).collect();
        assert_eq!(rest, ["done", "b1", "c1", "a2", "c2", "a3", "a4"]);
        assert!(line.beginning.is_empty() && line.turns.is_empty());
    }
}
