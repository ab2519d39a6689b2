//! A bit that is set after a crash is true, whatever of what was not synced the disk kept.
use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use proptest::prelude::*;

use super::{
    model::{Fault, Mistake, ModelDisk},
    tree::{Call, Fate, Tree, crash, few_fates, many_fates},
    world::{Promise, SPECS, Step, World, check},
};

/// Everything a store does, once.
const STORY: [Step; 26] = {
    use Step::*;
    [
        Open(0),
        Fill(0, 0),
        Sync(0),
        Stream(0, 1),
        Put(0, 1),
        Sync(0),
        Put(0, 2),
        Open(2),
        Copy(2, 1),
        Sync(2),
        Restart,
        Open(0),
        Open(1),
        Fill(1, 0),
        Fill(0, 1),
        Sync(1),
        Damage(1),
        Open(1),
        Copy(1, 1),
        Sync(1),
        Remove(1),
        Fill(1, 0),
        Open(1),
        Fill(1, 0),
        Put(1, 3),
        Sync(1),
    ]
};

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
        .block_on(future)
}

/// What was promised when so many changes had been made.
fn promised(world: &World, changes: usize) -> Vec<Promise> {
    let until = world.promises.iter().filter(|(since, _)| *since <= changes);
    until.map(|(_, promise)| promise.clone()).collect()
}

/// Crashes the machine after these numbers of changes, in each way that `fates` gives, and checks
/// each outcome once. Returns how many there were.
async fn explore(
    world: &World,
    points: impl Iterator<Item = usize>,
    fates: fn(usize, u64) -> Vec<Fate>,
    seen: &mut HashSet<u64>,
) -> Result<usize, String> {
    let (base, log) = (Tree::empty(), world.disk.log());
    let before = seen.len();
    for point in points {
        let (log, promises) = (&log[..point], promised(world, point));
        let most = vec![true; 4096].into();
        let undecided = crash(&base, log, Fate::new()).1.max(crash(&base, log, most).1);
        for fate in fates(undecided, point as u64) {
            let (tree, _) = crash(&base, log, fate.clone());
            let mut hasher = DefaultHasher::new();
            (&tree, format!("{promises:?}")).hash(&mut hasher);
            if seen.insert(hasher.finish()) {
                check(&tree, &promises).await.map_err(|fault| {
                    format!("after {point} changes {:?}, {fate:?}: {fault}", tail(log))
                })?;
            }
        }
    }
    Ok(seen.len() - before)
}

/// The last changes, without their bytes.
fn tail(log: &[Call]) -> Vec<String> {
    let shown = |call: &Call| match call {
        Call::Write { ino, offset, bytes } => format!("Write {ino} {offset}+{}", bytes.len()),
        other => format!("{other:?}"),
    };
    log.iter().skip(log.len().saturating_sub(12)).map(shown).collect()
}

async fn told(steps: &[Step], mistake: Option<Mistake>) -> Result<World, String> {
    let mut world = World::new(ModelDisk::new(Tree::empty(), mistake));
    world.run(steps).await?;
    Ok(world)
}

#[test]
fn every_crash_of_the_machine_leaves_the_truth() {
    run(async {
        let world = told(&STORY, None).await.expect("nothing lies");
        let all = 0..=world.disk.changes();
        let outcomes =
            explore(&world, all, many_fates, &mut HashSet::new()).await.expect("nothing lies");
        assert!(outcomes > 500, "{outcomes}");
    });
}

#[test]
fn the_checks_find_each_mistake() {
    run(async {
        let mistakes =
            [Mistake::DataNotSynced, Mistake::SmallFilesNotSynced, Mistake::NamesNotSynced];
        for mistake in mistakes {
            let world = told(&STORY, Some(mistake)).await.expect("a crash is needed");
            let all = 0..=world.disk.changes();
            let found = explore(&world, all, many_fates, &mut HashSet::new()).await;
            assert!(found.is_err(), "{mistake:?} was not found");
        }
    });
}

#[test]
fn a_killed_process_leaves_what_the_next_can_believe() {
    run(async {
        let calls = told(&STORY, None).await.expect("nothing lies").disk.calls();
        let mut seen = HashSet::new();
        for last in 0..calls {
            let mut world = World::new(ModelDisk::new(Tree::empty(), None));
            world.disk.kill_after(last);
            world.run(&STORY).await.expect("nothing lies");
            world.die();
            world.disk.revive();
            let from = world.disk.changes();
            world.run(&STORY[..10]).await.expect("nothing lies");
            // Every few changes: what the second process does is checked above as well.
            let points = (from..=world.disk.changes()).filter(|at| at % 16 == last % 16);
            explore(&world, points, few_fates, &mut seen).await.expect("nothing lies");
        }
    });
}

/// Lets each call fail once and goes on.
async fn with_faults(fault: Fault, mistake: Option<Mistake>) -> Result<(), String> {
    let calls = told(&STORY, None).await?.disk.calls();
    let mut seen = HashSet::new();
    for at in 0..calls {
        let mut world = World::new(ModelDisk::new(Tree::empty(), mistake));
        world.disk.fail_at(at, fault);
        let told = world.run(&STORY).await;
        told.map_err(|lie| format!("{fault:?} at {at}: {lie}"))?;
        let changes = world.disk.changes();
        let explored =
            explore(&world, [at.min(changes), changes].into_iter(), few_fates, &mut seen).await;
        explored.map_err(|lie| format!("{fault:?} at {at}: {lie}"))?;
    }
    Ok(())
}

#[test]
fn a_failing_disk_makes_nothing_lie() {
    run(async {
        for fault in [Fault::Io, Fault::Full, Fault::Short] {
            with_faults(fault, None).await.expect("nothing lies");
        }
    });
}

#[test]
fn a_sync_that_hides_its_failure_is_found() {
    run(async {
        assert!(with_faults(Fault::Io, Some(Mistake::FailureHidden)).await.is_err());
    });
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (spec, chunk) = (0..SPECS, 0..2_usize);
    let step = prop_oneof![
        3 => spec.clone().prop_map(Step::Open),
        4 => (spec.clone(), chunk.clone()).prop_map(|(spec, chunk)| Step::Fill(spec, chunk)),
        2 => (spec.clone(), chunk.clone()).prop_map(|(spec, chunk)| Step::Stream(spec, chunk)),
        2 => (spec.clone(), chunk).prop_map(|(spec, chunk)| Step::Copy(spec, chunk)),
        4 => spec.clone().prop_map(Step::Sync),
        1 => spec.clone().prop_map(Step::Drop),
        2 => (spec.clone(), 0..5_u8).prop_map(|(spec, version)| Step::Put(spec, version)),
        1 => spec.clone().prop_map(Step::Remove),
        1 => spec.prop_map(Step::Damage),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..24)
}

fn faults() -> impl Strategy<Value = Option<(usize, Fault)>> {
    let fault = prop_oneof![Just(Fault::Io), Just(Fault::Full), Just(Fault::Short)];
    prop::option::of((0..80_usize, fault))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_history_leaves_the_truth(
        steps in steps(),
        fault in faults(),
        points in prop::collection::vec(any::<prop::sample::Index>(), 3),
    ) {
        let told = run(async {
            let mut world = World::new(ModelDisk::new(Tree::empty(), None));
            if let Some((at, fault)) = fault {
                world.disk.fail_at(at, fault);
            }
            world.run(&steps).await?;
            let changes = world.disk.changes();
            let points = points.iter().map(|point| point.index(changes + 1));
            explore(&world, points, many_fates, &mut HashSet::new()).await
        });
        prop_assert!(told.is_ok(), "{told:?}");
    }
}
