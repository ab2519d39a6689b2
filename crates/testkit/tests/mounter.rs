//! The suite of mounters passes the memory double, and each clause fails a double that breaks it.
use std::{fs, path::PathBuf};

use async_trait::async_trait;
use bolide_core::{
    Error, ErrorKind, Exposure, MountCapability, MountRequest, Mounted, Mounter, Result,
    memory::RecordingMounter,
};
use bolide_testkit::conformance::{
    Broken,
    mounter::{Lab, all},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    OnceOnly,
    TakesAnything,
    NeverFrees,
    LosesAtOnce,
    ShowsNothing,
    MakesTargets,
    EndsInUse,
}

/// Shows one file, by writing it into the target. What is open is in use.
#[derive(Debug)]
struct Faulty {
    inner: RecordingMounter,
    fault: Fault,
}

#[derive(Debug)]
struct Shown {
    inner: Box<dyn Mounted>,
    target: PathBuf,
    fault: Fault,
}

fn refused(kind: ErrorKind) -> Error {
    Error::new(kind, "faulty_mounter", "it is at fault")
}

fn io(error: std::io::Error) -> Error {
    Error::io("faulty_mounter", error)
}

#[async_trait]
impl Mounter for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    async fn probe(&self) -> Result<MountCapability> {
        self.inner.probe().await
    }

    async fn mount(&self, mut request: MountRequest) -> Result<Box<dyn Mounted>> {
        let (fault, target) = (self.fault, request.target.clone());
        if fault == Fault::OnceOnly && self.inner.mounted().contains(&request.id) {
            return Err(refused(ErrorKind::AlreadyExists));
        }
        if fault == Fault::TakesAnything {
            request.id =
                format!("{} {} {}", request.id, request.layer.toc.digest(), target.display());
        }
        if fault == Fault::MakesTargets {
            fs::create_dir_all(&target).map_err(io)?;
        }
        fs::metadata(&target).map_err(io)?;
        let inner = self.inner.mount(request).await?;
        if fault != Fault::ShowsNothing {
            fs::create_dir_all(target.join("etc")).map_err(io)?;
            fs::write(target.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").map_err(io)?;
        }
        Ok(Box::new(Shown { inner, target, fault }))
    }
}

#[async_trait]
impl Mounted for Shown {
    fn id(&self) -> &str {
        match self.fault {
            Fault::TakesAnything => self.inner.id().split(' ').next().unwrap_or_default(),
            _ => self.inner.id(),
        }
    }

    fn exposure(&self) -> &Exposure {
        self.inner.exposure()
    }

    async fn lost(&self) -> Error {
        if self.fault == Fault::LosesAtOnce {
            return refused(ErrorKind::Unavailable);
        }
        self.inner.lost().await
    }

    async fn unmount(&self) -> Result<()> {
        let in_use = fs::read_dir("/proc/self/fd").map_err(io)?.flatten().any(|entry| {
            fs::read_link(entry.path()).is_ok_and(|open| open.starts_with(&self.target))
        });
        if in_use && self.fault != Fault::EndsInUse {
            return Err(refused(ErrorKind::FailedPrecondition));
        }
        if self.fault == Fault::NeverFrees {
            return Ok(());
        }
        self.inner.unmount().await
    }
}

fn lab() -> (tempfile::TempDir, Lab) {
    let root = tempfile::tempdir().expect("root");
    let lab = Lab { root: root.path().to_owned(), shows: true };
    (root, lab)
}

#[tokio::test]
async fn recording_mounter_conforms() {
    let (_root, lab) = lab();
    let lab = Lab { shows: false, ..lab };
    all(&RecordingMounter::default(), &lab).await.expect("conforms");
}

#[tokio::test]
async fn every_clause_can_fail() {
    let cases = [
        (Fault::None, None),
        (Fault::OnceOnly, Some("idempotent by id")),
        (Fault::TakesAnything, Some("already exists")),
        (Fault::NeverFrees, Some("unmount frees")),
        (Fault::LosesAtOnce, Some("lost")),
        (Fault::ShowsNothing, Some("ready on return")),
        (Fault::MakesTargets, Some("all or nothing")),
        (Fault::EndsInUse, Some("busy")),
    ];
    for (fault, clause) in cases {
        let (_root, lab) = lab();
        let verdict = all(&Faulty { inner: RecordingMounter::default(), fault }, &lab).await;
        assert_eq!(verdict.as_ref().err().map(Broken::clause), clause, "{fault:?}: {verdict:?}");
    }
}
