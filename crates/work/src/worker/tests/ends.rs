//! What becomes of tasks, one at a time and several: done, dead letters, given back, taken up again.

use super::*;

#[test]
fn videos_go_from_the_queue_to_durable_lines() {
    let yard = Yard::new();
    let video = yard.video();
    let task = yard.submit("a", &video);
    yard.submit("b", &video);
    let (worker, recorder) = (yard.worker(), Recorder::default());
    let report = worker.run(Mode::DrainOnce, &Stop::new(), &recorder).unwrap();
    assert_eq!(report, Report { completed: 2, ..Report::default() });
    yard.assert_whole("a");
    yard.assert_whole("b");
    let lines = |id| yard.objects.read(&lines_key(id)).unwrap();
    assert_eq!(lines("a"), lines("b"), "the same video gives the same bytes");
    let said = recorder.0.into_inner().unwrap();
    assert_eq!(said, ["a started 1", "a all 12", "a finished 7", "b started 1", "b all 12", "b finished 7"]);

    let summary = Summary::from_json(&yard.objects.read(&summary_key("a")).unwrap()).unwrap();
    assert_eq!((&summary.task, &summary.input.path, summary.threshold), (&task.id, &task.input, 0.4));
    assert_eq!(summary.input.size_bytes, std::fs::metadata(&video).unwrap().len());
    assert_eq!((summary.model.name.as_str(), summary.model.version, &*summary.model.program), ("brightness", 3, "p"));
    let counts = (summary.frames, summary.frames_with_detections, summary.detections);
    assert_eq!(counts, (FRAMES, FRAMES_FOUND, FRAMES_FOUND));
    assert_eq!(summary.classes["light"].detections, FRAMES_FOUND);
    assert_eq!((summary.video.width, summary.video.height, &*summary.video.codec), (64, 48, "ffv1"));
    let cost = Cost::from_json(&yard.objects.read(&cost_key("a")).unwrap()).unwrap();
    let cpu = cost.cpu_s_per_frame;
    assert!((cpu.infer - 0.001).abs() < 1e-9 && cpu.prepare > 0.0 && cpu.post > 0.0, "{cpu:?}");
    assert!((cpu.total - cpu.decode - cpu.prepare - cpu.infer - cpu.post).abs() < 1e-9 && cost.fps > 0.0);
}

#[test]
fn modes_end_when_they_should() {
    let yard = Yard::new();
    for mode in [Mode::DrainOnce, Mode::OneJob] {
        assert_eq!(run(&yard.worker(), mode).unwrap(), Report::default());
    }
    yard.submit("a", &yard.video());
    yard.submit("b", &yard.video());
    assert_eq!(run(&yard.worker(), Mode::OneJob).unwrap().completed, 1);
    assert_eq!((yard.state("a").phase, yard.state("b").phase), (Phase::Done, Phase::Visible));
    // Serving ends when it is asked to, here at once after the last task.
    let stop = Stop::new();
    let asked = stop.clone();
    let at_complete: Hook = Box::new(move |call| {
        if call == "complete" {
            asked.request();
        }
        Ok(())
    });
    let worker = yard.hooked(at_complete, no_hook(), no_hook());
    assert_eq!(worker.run(Mode::Serve, &stop, &Silent).unwrap().completed, 1);
    yard.assert_whole("b");
}

#[test]
fn bad_input_is_a_dead_letter_with_its_reason_and_the_next_task_is_untouched() {
    let check = |input: &dyn Fn(&Yard) -> PathBuf, change: &dyn Fn(Task) -> Task, part: &str| {
        let yard = Yard::new();
        let bad = Task { id: "bad".to_owned(), ..Task::new(&input(&yard), "brightness").unwrap() };
        yard.queue.send(&change(bad)).unwrap();
        yard.submit("good", &yard.video());
        let report = run(&yard.worker(), Mode::DrainOnce).unwrap();
        assert_eq!(report, Report { completed: 1, dead: 1, ..Report::default() }, "{part}");
        let state = yard.state("bad");
        assert_eq!(state.phase, Phase::Dead);
        assert!(state.reason.as_ref().unwrap().contains(part), "{state:?} does not say '{part}'");
        yard.assert_whole("good");
        assert_eq!(yard.left(), Yard::whole("good"), "{part}");
    };
    let same = |task| task;
    check(&|yard| yard.folder.path().join("none.mp4"), &same, "none.mp4' does not exist");
    check(&|yard| yard.file("empty.mp4", b""), &same, "empty");
    check(&|yard| yard.file("text.mp4", &b"a text, not a video\n".repeat(99)), &same, "text.mp4");
    check(&|yard| yard.folder.path().to_owned(), &same, "folder");
    check(&Yard::video, &|task| Task { model: "unknown".to_owned(), ..task }, "'unknown'");
    check(&Yard::cut_off, &same, "cut.avi' is cut off: it ends after 6 of the 12 frames");
}

