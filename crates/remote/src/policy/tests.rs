//! Questions in virtual time: single ones by hand, and any sequence of events against what must always hold.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A policy over `endpoints`, all of them in.
fn all_in(limits: Limits, endpoints: usize) -> Policy {
    let mut policy = Policy::new(limits, endpoints);
    for endpoint in 0..endpoints {
        assert_eq!(policy.probed(endpoint, true, 1.0), None);
    }
    policy
}

/// Who is called; the call is left under way.
fn sent(policy: &mut Policy, question: &mut Question, now: Duration) -> usize {
    match policy.next(question, now) {
        Step::Send { endpoint, .. } => endpoint,
        step => panic!("{step:?}"),
    }
}

#[test]
fn who_has_the_fewest_calls_is_asked_and_never_who_is_out() {
    let mut policy = all_in(Limits::default(), 3);
    let ask = |policy: &mut Policy| {
        let mut question = policy.begin(ms(0));
        sent(policy, &mut question, ms(0))
    };
    let mut first: Vec<_> = (0..3).map(|_| ask(&mut policy)).collect();
    first.sort_unstable();
    assert_eq!(first, [0, 1, 2]);
    policy.ended(1, Ended::Answered(ms(5)), 1.0);
    assert_eq!(ask(&mut policy), 1);
    assert_eq!(policy.ended(0, Ended::Failed(FailureKind::Wrong), 1.0), Some(ms(500)));
    (0..4).for_each(|_| assert_ne!(ask(&mut policy), 0));
}

#[test]
fn what_may_pass_is_asked_again_elsewhere_and_the_rest_is_given_up() {
    for (kind, retry_after, want) in [
        (FailureKind::Lost, None, Step::Pause(ms(20))),
        (FailureKind::Busy, None, Step::Pause(ms(20))),
        (FailureKind::Busy, Some(ms(300)), Step::Pause(ms(300))),
        (FailureKind::Busy, Some(ms(1)), Step::Pause(ms(20))),
        (FailureKind::Busy, Some(ms(3999)), Step::GiveUp(Why::TimeSpent)),
        (FailureKind::Slow, None, Step::GiveUp(Why::NotAgain)),
        (FailureKind::Broken, None, Step::GiveUp(Why::NotAgain)),
        (FailureKind::Wrong, None, Step::GiveUp(Why::NotAgain)),
    ] {
        let mut policy = all_in(Limits::default(), 2);
        let mut question = policy.begin(ms(0));
        let first = sent(&mut policy, &mut question, ms(0));
        policy.ended(first, Ended::Failed(kind), 1.0);
        assert_eq!(policy.after(&question, (kind, retry_after), ms(10), 1.0), want, "{kind:?} {retry_after:?}");
        if let Step::Pause(pause) = want {
            assert_ne!(sent(&mut policy, &mut question, ms(10) + pause), first);
        }
    }
}

#[test]
fn a_question_ends_by_tries_by_time_or_by_the_budget() {
    let lost = (FailureKind::Lost, None);
    let limits = Limits { failures_max: 100, retries: Budget::new(0, 5, 5), ..Limits::default() };
    let mut policy = all_in(limits, 1);
    let mut pauses = 0;
    let why = |policy: &mut Policy, pauses: &mut u32| {
        let mut question = policy.begin(ms(0));
        loop {
            let endpoint = sent(policy, &mut question, ms(0));
            policy.ended(endpoint, Ended::Failed(FailureKind::Lost), 1.0);
            match policy.after(&question, lost, ms(0), 1.0) {
                Step::Pause(_) => *pauses += 1,
                Step::GiveUp(why) => break why,
                step @ Step::Send { .. } => panic!("{step:?}"),
            }
        }
    };
    assert_eq!(why(&mut policy, &mut pauses), Why::TriesSpent);
    assert_eq!(why(&mut policy, &mut pauses), Why::TriesSpent);
    assert_eq!(why(&mut policy, &mut pauses), Why::BudgetSpent);
    assert_eq!(pauses, 5);
    let mut question = policy.begin(ms(0));
    assert_eq!(policy.next(&mut question, ms(4000)), Step::GiveUp(Why::TimeSpent));
    assert!(matches!(policy.next(&mut question, ms(3999)), Step::Send { within, .. } if within == ms(1)));
}

#[test]
fn an_endpoint_goes_out_after_failures_in_a_row_and_comes_back_when_a_probe_ends_well() {
    let mut policy = all_in(Limits::default(), 1);
    let end = |policy: &mut Policy, ended| {
        let mut question = policy.begin(ms(0));
        let endpoint = sent(policy, &mut question, ms(0));
        policy.ended(endpoint, ended, 1.0)
    };
    let (slow, busy) = (Ended::Failed(FailureKind::Slow), Ended::Failed(FailureKind::Busy));
    for ended in [slow, slow, Ended::Answered(ms(1)), slow, busy, slow, Ended::Dropped] {
        assert_eq!(end(&mut policy, ended), None);
    }
    assert_eq!(end(&mut policy, slow), Some(ms(500)));
    let mut question = policy.begin(ms(0));
    assert_eq!(policy.next(&mut question, ms(0)), Step::GiveUp(Why::NobodyThere));
    for want in [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
        assert_eq!(policy.probed(0, false, 1.0), Some(ms(want)));
    }
    assert_eq!(policy.probed(0, true, 1.0), None);
    assert!(policy.anybody_in());
    for _ in 0..2 {
        assert_eq!(end(&mut policy, slow), None, "failures are counted anew");
    }
    assert_eq!(end(&mut policy, slow), Some(ms(30_000)), "it did well in the probe alone");
    policy.probed(0, true, 1.0);
    (0..WELL).for_each(|_| assert_eq!(end(&mut policy, Ended::Answered(ms(1))), None));
    assert_eq!(end(&mut policy, Ended::Failed(FailureKind::Wrong)), Some(ms(250)), "it did well for long");
}

