//! The `bolide` command.
fn main() {}
