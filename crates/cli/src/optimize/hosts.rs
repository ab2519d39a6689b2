//! The names that a workload knows: its `/etc/hosts` and `/etc/resolv.conf`.
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::args::NetworkArgs;

/// What every machine knows.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
/// A name server that answers from everywhere.
const NAME_SERVER: &str = "8.8.8.8";

/// Writes both files into `dir`, and tells where to mount them.
pub(super) fn write(args: &NetworkArgs, dir: &Path) -> Result<Vec<Value>> {
    let of_host = |path: &str| args.net_host.then(|| fs::read_to_string(path).ok()).flatten();
    let files = [
        ("/etc/hosts", hosts(args, of_host("/etc/hosts"))),
        ("/etc/resolv.conf", resolv_conf(args, of_host("/etc/resolv.conf"))),
    ];
    files
        .into_iter()
        .map(|(path, text)| {
            let file: PathBuf = dir.join(path.trim_start_matches("/etc/"));
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            Ok(json!({"destination": path, "type": "bind", "source": file,
                "options": ["rbind", "rw"]}))
        })
        .collect()
}

fn hosts(args: &NetworkArgs, of_host: Option<String>) -> String {
    let mut text = of_host.unwrap_or_else(|| HOSTS.to_owned());
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for (name, address) in &args.add_hosts {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

fn resolv_conf(args: &NetworkArgs, of_host: Option<String>) -> String {
    let lists = [&args.dns_nameservers, &args.dns_search_domains, &args.dns_options];
    if let Some(text) = of_host.filter(|_| lists.iter().all(|list| list.is_empty())) {
        return text;
    }
    let default = [NAME_SERVER.to_owned()];
    let [servers, domains, options] = lists.map(Vec::as_slice);
    let servers = if servers.is_empty() { &default } else { servers };
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    for (word, list) in [("search", domains), ("options", options)] {
        if !list.is_empty() {
            let _ = writeln!(text, "{word} {}", list.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    #[test]
    fn names_are_the_flags_or_the_hosts() {
        let parse = |line: &[&str]| {
            let command = NetworkArgs::augment_args(Command::new("x").no_binary_name(true));
            NetworkArgs::from_arg_matches(&command.get_matches_from(line)).expect("arguments")
        };
        let given = parse(&[
            "--add-hosts=db:10.0.0.7,six:fd00::1",
            "--dns-nameservers=1.1.1.1,9.9.9.9",
            "--dns-search-domains=a.lan,b.lan",
            "--dns-options=ndots:2",
        ]);
        assert_eq!(hosts(&given, None), format!("{HOSTS}10.0.0.7\tdb\nfd00::1\tsix\n"));
        assert_eq!(hosts(&given, Some("1.2.3.4 me".to_owned())).lines().count(), 3);
        let expected =
            "nameserver 1.1.1.1\nnameserver 9.9.9.9\nsearch a.lan b.lan\noptions ndots:2\n";
        assert_eq!(resolv_conf(&given, Some("host's".to_owned())), expected);
        let none = parse(&[]);
        assert_eq!(resolv_conf(&none, Some("host's".to_owned())), "host's");
        assert_eq!(resolv_conf(&none, None), "nameserver 8.8.8.8\n");
    }
}
