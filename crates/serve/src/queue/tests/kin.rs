//! Requests for models that share a trunk.

use super::*;
use crate::residency::{Slot, share};

/// Models of one program, with the largest batch of each, of which larger ones cost next to nothing.
fn of_one_program(models: &[(u64, &Serving)]) -> Vec<Arc<Model>> {
    let slot = Arc::new(Slot::default());
    slot.put(Arc::new(Program::new(Vec::new())));
    for items in 1..=8 {
        slot.costs().learn(items, Duration::from_micros(1000 + items));
    }
    let of = |((most, serving), id): (&(u64, &Serving), u64)| {
        let model = Arc::into_inner(served(id, *most, (*serving).clone())).unwrap();
        Arc::new(model.in_slot(Arc::clone(&slot)))
    };
    models.iter().zip(0..).map(of).collect()
}

fn asked(model: &Arc<Model>, width: usize) -> Job {
    let x = Tensor::from_f32(vec![1, width], vec![0.0; width]).unwrap();
    Job { inputs: vec![x], ..job(model) }
}

#[test]
fn requests_for_models_that_share_a_trunk_go_together() {
    let delayed = Serving { max_queue_delay_us: Some(1000), ..Serving::default() };
    let urgent = Serving { latency_class: Some(store::LatencyClass::Interactive), ..Serving::default() };
    let (plain, smaller) = (Serving::default(), 4);
    let table = [(8, &plain), (8, &plain), (8, &plain), (8, &delayed), (8, &urgent), (smaller, &plain), (8, &plain)];
    let models = of_one_program(&table);
    // The last has no part in it.
    let trunk = share(&models[..6]);
    let mut queues = Queues::new(limits(8), 1);
    for (model, width) in [(0, 2), (1, 2), (1, 2), (2, 3), (3, 2), (4, 2), (5, 2), (6, 2), (2, 2)] {
        queues.push(asked(&models[model], width)).unwrap();
    }
    let mut batches = Vec::new();
    let later = Instant::now() + Duration::from_secs(1);
    while let Next::Do(batch) = queues.next_batch(later) {
        let mut ids: Vec<u64> = batch.iter().map(|job| job.model.id()).collect();
        assert!(ids.is_sorted(), "those of a model are next to each other: {ids:?}");
        let several = batch.shared.as_ref().map(|shared| Arc::ptr_eq(&shared.trunk, &trunk));
        batches.push((ids.clone(), several));
        ids.dedup();
        ids[1..].iter().for_each(|&id| queues.shared(&models[id as usize], Duration::from_millis(1)));
        queues.finished(&models[ids[0] as usize], Duration::from_millis(1));
    }
    // Another width, one that waits for its own, another class, another size of batches and who shares nothing go alone.
    batches.sort();
    let alone = |id| (vec![id], None);
    assert_eq!(batches, [(vec![0, 1, 1, 2], Some(true)), alone(2), alone(3), alone(4), alone(5), alone(6)]);
    assert!(queues.is_idle() && !queues.has_work());
}

#[test]
fn who_has_asked_for_much_does_not_fill_the_places_of_the_others() {
    let plain = Serving::default();
    let models = of_one_program(&[(8, &plain); 4]);
    let _trunk = share(&models);
    let mut queues = Queues::new(limits(64), 1);
    for model in [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3] {
        queues.push(asked(&models[model], 2)).unwrap();
    }
    let Next::Do(batch) = queues.next_batch(Instant::now() + Duration::from_secs(1)) else { panic!("nothing runs") };
    let ids: Vec<u64> = batch.iter().map(|job| job.model.id()).collect();
    assert_eq!(ids, [0, 1, 1, 1, 1, 1, 2, 3]);
}
