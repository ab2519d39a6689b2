//! Every policy keeps the contract of its trait.
use bolide_core::Prefetcher;
use bolide_prefetch::{
    BackgroundPolicy, ChainPolicy, LandmarkPolicy, NeighbourPolicy, SequentialPolicy,
};
use bolide_testkit::conformance::prefetcher::all;

#[test]
fn landmark_conforms() {
    all(&|| Box::new(LandmarkPolicy::new(0))).expect("without a fallback");
    all(&|| Box::new(LandmarkPolicy::new(100_000))).expect("with a fallback");
    all(&|| Box::new(LandmarkPolicy::new(1 << 40))).expect("with one longer than the blob");
}

#[test]
fn sequential_conforms() {
    all(&|| Box::new(SequentialPolicy::default())).expect("conforms");
}

#[test]
fn neighbours_conform() {
    all(&|| Box::new(NeighbourPolicy::new())).expect("conforms");
}

#[test]
fn background_conforms() {
    all(&|| Box::new(BackgroundPolicy::new())).expect("in one piece");
    all(&|| Box::new(BackgroundPolicy::with_piece(10_000))).expect("in many");
}

#[test]
fn a_chain_of_all_conforms() {
    let chain = || -> Box<dyn Prefetcher> {
        Box::new(ChainPolicy::new(vec![
            Box::new(LandmarkPolicy::new(100_000)),
            Box::new(SequentialPolicy::default()),
            Box::new(NeighbourPolicy::new()),
            Box::new(BackgroundPolicy::with_piece(100_000)),
        ]))
    };
    all(&chain).expect("conforms");
}