#[test]
fn damage_can_be_put_up_with() {
    let yard = Yard::new();
    let cut_off = Task::new(&yard.cut_off(), "brightness").unwrap();
    let task = Task { id: "a".to_owned(), damage_tolerance: 0.5, ..cut_off };
    yard.queue.send(&task).unwrap();
    assert_eq!(run(&yard.worker(), Mode::DrainOnce).unwrap().completed, 1);
    let summary = Summary::from_json(&yard.objects.read(&summary_key("a")).unwrap()).unwrap();
    assert_eq!((summary.frames, summary.damage.errors, summary.damage.frames_missing), (6, 0, 6));
}

#[test]
fn passing_failures_are_tried_again_and_lasting_ones_given_up() {
    let check = |hook: Hook, want: Report, reason: Option<&str>| {
        let yard = Yard::new();
        yard.submit("a", &yard.video());
        assert_eq!(run(&yard.hooked(no_hook(), no_hook(), hook), Mode::DrainOnce).unwrap(), want);
        match reason {
            None => yard.assert_whole("a"),
            Some(part) => {
                assert!(yard.state("a").reason.unwrap().contains(part));
                assert_eq!(yard.left(), [""; 0]);
            }
        }
    };
    let every = |fails: fn(u64) -> bool, error: fn() -> Result<()>| -> Hook {
        let calls = AtomicU64::new(0);
        Box::new(move |_| if fails(calls.fetch_add(1, Ordering::SeqCst)) { error() } else { Ok(()) })
    };
    let once = Report { completed: 1, released: 1, ..Report::default() };
    let never = Report { dead: 1, released: 2, ..Report::default() };
    let internal = || Err(Error::internal("the lane broke"));
    check(every(|call| call == 4, internal), once, None);
    check(every(|_| true, internal), never, Some("failed 3 times, lastly: the lane broke"));
    check(every(|call| call == 4, || panic!("index out of bounds")), once, None);
    check(every(|_| true, || panic!("a bug {}", 7)), never, Some("panic: a bug 7"));
    // A full queue is back-pressure, not a failure.
    let full = || Err(Error::new(ErrorKind::Exhausted, "the queue of model brightness is full"));
    check(every(|call| call % 3 != 0, full), Report { completed: 1, ..Report::default() }, None);
}

#[test]
fn a_panic_on_the_writing_thread_is_that_tasks_failure_alone() {
    struct Panics;
    impl Observer for Panics {
        fn progress(&self, task: &Task, frames: u64, _: Option<u64>) {
            assert!(task.id != "a" || frames < 3, "cannot draw");
        }
    }
    let yard = Yard::new();
    yard.submit("a", &yard.video());
    yard.submit("b", &yard.video());
    let report = yard.worker().run(Mode::DrainOnce, &Stop::new(), &Panics).unwrap();
    assert_eq!(report, Report { completed: 1, dead: 1, released: 2, ..Report::default() });
    assert!(yard.state("a").reason.unwrap().contains("cannot draw"));
    yard.assert_whole("b");
}

#[test]
fn a_stop_gives_the_task_back_at_once_and_unharmed() {
    let yard = Yard::new();
    yard.submit("a", &yard.video());
    yard.submit("b", &yard.video());
    let stop = Stop::new();
    let asked = stop.clone();
    let at_frame: Hook = Box::new(move |_| {
        asked.request();
        Ok(())
    });
    let worker = yard.hooked(no_hook(), no_hook(), at_frame);
    let report = worker.run(Mode::DrainOnce, &stop, &Silent).unwrap();
    assert_eq!(report, Report { released: 1, ..Report::default() });
    assert_eq!((yard.state("a").phase, yard.state("a").failures), (Phase::Visible, 0));
    assert!(yard.left().iter().all(|name| name.starts_with("a/parts/")), "{:?}", yard.left());
    assert_eq!(run(&yard.worker(), Mode::DrainOnce).unwrap().completed, 2);
    yard.assert_whole("a");
}

