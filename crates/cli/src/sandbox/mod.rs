//! Namespaces: mounts that nobody else sees, root's powers over them without being root, and a
//! place for the program of an image.
//!
//! Everything here happens before the runtime starts or in processes of its own: the kernel lets
//! only a process with a single thread enter a user namespace.
mod idmap;
mod init;
mod netns;
mod overlay;
mod program;
mod root;
mod unshare;
mod user;
mod userns;

pub(crate) use idmap::IdmapArgs;
pub(crate) use init::{InitArgs, exit_code};
pub(crate) use netns::{NetnsArgs, make_netns};
pub(crate) use overlay::mount_stack;
pub(crate) use program::{Finished, ImageProgram, Stack, finish, run_program};
pub(crate) use user::{User, find_user};
pub(crate) use userns::{enter, is_privileged};

/// Entries of the command line that this program itself uses.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Internal {
    /// Writes the id maps of a process that has just entered a user namespace
    Idmap(IdmapArgs),
    /// Runs the program of an image in namespaces of its own
    Init(InitArgs),
    /// Makes a network namespace and gives it the name of a file
    Netns(NetnsArgs),
}

/// Runs an internal entry; its result is an exit code.
pub(crate) fn run(entry: Internal) -> anyhow::Result<u8> {
    match entry {
        Internal::Idmap(args) => idmap::run(&args).map(|()| 0),
        Internal::Init(args) => init::run(&args),
        Internal::Netns(args) => netns::run(&args).map(|()| 0),
    }
}
