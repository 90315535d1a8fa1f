//! `millrace attach` and `millrace detach`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use super::output::understand;
use super::{output, show, value};
use crate::admin::client::Client;
use crate::admin::protocol::{
    Attach, Bandwidth, Failure, Join, Joined, MemberEnd, MemberName, PodInterface, Request, TapDevice,
    TrunkVlan,
};

pub(super) const EXAMPLES: &str = "Examples:\n  millrace attach default/web-0 --netns /run/netns/web-0\n  \
    millrace attach default/web-0 --netns /proc/4711/ns/net --address 10.244.1.7\n  \
    millrace attach shop/db-0 --netns /run/netns/db-0 --network shop/blue --address 10.9.0.7\n  \
    millrace attach --tap vm7 --network shop/blue --mac 52:54:00:00:00:07 --user 64055\n  \
    millrace attach --tap router --trunk 10=shop/blue --trunk 20=shop/red";
pub(super) const DETACH_EXAMPLES: &str = "Examples:\n  millrace detach default/web-0\n  \
    millrace detach shop/db-0 --network shop/blue\n  millrace detach --tap vm7";

/// What a pod's first interface is called, and its next one.
const INTERFACES: [&str; 2] = ["eth0", "net1"];

/// Arguments of [`ClientCommand::Attach`](super::ClientCommand::Attach).
#[derive(Debug, Args)]
pub struct AttachArguments {
    /// The pod
    #[arg(value_name = "NAMESPACE/POD", value_parser = value::pod, required_unless_present = "tap")]
    pub pod: Option<String>,
    /// The pod's network namespace, such as /run/netns/NAME or /proc/PID/ns/net
    #[arg(long, value_name = "PATH", value_parser = value::netns, required_unless_present = "tap")]
    pub netns: Option<PathBuf>,
    /// An address of the pod; may be given more than once. Of a tap: the only addresses that may send
    #[arg(long = "address", value_name = "IP")]
    pub addresses: Vec<IpAddr>,
    /// What the interface is called inside the pod [default: eth0, in a network of its own net1]
    #[arg(long, value_name = "NAME", value_parser = value::interface)]
    pub interface: Option<String>,
    /// A tap device in the place of a pod; it is made where it is not there
    #[arg(long, value_name = "NAME", value_parser = value::interface, conflicts_with_all = ["pod", "netns", "interface"])]
    pub tap: Option<String>,
    /// The number of the only user that may open the tap device, where it is made
    #[arg(long, value_name = "UID", requires = "tap", conflicts_with = "pod")]
    pub user: Option<u32>,
    /// The number of the only group that may open the tap device, where it is made
    #[arg(long, value_name = "GID", requires = "tap", conflicts_with = "pod")]
    pub group: Option<u32>,
    /// A network beside the cluster's own
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = value::pod)]
    pub network: Option<String>,
    /// A network of the tap's frames with this VLAN's tag; may be given more than once
    #[arg(long, value_name = "VLAN=NAMESPACE/NAME", value_parser = trunk_vlan, requires = "tap", conflicts_with = "pod")]
    pub trunk: Vec<TrunkVlan>,
    /// The only MAC address that may send [default: a pod's follows from its name, from a tap any may]
    #[arg(long, value_name = "MAC")]
    pub mac: Option<String>,
}

/// Arguments of [`ClientCommand::Detach`](super::ClientCommand::Detach).
#[derive(Debug, Args)]
pub struct DetachArguments {
    /// The pod
    #[arg(value_name = "NAMESPACE/POD", value_parser = value::pod, required_unless_present = "tap")]
    pub pod: Option<String>,
    /// The pod's interface in this network, in the place of its first
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = value::pod)]
    pub network: Option<String>,
    /// A virtual machine's tap device
    #[arg(long, value_name = "NAME", value_parser = value::interface, conflicts_with_all = ["pod", "network"])]
    pub tap: Option<String>,
}

fn trunk_vlan(text: &str) -> Result<TrunkVlan, String> {
    let wrong = || "a network behind a tag is written VLAN=NAMESPACE/NAME, such as 10=shop/blue".to_owned();
    let (vlan, network) = text.split_once('=').ok_or_else(wrong)?;
    Ok(TrunkVlan {
        vlan: vlan.parse().map_err(|_| wrong())?,
        network: value::pod(network).map_err(|_| wrong())?,
    })
}