#[test]
fn a_full_place_stops_the_run_and_harms_no_task() {
    let full = || Error::new(ErrorKind::Exhausted, "output place /out is full: free some space");
    let calls =
        ["create", "append results.jsonl", "commit results.jsonl", "put cost.json", "put summary.json", "put part"];
    for call in calls {
        let yard = Yard::new();
        yard.submit("a", &yard.video());
        yard.submit("b", &yard.video());
        let fails: Hook = Box::new(move |made| if made == call { Err(full()) } else { Ok(()) });
        let mut worker = yard.hooked(no_hook(), fails, no_hook());
        if call == "put part" {
            worker.config.checkpoint.every = Duration::ZERO;
        }
        let error = run(&worker, Mode::DrainOnce).unwrap_err();
        assert_eq!(error, full(), "{call}");
        assert_eq!(yard.queue.depth().unwrap().visible, 2, "{call}");
        let state = yard.state("a");
        assert_eq!((state.failures, state.reason.as_deref()), (0, Some(&*full().message)), "{call}");
        let whole = Yard::whole("a");
        assert!(yard.left().iter().all(|name| whole[..2].contains(name)), "{call}: {:?}", yard.left());
        assert_eq!(run(&yard.worker(), Mode::DrainOnce).unwrap().completed, 2);
        yard.assert_whole("a");
        yard.assert_whole("b");
    }
}

#[test]
fn a_serving_worker_waits_until_the_place_and_the_queue_are_mended() {
    let yard = Yard::new();
    yard.submit("a", &yard.video());
    let stop = Stop::new();
    let (asked, receives, appends) = (stop.clone(), AtomicU64::new(0), AtomicU64::new(0));
    let queue: Hook = Box::new(move |call| match call {
        "receive" if receives.fetch_add(1, Ordering::SeqCst) == 0 => Err(Error::unavailable("queue is locked")),
        "complete" => {
            asked.request();
            Ok(())
        }
        _ => Ok(()),
    });
    // Twenty failures: more than any count of failures or receives would let pass.
    let objects: Hook = Box::new(move |call| match call {
        "append results.jsonl" if appends.fetch_add(1, Ordering::SeqCst) < 20 => Err(Error::invalid("not writable")),
        _ => Ok(()),
    });
    let mut worker = yard.hooked(queue, objects, no_hook());
    worker.config.mend_wait = Duration::ZERO;
    let report = worker.run(Mode::Serve, &stop, &Silent).unwrap();
    assert_eq!(report, Report { completed: 1, released: 20, ..Report::default() });
    yard.assert_whole("a");
}

#[test]
fn a_queue_that_is_no_queue_ends_even_a_serving_worker() {
    let yard = Yard::new();
    let broken: Hook = Box::new(|_| Err(Error::corrupt("queue is damaged")));
    let error = run(&yard.hooked(broken, no_hook(), no_hook()), Mode::Serve).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
}

/// Runs a worker that dies, as a killed process does as far as the queue and the place can tell, at `call`.
fn die_at(yard: &Yard, call: &'static str) {
    let dies = || -> Hook { Box::new(move |made| if made == call { panic!("killed") } else { Ok(()) }) };
    let worker = yard.hooked(dies(), dies(), no_hook());
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&worker, Mode::DrainOnce)));
    assert!(died.is_err(), "{call}");
    assert_eq!(yard.state("a").phase, Phase::InFlight, "{call}");
    // A killed process cannot tidy up, so what a dropped writer removed is put back.
    std::fs::create_dir_all(yard.objects.root().join("a/parts")).unwrap();
    for name in [".results.jsonl.0123.part", "parts/.0a1b.jsonl.0123.part"] {
        std::fs::write(yard.objects.root().join("a").join(name), "half").unwrap();
    }
    assert_eq!(yard.queue.receive(Duration::ZERO).unwrap(), Received::Nothing);
    yard.advance(Duration::from_secs(30));
}

