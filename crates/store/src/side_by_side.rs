//! Small files are read by several threads, because each spends most of its time in the kernel.

use std::num::NonZero;
use std::thread;

const THREADS_MAX: usize = 8;
/// Fewer are done before a thread is there to help.
const EACH_MIN: usize = 64;

/// What `each` gives for every one of `items`, in their order; by as many threads as there are cores, which are gone on
/// return.
pub(crate) fn side_by_side<T: Sync, R: Send>(items: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    let part = items.len().div_ceil(threads).max(EACH_MIN);
    if items.len() <= part {
        return items.iter().map(each).collect();
    }
    let some = |items: &[T]| items.iter().map(&each).collect::<Vec<_>>();
    thread::scope(|scope| {
        let running: Vec<_> = items.chunks(part).map(|items| scope.spawn(|| some(items))).collect();
        let done = |thread: thread::ScopedJoinHandle<'_, Vec<R>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().flat_map(done).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_what_was_asked() {
        for count in [0, 1, EACH_MIN, EACH_MIN + 1, 10_000] {
            let items: Vec<usize> = (0..count).collect();
            let twice: Vec<usize> = items.iter().map(|item| item * 2).collect();
            assert_eq!(side_by_side(&items, |item| item * 2), twice, "{count}");
        }
    }
}
