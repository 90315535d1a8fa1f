//! Steering: the XDP programs that decide, before the kernel's stack, which packets the switch gets.
//!
//! Two programs (C for the BPF target, compiled by the build script), each with maps of its own per
//! interface:
//!
//! - [`ProgramKind::Uplink`] decides first whether a packet is ours. What is not passes to the kernel before
//!   the socket map is asked, so the node **fails open**; what is ours goes to a socket, or is dropped where
//!   there is none.
//! - [`ProgramKind::Port`], for pod ports and the switch's side of the host port, hands everything to a
//!   socket and drops it where there is none, so pods **fail closed**.
//!
//! Programs are attached with rtnetlink (`RTM_SETLINK`, `IFLA_XDP`), not with a `bpf_link`: so they outlive
//! the process without a bpffs. The next process knows its own by name, and replaces it in one step; a
//! program of anyone else is never touched. When a process ends, its sockets leave the socket map by
//! themselves, the program stays, and what was ours is dropped until the next process is there.
//!
//! The order for a caller that wants no gap: [`SteeringProgram::load`], fill its tables, register its
//! sockets, then [`SteeringProgram::attach`].
//!
//! A VLAN tag that the NIC has stripped from the frame cannot be seen by an XDP program, so a NIC whose frames may bear tags
//! must be kept from that (`rx-vlan-hw-parse`). On an uplink in a VLAN the program looks behind the tag of that VLAN, and
//! leaves everything else to the kernel.
//!
//! Everything acts in the network namespace of the calling thread. Sources: kernel
//! `Documentation/networking/af_xdp.rst`, `Documentation/bpf/map_xskmap.rst`, and `linux/if_link.h` for the
//! netlink attributes.

mod attach;
mod counters;
mod error;
mod identity;
mod link;
mod program;
mod set;
mod tables;

pub use attach::{AttachedMode, AttachedProgram, Attachment, XdpMode, detach_ours, interface_index, query};
pub use counters::{SteeringCounter, SteeringCounters};
pub use error::{Hint, XdpError};
pub use program::{Packets, ProgramKind, SteeringAction, SteeringProgram};
pub use tables::{NodePort, ServicePort, SteeringTables};