#[test]
fn a_worker_that_dies_anywhere_loses_nothing_and_leaves_nothing() {
    // Between the last line and its durability, between the lines and the summary, between the summary and the
    // acknowledgement. Only in the last case is there nothing left to work.
    for (call, worked_again) in [("commit results.jsonl", true), ("put summary.json", true), ("complete", false)] {
        let yard = Yard::new();
        yard.submit("a", &yard.video());
        die_at(&yard, call);
        assert_eq!(works_again(&yard.worker(), &yard), worked_again, "{call}");
        yard.assert_whole("a");
        assert_eq!(yard.state("a").failures, 0);
    }
}

#[test]
fn a_summary_of_another_task_does_not_count() {
    let yard = Yard::new();
    yard.submit("a", &yard.video());
    assert_eq!(run(&yard.worker(), Mode::OneJob).unwrap().completed, 1);
    let summary = Summary::from_json(&yard.objects.read(&summary_key("a")).unwrap()).unwrap();
    let another = |change: fn(&mut Summary)| {
        let mut other = summary.clone();
        change(&mut other);
        other.to_json().unwrap()
    };
    // An event that comes again to a worker which was told to look otherwise has the id that it had.
    let others = [
        another(|summary| summary.input.path = "/another.mp4".to_owned()),
        another(|summary| summary.tracks = Some(1)),
        another(|summary| summary.places = Some("other zones".to_owned())),
        another(|summary| summary.damage.tolerance = 0.5),
        b"garbage".to_vec(),
    ];
    for bytes in others {
        let again = Yard::new();
        again.submit("a", &again.video());
        std::fs::create_dir(again.objects.root().join("a")).unwrap();
        std::fs::write(again.objects.path(&summary_key("a")).unwrap(), bytes).unwrap();
        std::fs::write(again.objects.path(&lines_key("a")).unwrap(), "old").unwrap();
        assert!(works_again(&again.worker(), &again));
        again.assert_whole("a");
    }
}

#[test]
fn a_lease_lost_in_the_middle_commits_nothing() {
    let yard = Yard::new();
    yard.submit("a", &yard.video());
    let (queue, now_ms) = (Arc::clone(&yard.queue), Arc::clone(&yard.now_ms));
    let taken_over: Arc<Mutex<Option<Lease>>> = Arc::default();
    let other = Arc::clone(&taken_over);
    let at_frame: Hook = Box::new(move |_| {
        let mut other = other.lock().unwrap();
        if other.is_none() {
            now_ms.fetch_add(30_000, Ordering::SeqCst);
            let Received::Task(lease) = queue.receive(Duration::from_secs(30)).unwrap() else { panic!("still hidden") };
            *other = Some(*lease);
        }
        Ok(())
    });
    let worker = yard.hooked(no_hook(), no_hook(), at_frame);
    let report = run(&worker, Mode::OneJob).unwrap();
    assert_eq!(report, Report { lost: 1, ..Report::default() });
    assert!(yard.left().iter().all(|name| name == "a/"), "{:?}", yard.left());
    let lease = taken_over.lock().unwrap().take().unwrap();
    yard.queue.extend(&lease, Duration::from_secs(30)).unwrap();
}

#[test]
fn an_attempt_whose_part_was_swept_away_does_not_commit() {
    let yard = Yard::new();
    yard.submit("a", &yard.video());
    let objects = yard.objects.clone();
    // The other attempt's first act; the queue is not asked, as if it could not be reached.
    let sweeps: Hook = Box::new(move |call| match call {
        "commit results.jsonl" => objects.sweep("a"),
        _ => Ok(()),
    });
    let report = run(&yard.hooked(no_hook(), sweeps, no_hook()), Mode::OneJob).unwrap();
    assert_eq!(report, Report { lost: 1, ..Report::default() });
    assert_eq!(yard.left(), [""; 0]);
    assert_eq!(yard.state("a").phase, Phase::InFlight);
}

