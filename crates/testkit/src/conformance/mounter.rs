//! The contract of [`Mounter`], clause by clause.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bolide_core::{ErrorKind, LayerView, MountOptions, MountRequest, Mounted, Mounter};

use super::verdict::{Broken, Verdict, hold, succeed};
use crate::sample::{every_kind, small, view};

/// What the suite must know of a mounter.
#[derive(Clone, Debug)]
pub struct Lab {
    /// An empty directory to mount below.
    pub root: PathBuf,
    /// Whether the tree can be seen in the target (a double may only take notes).
    pub shows: bool,
}

/// Runs every clause against a mounter that has nothing mounted.
pub async fn all(mounter: &dyn Mounter, lab: &Lab) -> Verdict {
    mounting_again_is_another_handle(mounter, lab).await?;
    an_id_shows_one_thing(mounter, lab).await?;
    unmounting_frees_the_id(mounter, lab).await?;
    an_asked_end_is_no_loss(mounter, lab).await?;
    if lab.shows {
        lookups_are_answered_on_return(mounter, lab).await?;
        a_failed_mount_leaves_nothing(mounter, lab).await?;
        a_mount_in_use_stays(mounter, lab).await?;
    }
    Ok(())
}

/// Longest time that a closed file may stay in use.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// The file that every layer of the suite has.
const FILE: &str = "etc/passwd";

fn layer(clause: &'static str) -> Result<LayerView, Broken> {
    Ok(view(&succeed(clause, every_kind())?))
}

fn other_layer(clause: &'static str) -> Result<LayerView, Broken> {
    Ok(view(&succeed(clause, small())?))
}

fn target(lab: &Lab, clause: &'static str, name: &str) -> Result<PathBuf, Broken> {
    let path = lab.root.join(name);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Broken::new(clause, format!("{}: {error}", path.display())))
        }
        _ => Ok(path),
    }
}

fn request(id: &str, layer: LayerView, target: &Path) -> MountRequest {
    let options = MountOptions { allow_other: true, ..MountOptions::default() };
    MountRequest { id: id.to_owned(), layer, target: target.to_owned(), options }
}

async fn end(clause: &'static str, live: &dyn Mounted) -> Verdict {
    succeed(clause, unmount_unused(live).await)
}

/// Looks without standing in the way of whoever answers.
async fn looked<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, Broken> {
    tokio::task::spawn_blocking(look).await.map_err(|error| Broken::new("looking", error))
}

/// The same id, TOC and target give another handle of the same mount.
pub async fn mounting_again_is_another_handle(mounter: &dyn Mounter, lab: &Lab) -> Verdict {
    let clause = "idempotent by id";
    let target = target(lab, clause, "again")?;
    let ask = || -> Result<_, Broken> { Ok(request("again", layer(clause)?, &target)) };
    let first = succeed(clause, mounter.mount(ask()?).await)?;
    let second = succeed(clause, mounter.mount(ask()?).await)?;
    let same = first.id() == second.id() && first.exposure() == second.exposure();
    hold(clause, same && first.id() == "again", format!("{first:?} and {second:?}"))?;
    end(clause, &*first).await
}

/// An id that is mounted is refused for another layer or target, and stays what it was.
pub async fn an_id_shows_one_thing(mounter: &dyn Mounter, lab: &Lab) -> Verdict {
    let clause = "already exists";
    let (here, there) = (target(lab, clause, "here")?, target(lab, clause, "there")?);
    let first = succeed(clause, mounter.mount(request("one", layer(clause)?, &here)).await)?;
    let others =
        [request("one", other_layer(clause)?, &here), request("one", layer(clause)?, &there)];
    for other in others {
        let shown = format!("{} on {}", other.id, other.target.display());
        let live = mounter.mount(other).await;
        let kind = live.as_ref().err().map(bolide_core::Error::kind);
        hold(clause, kind == Some(ErrorKind::AlreadyExists), format!("{shown}: {live:?}"))?;
    }
    let again = mounter.mount(request("one", layer(clause)?, &here)).await;
    hold(clause, again.is_ok(), "the first mount is gone")?;
    end(clause, &*first).await
}