#[test]
fn an_endpoint_that_is_not_there_at_the_start_is_looked_for_soon() {
    let mut policy = Policy::new(Limits::default(), 1);
    for want in [250, 500, 1000] {
        assert_eq!(policy.probed(0, false, 1.0), Some(ms(want)));
    }
}

#[test]
fn who_waits_for_somebody_waits_until_his_time_is_over() {
    let mut policy = Policy::new(Limits { waits: true, ..Limits::default() }, 1);
    let mut question = policy.begin(ms(0));
    assert_eq!(policy.next(&mut question, ms(0)), Step::Pause(LOOK));
    assert_eq!(policy.next(&mut question, ms(3990)), Step::Pause(ms(10)));
    assert_eq!(policy.next(&mut question, ms(4000)), Step::GiveUp(Why::NobodyThere));
    policy.probed(0, true, 1.0);
    assert_eq!(sent(&mut policy, &mut question, ms(3900)), 0);
    assert_eq!(policy.after(&question, (FailureKind::Broken, None), ms(3900), 1.0), Step::Pause(ms(20)));
}

#[test]
fn what_takes_long_is_asked_elsewhere_too_but_not_often() {
    let mut policy = all_in(Limits::default(), 2);
    let (mut hedged, mut offered) = (0, 0);
    for _ in 0..1000 {
        let mut question = policy.begin(ms(0));
        let Step::Send { endpoint, hedge_after, .. } = policy.next(&mut question, ms(0)) else { panic!() };
        if let Some(after) = hedge_after {
            assert_eq!(after, ms(8));
            offered += 1;
            if let Some(other) = policy.hedge(&question) {
                assert_ne!(other, endpoint);
                hedged += 1;
                policy.ended(other, Ended::Dropped, 1.0);
            }
        }
        policy.ended(endpoint, Ended::Answered(ms(8)), 1.0);
    }
    assert!(offered > 900 && (40..=50).contains(&hedged), "{offered} {hedged}");
    let mut alone = all_in(Limits::default(), 1);
    for _ in 0..100 {
        let mut question = alone.begin(ms(0));
        assert!(matches!(alone.next(&mut question, ms(0)), Step::Send { hedge_after: None, .. }));
        alone.ended(0, Ended::Answered(ms(8)), 1.0);
    }
}

/// What happens next, as far as numbers can say it.
type Event = (u8, u8, u16);

proptest! {
    /// Whatever happens: nobody who is out is called, retries and hedges stay within their shares, and questions end.
    #[test]
    fn budgets_hold_whatever_happens(events in prop::collection::vec(any::<Event>(), 1..600), endpoints in 1usize..4) {
        let mut policy = all_in(Limits::default(), endpoints);
        let (mut now, mut questions, mut sends, mut retries, mut hedges) = (ms(0), 0u64, 0u64, 0u64, 0u64);
        let mut under_way: Vec<(Question, usize)> = Vec::new();
        for (what, which, pause) in events {
            now += ms(u64::from(pause % 50));
            let chance = f64::from(which) / 255.0;
            if what % 3 == 0 || under_way.is_empty() {
                let mut question = policy.begin(now);
                questions += 1;
                if let Step::Send { endpoint, .. } = policy.next(&mut question, now) {
                    prop_assert!(policy.is_in(endpoint));
                    sends += 1;
                    under_way.push((question, endpoint));
                } else {
                    prop_assert!(!policy.anybody_in());
                    policy.probed(usize::from(which) % endpoints, which % 2 == 0, chance);
                }
                continue;
            }
            let (mut question, endpoint) = under_way.swap_remove(usize::from(which) % under_way.len());
            if what % 7 == 1 && let Some(other) = policy.hedge(&question) {
                prop_assert!(other != endpoint && policy.is_in(other));
                hedges += 1;
                policy.ended(other, Ended::Dropped, chance);
            }
            let kinds = [FailureKind::Lost, FailureKind::Busy, FailureKind::Slow, FailureKind::Broken, FailureKind::Wrong];
            let Some(&kind) = kinds.get(usize::from(pause) % 10) else {
                policy.ended(endpoint, Ended::Answered(ms(u64::from(which))), chance);
                continue;
            };
            policy.ended(endpoint, Ended::Failed(kind), chance);
            if let Step::Pause(pause) = policy.after(&question, (kind, None), now, chance) {
                retries += 1;
                prop_assert!(kind.may_pass() && now + pause < question.begun + policy.limits.question);
                if let Step::Send { endpoint, .. } = policy.next(&mut question, now + pause) {
                    prop_assert!(policy.is_in(endpoint) && question.tries <= 3);
                    sends += 1;
                    under_way.push((question, endpoint));
                }
            }
        }
        prop_assert!(retries * 5 <= 50 + questions && hedges * 20 <= questions);
        prop_assert!(sends <= questions + retries);
        let calls: usize = policy.endpoints.iter().map(|endpoint| endpoint.calls).sum();
        prop_assert_eq!(calls, under_way.len(), "every call that ended was counted as ended");
    }
}