#[test]
fn the_heart_beats_while_a_job_runs_and_a_lost_lease_ends_it() {
    for lost in [false, true] {
        let yard = Yard::new();
        yard.submit("a", &yard.video());
        let beats: Arc<(Mutex<u64>, Condvar)> = Arc::default();
        let (seen, beaten) = (Arc::clone(&beats), Arc::clone(&beats));
        let queue: Hook = Box::new(move |call| {
            if call != "extend" {
                return Ok(());
            }
            *beaten.0.lock().unwrap() += 1;
            beaten.1.notify_all();
            if lost { Err(lease_lost("a")) } else { Ok(()) }
        });
        // The first frame takes as long as it takes the heart to beat.
        let at_frame: Hook = Box::new(move |_| {
            let wanted = if lost { 1 } else { 3 };
            let held = seen.0.lock().unwrap();
            let limit = Duration::from_secs(60);
            let waited = seen.1.wait_timeout_while(held, limit, |beats| *beats < wanted).unwrap();
            assert!(!waited.1.timed_out(), "the heart does not beat");
            Ok(())
        });
        let mut worker = yard.hooked(queue, no_hook(), at_frame);
        worker.config.visibility = Duration::from_millis(30);
        let report = run(&worker, Mode::OneJob).unwrap();
        let want =
            if lost { Report { lost: 1, ..Report::default() } } else { Report { completed: 1, ..Report::default() } };
        assert_eq!(report, want);
    }
}

#[test]
fn workers_that_race_complete_each_task_once() {
    let yard = Yard::new();
    for id in ["a", "b", "c", "d", "e"] {
        yard.submit(id, &yard.video());
    }
    let reports = std::thread::scope(|scope| {
        let workers = [(); 2].map(|()| scope.spawn(|| run(&yard.worker(), Mode::DrainOnce).unwrap()));
        workers.map(|worker| worker.join().unwrap())
    });
    assert_eq!(reports.iter().map(|report| report.completed).sum::<u64>(), 5);
    for id in ["a", "b", "c", "d", "e"] {
        yard.assert_whole(id);
    }
}

#[test]
fn draining_waits_for_the_task_that_a_dead_worker_holds() {
    let yard = Yard::new();
    yard.submit("a", &yard.video());
    let Received::Task(_) = yard.queue.receive(Duration::from_secs(30)).unwrap() else { panic!("not received") };
    let (now_ms, looks) = (Arc::clone(&yard.now_ms), AtomicU64::new(0));
    let queue: Hook = Box::new(move |call| {
        if call == "receive" && looks.fetch_add(1, Ordering::SeqCst) == 2 {
            now_ms.fetch_add(30_000, Ordering::SeqCst);
        }
        Ok(())
    });
    assert_eq!(run(&yard.hooked(queue, no_hook(), no_hook()), Mode::DrainOnce).unwrap().completed, 1);
    yard.assert_whole("a");
}

#[test]
fn what_the_queue_gives_up_is_told_and_swept() {
    let yard = Yard::new();
    yard.submit("killer", &yard.video());
    for _ in 0..Options::default().receives_max {
        let Received::Task(_) = yard.queue.receive(Duration::from_secs(30)).unwrap() else { panic!("not received") };
        yard.advance(Duration::from_secs(30));
    }
    std::fs::create_dir(yard.objects.root().join("killer")).unwrap();
    std::fs::write(yard.objects.root().join("killer/.results.jsonl.0123.part"), "half").unwrap();
    let recorder = Recorder::default();
    let report = yard.worker().run(Mode::DrainOnce, &Stop::new(), &recorder).unwrap();
    assert_eq!(report, Report { dead: 1, ..Report::default() });
    assert_eq!(*recorder.0.lock().unwrap(), ["killer discarded"]);
    assert_eq!(yard.left(), [""; 0]);
}

#[test]
fn without_its_decoder_a_worker_touches_no_task() {
    let yard = Yard::new();
    yard.submit("a", &yard.video());
    let mut worker = yard.worker();
    worker.tools.ffmpeg = PathBuf::from("/nowhere/ffmpeg");
    let begun = Instant::now();
    let error = run(&worker, Mode::Serve).unwrap_err();
    assert!(error.message.contains("/nowhere/ffmpeg") && error.message.contains("apt-get install ffmpeg"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30) && yard.state("a").phase == Phase::Visible);
}