/// After unmounting, the id may show something else.
pub async fn unmounting_frees_the_id(mounter: &dyn Mounter, lab: &Lab) -> Verdict {
    let clause = "unmount frees";
    let target = target(lab, clause, "freed")?;
    let first = succeed(clause, mounter.mount(request("freed", layer(clause)?, &target)).await)?;
    end(clause, &*first).await?;
    let second = mounter.mount(request("freed", other_layer(clause)?, &target)).await;
    end(clause, &*succeed(clause, second)?).await
}

/// `lost` does not resolve for an end that was asked for.
pub async fn an_asked_end_is_no_loss(mounter: &dyn Mounter, lab: &Lab) -> Verdict {
    let clause = "lost";
    let target = target(lab, clause, "ended")?;
    let live = succeed(clause, mounter.mount(request("ended", layer(clause)?, &target)).await)?;
    let mut lost = live.lost();
    hold(clause, futures::poll!(&mut lost).is_pending(), "lost while it is mounted")?;
    end(clause, &*live).await?;
    hold(clause, futures::poll!(&mut lost).is_pending(), "an end that was asked for is a loss")
}

/// A lookup is answered, and a file read, as soon as `mount` has returned.
pub async fn lookups_are_answered_on_return(mounter: &dyn Mounter, lab: &Lab) -> Verdict {
    let clause = "ready on return";
    let target = target(lab, clause, "ready")?;
    let live = succeed(clause, mounter.mount(request("ready", layer(clause)?, &target)).await)?;
    let file = target.join(FILE);
    let read = looked(move || fs::read(file)).await?;
    end(clause, &*live).await?;
    let right = read.as_ref().is_ok_and(|bytes| bytes == b"root:x:0:0::/root:/bin/sh\n");
    hold(clause, right, format!("{read:?}"))
}

/// A mount that fails leaves the target as it was and the id free.
pub async fn a_failed_mount_leaves_nothing(mounter: &dyn Mounter, lab: &Lab) -> Verdict {
    let clause = "all or nothing";
    let absent = lab.root.join("absent");
    let failed = mounter.mount(request("failed", layer(clause)?, &absent)).await;
    hold(clause, failed.is_err(), "mounted on what is not there")?;
    let made = fs::symlink_metadata(&absent).is_ok();
    hold(clause, !made, "the target was made")?;
    let target = target(lab, clause, "after")?;
    let live = mounter.mount(request("failed", layer(clause)?, &target)).await;
    end(clause, &*succeed(clause, live)?).await
}

/// Unmounts what this process uses no more. A child that another thread is starting has copies of
/// its descriptors until it runs its program, so what was closed may be in use a moment longer.
pub async fn unmount_unused(live: &dyn Mounted) -> bolide_core::Result<()> {
    let patient = async {
        loop {
            match live.unmount().await {
                Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                    tokio::task::yield_now().await;
                }
                ended => return ended,
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, patient).await;
    // Whatever keeps it in use is named by one more try.
    match ended {
        Ok(ended) => ended,
        Err(_) => live.unmount().await,
    }
}

/// Unmounting what is in use fails and leaves it readable.
pub async fn a_mount_in_use_stays(mounter: &dyn Mounter, lab: &Lab) -> Verdict {
    let clause = "busy";
    let target = target(lab, clause, "busy")?;
    let live = succeed(clause, mounter.mount(request("busy", layer(clause)?, &target)).await)?;
    let (open, file) = (target.join(FILE), target.join(FILE));
    let open = looked(move || fs::File::open(open)).await?;
    let open = open.map_err(|error| Broken::new(clause, error))?;
    let refused = live.unmount().await;
    let kind = refused.as_ref().err().map(bolide_core::Error::kind);
    let read = looked(move || fs::read(file)).await?;
    looked(move || drop(open)).await?;
    let ended = unmount_unused(&*live).await;
    hold(clause, kind == Some(ErrorKind::FailedPrecondition), format!("{refused:?}"))?;
    hold(clause, read.is_ok(), format!("{read:?} after an unmount that was refused"))?;
    succeed(clause, ended)
}
