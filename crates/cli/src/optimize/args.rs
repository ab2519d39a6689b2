//! What the command line says of the workload and of when to stop it.
use std::{net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context as _, Error, Result, bail, ensure};

/// The workload, where it is not what the image says.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Workload")]
pub(super) struct WorkloadArgs {
    /// Entrypoint in place of the image's, as a JSON array
    #[arg(long, value_name = "JSON")]
    pub(super) entrypoint: Option<Words>,
    /// Arguments in place of the image's, as a JSON array
    #[arg(long, value_name = "JSON")]
    pub(super) args: Option<Words>,
    /// Environment variable to set
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(super) env: Vec<String>,
    /// File of environment variables to set, one a line; a line that starts with # is a comment
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Option<PathBuf>,
    /// Who it runs as, by names of the image or numbers
    #[arg(long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// Directory it starts in
    #[arg(long, value_name = "DIR")]
    pub(super) cwd: Option<String>,
    /// Something to mount; options are separated by colons
    #[arg(long, value_name = "type=TYPE,src=DIR,dst=DIR,options=A:B")]
    pub(super) mount: Vec<MountArg>,
    /// Give it this terminal
    #[arg(long, short, requires = "stdin")]
    pub(super) terminal: bool,
    /// Give it standard input
    #[arg(id = "stdin", short = 'i')]
    pub(super) stdin: bool,
    /// GPUs of nvidia.com/gpu to give it, by the Container Device Interface: names, or all
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub(super) gpus: Vec<String>,
    /// Directory of CDI specifications; later ones win
    #[arg(long, value_name = "DIR", default_values = ["/etc/cdi", "/var/run/cdi"])]
    pub(super) cdi_spec_dir: Vec<PathBuf>,
}

/// The network of the workload, and the names that it knows.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Network of the workload")]
pub(super) struct NetworkArgs {
    /// Names to add to its /etc/hosts
    #[arg(long, value_name = "HOST:IP,...", value_delimiter = ',', value_parser = host)]
    pub(super) add_hosts: Vec<(String, IpAddr)>,
    /// Name servers of its /etc/resolv.conf [default: 8.8.8.8, or the host's with --net-host]
    #[arg(long, value_name = "IP,...", value_delimiter = ',')]
    pub(super) dns_nameservers: Vec<String>,
    /// Search domains of its /etc/resolv.conf
    #[arg(long, value_name = "DOMAIN,...", value_delimiter = ',')]
    pub(super) dns_search_domains: Vec<String>,
    /// Options of its /etc/resolv.conf
    #[arg(long, value_name = "OPTION,...", value_delimiter = ',')]
    pub(super) dns_options: Vec<String>,
    /// Leave it in this machine's network
    #[arg(long, conflicts_with = "cni")]
    pub(super) net_host: bool,
    /// Connect it to a network by CNI plugins; without, it has a loopback interface
    #[arg(long)]
    pub(super) cni: bool,
    /// Directory whose first file configures the network
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d", requires = "cni")]
    pub(super) cni_plugin_conf_dir: PathBuf,
    /// Directory of CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin", requires = "cni")]
    pub(super) cni_plugin_dir: PathBuf,
}

/// When the recording ends, if the workload does not end before.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "End of the recording")]
pub(super) struct StopArgs {
    /// Longest time; a number alone is in seconds
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = period)]
    pub(super) period: Duration,
    /// When this appears in a line of the workload's standard output
    #[arg(long, value_name = "TEXT", value_parser = line)]
    pub(super) wait_on_line: Option<String>,
    /// When this process is interrupted, however long that takes
    #[arg(long, conflicts_with = "terminal")]
    pub(super) wait_on_signal: bool,
}

/// A JSON array of strings.
#[derive(Clone, Debug)]
pub(super) struct Words(pub(super) Vec<String>);

impl FromStr for Words {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let words = serde_json::from_str(text);
        words.map(Self).context("it is written as a JSON array of strings: [\"sh\", \"-c\"]")
    }
}

/// A mount of the workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MountArg {
    pub(super) kind: String,
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) options: Vec<String>,
}

impl FromStr for MountArg {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut mount = Self::default();
        for field in text.split(',') {
            let (key, value) = field.split_once('=').context("fields are written KEY=VALUE")?;
            match key {
                "type" => value.clone_into(&mut mount.kind),
                "source" | "src" => value.clone_into(&mut mount.source),
                "destination" | "dst" => value.clone_into(&mut mount.destination),
                "options" => mount.options = value.split(':').map(str::to_owned).collect(),
                _ => bail!("{key} is none of type, src, dst and options"),
            }
        }
        ensure!(mount.destination.starts_with('/'), "dst is an absolute path");
        let is_bind = |option: &String| option == "bind" || option == "rbind";
        if mount.kind == "bind" && !mount.options.iter().any(is_bind) {
            mount.options.push("rbind".to_owned());
        }
        Ok(mount)
    }
}

/// A variable, as the command line or a file has it.
pub(super) fn variable(text: &str) -> Result<String> {
    let named = text.split_once('=').is_some_and(|(name, _)| !name.is_empty());
    ensure!(named && !text.contains('\0'), "a variable is written NAME=VALUE");
    Ok(text.to_owned())
}

fn host(text: &str) -> Result<(String, IpAddr)> {
    let (name, address) = text.split_once(':').context("a host is written HOST:IP")?;
    ensure!(!name.is_empty() && !name.contains(char::is_whitespace), "a host has a name");
    // As it stands in URLs, too.
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Ok((name.to_owned(), address.parse().context("an address has the form 10.0.0.1 or ::1")?))
}

fn line(text: &str) -> Result<String> {
    ensure!(!text.is_empty() && !text.contains('\n'), "it is a part of one line");
    Ok(text.to_owned())
}

fn period(text: &str) -> Result<Duration> {
    let (digits, seconds) = [("h", 3600), ("m", 60), ("s", 1)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .unwrap_or((text, 1));
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    let number = number.filter(|number| *number > 0);
    number.map(Duration::from_secs).context("a time is written 30s, 5m or 1h, and is not 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_the_reference_has_them() {
        let mount: MountArg =
            "type=bind,src=/a,destination=/b,options=ro:nosuid".parse().expect("a mount");
        let options = ["ro", "nosuid", "rbind"].map(str::to_owned).to_vec();
        let expected = MountArg {
            kind: "bind".to_owned(),
            source: "/a".to_owned(),
            destination: "/b".to_owned(),
            options,
        };
        assert_eq!(mount, expected);
        for text in ["type", "type=tmpfs", "type=tmpfs,dst=b", "kind=tmpfs,dst=/b"] {
            assert!(text.parse::<MountArg>().is_err(), "{text}");
        }
        for (text, expected) in [("10", 10), ("7s", 7), ("2m", 120), ("1h", 3600)] {
            assert_eq!(period(text).expect(text), Duration::from_secs(expected));
        }
        for text in ["", "0", "1.5s", "-1", "10 parsecs"] {
            assert!(period(text).is_err(), "{text}");
        }
        assert_eq!(host("db:::1").expect("IPv6").1, IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]));
        assert!(host("db").is_err() && host("db:db").is_err() && host(":1.1.1.1").is_err());
        assert_eq!("[\"a\", \"b c\"]".parse::<Words>().expect("words").0, ["a", "b c"]);
        assert!("a b".parse::<Words>().is_err());
    }
}