/// What is asked for: the name to tell it by, and the request.
fn wanted(arguments: AttachArguments) -> Result<(String, Request), Failure> {
    let [first, next] = INTERFACES.map(str::to_owned);
    let missing = || Failure::wrong("a pod needs its network namespace: --netns PATH");
    let (name, end) = match (arguments.tap, arguments.pod) {
        (Some(name), _) => {
            let (user, group) = (arguments.user, arguments.group);
            (name.clone(), MemberEnd::Tap(TapDevice { name, user, group }))
        }
        (None, Some(pod)) if arguments.network.is_some() => {
            let end = PodInterface {
                pod: pod.clone(),
                netns: arguments.netns.ok_or_else(missing)?,
                interface: arguments.interface.unwrap_or(next),
            };
            (pod, MemberEnd::Pod(end))
        }
        (None, pod) => {
            if arguments.mac.is_some() {
                return Err(Failure::wrong(
                    "a pod's first MAC address follows from its name; leave --mac out",
                ));
            }
            let pod = pod.unwrap_or_default();
            let attach = Attach {
                pod: pod.clone(),
                netns: arguments.netns.ok_or_else(missing)?,
                addresses: arguments.addresses,
                interface: arguments.interface.unwrap_or(first),
                ..Attach::default()
            };
            return Ok((pod, Request::Attach(attach)));
        }
    };
    let join = Join {
        end,
        network: arguments.network,
        trunk: arguments.trunk,
        mac: arguments.mac,
        addresses: arguments.addresses,
        container: None,
        bandwidth: Bandwidth::default(),
    };
    Ok((name, Request::Join(join)))
}

/// Makes a port.
///
/// # Errors
/// What the daemon says.
pub(super) fn attach(socket: &Path, arguments: AttachArguments) -> Result<(), Failure> {
    let (name, request) = wanted(arguments)?;
    let answer = Client::connect(socket)?.request(&request)?;
    output::print(&match request {
        Request::Join(_) => joined(&name, &understand(answer)?),
        _ => show::render_attached(&name, answer),
    })
}

fn joined(name: &str, joined: &Joined) -> String {
    let addresses: Vec<String> = joined.addresses.iter().map(ToString::to_string).collect();
    let mac = joined.mac.as_deref().unwrap_or("any");
    let addresses = if addresses.is_empty() {
        "any".to_owned()
    } else {
        addresses.join(",")
    };
    format!(
        "attached {name}\n  interface {}, MAC address {mac}, addresses {addresses}, MTU {}\n",
        joined.interface, joined.mtu
    )
}

/// Takes a port away.
///
/// # Errors
/// What the daemon says.
pub(super) fn detach(socket: &Path, arguments: DetachArguments) -> Result<(), Failure> {
    let (name, request) = match (
        arguments.tap,
        arguments.pod.unwrap_or_default(),
        arguments.network,
    ) {
        (Some(tap), ..) => (tap.clone(), Request::Part(MemberName::Interface(tap))),
        (None, pod, Some(network)) => {
            let name = format!("{pod} from {network}");
            (name, Request::Part(MemberName::Pod { pod, network }))
        }
        (None, pod, None) => (pod.clone(), Request::Detach { pod }),
    };
    Client::connect(socket)?.request(&request)?;
    output::print(&format!("detached {name}\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, ClientCommand, Command};
    use super::*;

    fn request(words: &str) -> Result<Request, String> {
        let all = ["millrace", "attach"].into_iter().chain(words.split_whitespace());
        let cli = Cli::try_parse_from(all).map_err(|error| error.to_string())?;
        let Command::Client(ClientCommand::Attach(arguments)) = cli.command else {
            panic!("another command")
        };
        wanted(arguments)
            .map(|(_, request)| request)
            .map_err(|failure| failure.message)
    }

    #[test]
    fn a_pods_first_port_is_asked_for_as_ever() {
        let Ok(Request::Attach(attach)) = request("a/b --netns /run/netns/x --address 10.0.0.1") else {
            panic!("another request")
        };
        assert_eq!((attach.pod.as_str(), attach.interface.as_str()), ("a/b", "eth0"));
        assert!(request("a/b").is_err());
        assert!(request("--netns /run/netns/x").is_err());
        assert!(request("a/b --netns /run/netns/x --mac 02:00:00:00:00:01").is_err());
        assert!(request("a/b --netns /run/netns/x --user 7").is_err());
    }

    #[test]
    fn taps_and_further_interfaces_join_networks() {
        let Ok(Request::Join(join)) = request("a/b --netns /run/netns/x --network shop/blue") else {
            panic!("another request")
        };
        assert!(matches!(&join.end, MemberEnd::Pod(end) if end.interface == "net1"));
        let Ok(Request::Join(join)) = request("--tap vm7 --user 7 --trunk 10=shop/blue --trunk 20=shop/red")
        else {
            panic!("another request")
        };
        assert_eq!(join.trunk.len(), 2);
        assert!(matches!(
            &join.end,
            MemberEnd::Tap(TapDevice { user: Some(7), .. })
        ));
        for wrong in [
            "a/b --tap vm7",
            "--tap vm7 --trunk shop/blue",
            "--tap vm7 --trunk x=shop/blue",
            "--tap a/b",
        ] {
            assert!(request(wrong).is_err(), "{wrong}");
        }
    }
}
