//! Machines as network namespaces on one bridge, and their traffic. Needs root, `ip` and `nft`.
//!
//! Everything is named after this process's id; whatever a process that is gone has left is removed when
//! the next network is made.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Outcome;

const PREFIX: &str = "shb";

/// What all nodes together have sent and received.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    /// Both ways, with the headers of Ethernet.
    pub(crate) bytes: u64,
    /// Both ways.
    pub(crate) packets: u64,
}

/// A bridge with one namespace a machine, counted from 1; gone when the value is.
pub(crate) struct Net {
    name: String,
    machines: usize,
}

impl Net {
    /// A network of so many machines.
    pub(crate) fn new(machines: usize) -> Outcome<Self> {
        remove_leftovers()?;
        let net = Self { name: format!("{PREFIX}{}", std::process::id()), machines };
        let switch = net.switch();
        ip(&["netns", "add", &switch])?;
        quiet(&switch)?;
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for n in 1..=machines {
            net.add_machine(n)?;
        }
        Ok(net)
    }

    fn switch(&self) -> String {
        format!("{}s", self.name)
    }

    /// The namespace of a machine.
    pub(crate) fn space(&self, n: usize) -> String {
        format!("{}n{n}", self.name)
    }

    fn add_machine(&self, n: usize) -> Outcome<()> {
        let (switch, space, port) = (self.switch(), self.space(n), format!("p{n}"));
        ip(&["netns", "add", &space])?;
        quiet(&space)?;
        ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
        ip(&["-n", &switch, "link", "set", &port, "master", "br0"])?;
        ip(&["-n", &switch, "link", "set", &port, "up"])?;
        ip(&["-n", &space, "addr", "add", &format!("{}/24", address(n)), "dev", "eth0"])?;
        ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        ip(&["-n", &space, "link", "set", "lo", "up"])
    }

    /// Takes a machine off the network, or puts it back.
    pub(crate) fn set_link(&self, n: usize, is_up: bool) -> Outcome<()> {
        let state = if is_up { "up" } else { "down" };
        ip(&["-n", &self.switch(), "link", "set", &format!("p{n}"), state])
    }

    /// From now on every machine loses so many of a hundred packets that arrive.
    pub(crate) fn set_loss(&self, percent: u32) -> Outcome<()> {
        for n in 1..=self.machines {
            let space = self.space(n);
            let nft = |line: &str| {
                let words = ["netns", "exec", &space, "nft"].into_iter().chain(line.split_whitespace());
                ip(&words.collect::<Vec<_>>())
            };
            nft("add table ip lossy")?;
            nft("flush table ip lossy")?;
            if percent > 0 {
                nft("add chain ip lossy in { type filter hook input priority 0 ; }")?;
                let rule = format!("iif eth0 numgen random mod 100 < {percent} drop");
                nft(&format!("add rule ip lossy in {rule}"))?;
            }
        }
        Ok(())
    }

    /// What the machines' ports have carried so far.
    pub(crate) fn traffic(&self) -> Outcome<Traffic> {
        let switch = self.switch();
        let read = in_space(&switch, || fs::read_to_string("/proc/thread-self/net/dev"))?;
        let text = read.join().map_err(|_| "the reader of the counters panicked")?;
        let text = text.map_err(|e| format!("cannot read the counters of {switch}: {e}"))?;
        let mut sum = Traffic::default();
        for line in text.lines() {
            let Some((port, counters)) = line.trim().split_once(':') else {
                continue;
            };
            if port.strip_prefix('p').is_some_and(|n| n.parse::<usize>().is_ok()) {
                let counters: Vec<u64> = counters.split_whitespace().flat_map(str::parse).collect();
                let at = |index: usize| counters.get(index).copied().unwrap_or_default();
                sum.bytes += at(0) + at(8);
                sum.packets += at(1) + at(9);
            }
        }
        Ok(sum)
    }

    /// A command that runs on a machine and is killed when this process ends, however that happens. Start
    /// it from a thread that lives as long as the program.
    pub(crate) fn command(&self, n: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(n), "setpriv", "--pdeathsig", "KILL"]).arg(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHOAL_"))
        {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for n in 1..=self.machines {
            let _ = ip(&["netns", "del", &self.space(n)]);
        }
        let _ = ip(&["netns", "del", &self.switch()]);
    }
}

/// The address of a machine.
pub(crate) fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 92, 0, u8::try_from(n).expect("at most 254 machines"))
}

/// Runs `work` on a thread of its own inside a namespace.
pub(crate) fn in_space<T: Send + 'static>(
    space: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Outcome<JoinHandle<T>> {
    let path = Path::new("/run/netns").join(space);
    let file = File::open(&path).map_err(|e| format!("cannot open {}: {e}", path.display()))?;
    Ok(thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may enter a namespace that it made");
        drop(file);
        work()
    }))
}

/// No IPv6: its neighbour discovery is nobody's traffic.
fn quiet(space: &str) -> Outcome<()> {
    let off = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6";
    ip(&["netns", "exec", space, "sh", "-c", off])
}

fn remove_leftovers() -> Outcome<()> {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Ok(());
    };
    for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if !pid.is_empty() && !Path::new("/proc").join(&pid).exists() {
            ip(&["netns", "del", &name])?;
        }
    }
    Ok(())
}

fn ip(args: &[&str]) -> Outcome<()> {
    let output = Command::new("ip").args(args).output();
    let output = output.map_err(|e| format!("cannot run `ip` (Debian: iproute2): {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}; this needs root", args.join(" "), why.trim()))
}
