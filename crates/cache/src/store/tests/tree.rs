//! Files and directories as a crash may leave them.
use std::collections::{BTreeMap, VecDeque};

/// Number of a file or directory. A name leads to it; its bytes are its own.
pub(super) type Ino = u64;

pub(super) const ROOT: Ino = 0;
/// What a disk writes in one piece.
const SECTOR: u64 = 512;

/// One change that was asked of the disk.
#[derive(Clone, Debug)]
pub(super) enum Call {
    CreateDir { dir: Ino, name: String, ino: Ino },
    Create { dir: Ino, name: String, ino: Ino },
    Rename { dir: Ino, from: String, to: String, ino: Ino },
    Remove { dir: Ino, name: String },
    SyncDir { dir: Ino },
    SetLen { ino: Ino, len: u64 },
    Write { ino: Ino, offset: u64, bytes: Vec<u8> },
    Sync { ino: Ino },
    SyncFailed { ino: Ino },
}

#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) dirs: BTreeMap<Ino, BTreeMap<String, Ino>>,
    pub(super) files: BTreeMap<Ino, Vec<u8>>,
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("models are small")
}

impl Tree {
    /// Nothing but a root.
    pub(super) fn empty() -> Self {
        Self { dirs: BTreeMap::from([(ROOT, BTreeMap::new())]), files: BTreeMap::new() }
    }

    /// Does what a call asks.
    pub(super) fn apply(&mut self, call: &Call) {
        match call {
            Call::CreateDir { dir, name, ino } => {
                self.dirs.entry(*ino).or_default();
                self.entries(*dir).insert(name.clone(), *ino);
            }
            Call::Create { dir, name, ino } => {
                self.files.entry(*ino).or_default();
                self.entries(*dir).insert(name.clone(), *ino);
            }
            Call::Rename { dir, from, to, ino } => {
                let entries = self.entries(*dir);
                if entries.get(from) == Some(ino) {
                    entries.remove(from);
                }
                entries.insert(to.clone(), *ino);
            }
            Call::Remove { dir, name } => {
                self.entries(*dir).remove(name);
            }
            Call::SetLen { ino, len } => self.file(*ino).resize(index(*len), 0),
            Call::Write { ino, offset, bytes } => {
                self.extend(*ino, offset + bytes.len() as u64);
                let start = index(*offset);
                self.file(*ino)[start..start + bytes.len()].copy_from_slice(bytes);
            }
            Call::SyncDir { .. } | Call::Sync { .. } | Call::SyncFailed { .. } => {}
        }
    }

    fn entries(&mut self, dir: Ino) -> &mut BTreeMap<String, Ino> {
        self.dirs.entry(dir).or_default()
    }

    pub(super) fn file(&mut self, ino: Ino) -> &mut Vec<u8> {
        self.files.entry(ino).or_default()
    }

    fn extend(&mut self, ino: Ino, len: u64) {
        let file = self.file(ino);
        let len = index(len).max(file.len());
        file.resize(len, 0);
    }
}

/// What a crash decides, yes or no, one after the other.
pub(super) type Fate = VecDeque<bool>;

/// What a crash leaves of `log`, done to `base`. `fate` says of each thing that was not synced
/// whether it reached the disk; what it does not reach is lost. Returns how many there were.
pub(super) fn crash(base: &Tree, log: &[Call], mut fate: Fate) -> (Tree, usize) {
    let mut tree = base.clone();
    let mut undecided = 0;
    let mut survives = || {
        undecided += 1;
        fate.pop_front().unwrap_or(false)
    };
    for (at, call) in log.iter().enumerate() {
        let later = &log[at + 1..];
        match call {
            Call::CreateDir { dir, .. }
            | Call::Create { dir, .. }
            | Call::Rename { dir, .. }
            | Call::Remove { dir, .. } => {
                let synced = later
                    .iter()
                    .any(|call| matches!(call, Call::SyncDir { dir: synced } if synced == dir));
                if synced || survives() {
                    tree.apply(call);
                } else if let Call::CreateDir { ino, .. } = call {
                    // Only the name is lost; a later one may survive.
                    tree.dirs.entry(*ino).or_default();
                }
            }
            Call::SetLen { ino, .. } => {
                if is_synced(*ino, later) || survives() {
                    tree.apply(call);
                }
            }
            Call::Write { ino, offset, bytes } => {
                if is_synced(*ino, later) {
                    tree.apply(call);
                    continue;
                }
                let end = offset + bytes.len() as u64;
                let grows = tree.files.get(ino).is_none_or(|file| end > file.len() as u64);
                if grows && survives() {
                    // The length arrives without the bytes.
                    tree.extend(*ino, end);
                }
                for piece in sectors(*ino, *offset, bytes) {
                    if survives() {
                        tree.apply(&piece);
                    }
                }
            }
            Call::SyncDir { .. } | Call::Sync { .. } | Call::SyncFailed { .. } => {}
        }
    }
    (tree, undecided)
}

/// Whether the next sync of a file succeeds. After one that failed a later one proves nothing.
fn is_synced(ino: Ino, later: &[Call]) -> bool {
    let next = later.iter().find_map(|call| match call {
        Call::Sync { ino: synced } if *synced == ino => Some(true),
        Call::SyncFailed { ino: failed } if *failed == ino => Some(false),
        _ => None,
    });
    next.unwrap_or(false)
}

fn sectors(ino: Ino, offset: u64, bytes: &[u8]) -> Vec<Call> {
    let (mut pieces, mut rest, mut at) = (Vec::new(), bytes, offset);
    while !rest.is_empty() {
        let len = index(SECTOR - at % SECTOR).min(rest.len());
        let (piece, after) = rest.split_at(len);
        pieces.push(Call::Write { ino, offset: at, bytes: piece.to_vec() });
        at += len as u64;
        rest = after;
    }
    pieces
}

/// Fates to try: all of them when they are few, else the extremes, each one alone, all but each
/// one, and some at random.
pub(super) fn many_fates(undecided: usize, seed: u64) -> Vec<Fate> {
    if undecided <= 5 {
        let all = 0..1_u64 << undecided;
        return all.map(|bits| (0..undecided).map(|at| bits >> at & 1 == 1).collect()).collect();
    }
    let mut fates = few_fates(undecided, seed);
    for own in 0..undecided {
        fates.push((0..undecided).map(|at| at == own).collect());
        fates.push((0..undecided).map(|at| at != own).collect());
    }
    fates.extend((1..8).map(|round| random(undecided, seed * 16 + round)));
    fates
}

/// The extremes, and one at random.
pub(super) fn few_fates(undecided: usize, seed: u64) -> Vec<Fate> {
    vec![Fate::new(), vec![true; undecided].into(), random(undecided, seed * 16)]
}

fn random(undecided: usize, seed: u64) -> Fate {
    let noise = bolide_testkit::sample::noise(undecided, (seed + 1).wrapping_mul(0x9e37_79b9));
    noise.into_iter().map(|byte| byte & 1 == 1).collect()
}
