//! Guests on lanes: the network's threads. What is over sooner than a lane could be woken for it, the thread that brought
//! it runs by itself, on a lane that sleeps and is lent to it, when it has read all that there was to read. So a request
//! to a small model changes no thread on its way, and no more is computed at a time than there are lanes.
//!
//! A guest who brought more than the queues hold takes a breath before it reads on, for as long as the lanes do not notice:
//! what comes meanwhile is then read, and refused, together, instead of taking a lane's core away for each.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::{Scheduler, lane};

thread_local! {
    /// Which guest this thread is, and whether it has brought something since it last looked. Its own alone.
    static GUEST: Cell<Option<Guest>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct Guest {
    number: usize,
    brought: bool,
    /// For how long it leaves the network alone, because of what was refused.
    breath: Duration,
}

/// The guest that the calling thread is, if it is one: it brings a request, and will [look](Scheduler::look) for it.
pub(crate) fn brings() -> Option<usize> {
    let guest = GUEST.get()?;
    GUEST.set(Some(Guest { brought: true, ..guest }));
    Some(guest.number)
}

/// What the calling thread brought was refused; if it is a guest, it will leave the network alone for this long.
pub(crate) fn will_breathe(breath: Duration) {
    if let Some(guest) = GUEST.get() {
        GUEST.set(Some(Guest { breath, ..guest }));
    }
}

impl Scheduler {
    /// Makes the calling thread a guest, who promises to [look](Self::look) for what it brought before it sleeps and
    /// before it does anything that takes long.
    pub(crate) fn welcome(&self) {
        let number = self.lock().sleepers.welcome();
        GUEST.set(Some(Guest { number, brought: false, breath: Duration::ZERO }));
    }

    /// Runs what is brief, if the calling thread is a guest and brought anything since it last looked, and takes a breath if
    /// some of it was refused.
    pub(crate) fn look(&self) {
        let Some(Guest { number, brought, breath }) = GUEST.get() else { return };
        GUEST.set(Some(Guest { number, brought: false, breath: Duration::ZERO }));
        while brought && self.run_brief(number) {}
        if !breath.is_zero() {
            std::thread::sleep(breath);
        }
    }

    /// Whether there was something brief and a lane to run it on.
    fn run_brief(&self, guest: usize) -> bool {
        let (mut queues, now) = (self.lock(), Instant::now());
        if let Some(lane) = queues.sleepers.lend() {
            if let Some(batch) = queues.next_brief(now) {
                self.taken(queues, now, guest, &batch.jobs);
                lane::carry_out(self, lane, batch);
                let wanted = self.lock().sleepers.returned(Instant::now(), lane);
                self.wake(wanted);
                return true;
            }
            // Nobody has seen that it was lent.
            queues.sleepers.returned(now, lane);
        }
        let more = queues.has_work();
        let mut another = queues.sleepers.passed(now, guest, self.lane_here(), more);
        if another.is_none() && queues.wants_a_look() {
            another = queues.sleepers.called(now);
        }
        drop(queues);
        self.wake(another);
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};
    use std::thread::ThreadId;
    use std::time::Duration;

    use engine::{Result, Tensor};

    use crate::{Control, InferRequest, InferResponse, Origin, Reply, fixture};

    /// Tells on which thread the answer came.
    struct Told(SyncSender<ThreadId>);

    impl Reply for Told {
        fn gone(&self) -> bool {
            false
        }

        fn send(self: Box<Self>, answer: Result<InferResponse>) {
            answer.unwrap();
            self.0.send(std::thread::current().id()).unwrap();
        }
    }

    #[test]
    fn a_guest_runs_what_is_brief_and_leaves_the_rest_to_the_lanes() {
        let served = fixture::served(Control::None);
        let scheduler = &served.scheduler;
        let (told, answered) = sync_channel(4);
        let ask = |model: &str, input: &str| {
            let x = Tensor::from_f32(vec![1], vec![1.0]).unwrap();
            let inputs = vec![(input.to_owned(), x.clone()), ("q".to_owned(), x)];
            let (model, outputs, origin) = (model.to_owned(), Vec::new(), Origin::default());
            let request = InferRequest { model, version: None, inputs, outputs, priority: 0, deadline: None, origin };
            scheduler.submit(request, Box::new(Told(told.clone()))).unwrap();
        };
        scheduler.welcome();
        // Nothing is known of the model, so a lane runs it.
        ask("uneven", "p");
        let lane = answered.recv().unwrap();
        assert_ne!(lane, std::thread::current().id());
        let costs = scheduler.residency().model("uneven", None).unwrap();
        for _ in 0..100 {
            costs.costs().learn(1, Duration::from_micros(1));
        }
        let asleep = || scheduler.lock().sleepers.asleep().is_some();
        while !asleep() {
            std::thread::yield_now();
        }
        ask("uneven", "p");
        ask("uneven", "p");
        assert!(answered.try_recv().is_err() && asleep(), "nobody runs it before the guest looks");
        scheduler.look();
        assert_eq!([answered.try_recv(), answered.try_recv()], [Ok(std::thread::current().id()); 2]);
        assert!(asleep(), "the lane was not woken");
        // What turns out to be dear is the lanes' again.
        for _ in 0..100 {
            costs.costs().learn(1, Duration::from_secs(1));
        }
        ask("uneven", "p");
        assert_eq!(answered.recv().unwrap(), lane);
    }
}
