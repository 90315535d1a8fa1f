//! A node with a kernel and a NIC of its own: a virtual machine on the rack.
//!
//! ```text
//!   pod-b1  pod-b2                       one namespace each, inside the machine
//!      \      /
//!      millrace                          in the machine's first namespace
//!          |  eth1: virtio-net, N queue pairs
//!   - - - - - - - - - - - - - - - - -    QEMU
//!          |  a tap with N queues
//!         rack                           the lab's bridge, and its other nodes
//! ```
//!
//! veth and its kind copy every packet. A virtio NIC under a recent kernel has queues, an interrupt for each, and AF_XDP in
//! zero-copy mode, so what the switch does with them can be tested on a machine that has no such NIC. The kernel comes
//! from `tools/kernel.sh`; the rest of what the machine starts with is packed from this system (`image.rs`). A guest
//! inside ([`serve`]) runs what the lab tells it over a serial port of its own, so that the NIC may be down.

mod archive;
mod channel;
mod guest;
mod image;
mod kernel;
mod monitor;
mod node;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use channel::{Answer, Channel, Order, PORT, Silence};
pub use guest::serve;
pub use kernel::KERNEL_VARIABLE;
use kernel::Kernel;
pub use node::{MachineNode, MachinePod};

use super::command::{Finished, Process, log_end};
use super::plan::NodePlan;
use super::{Lab, LabError, Namespace};

/// QEMU's program for the kernels `tools/kernel.sh` fetches.
const QEMU: &str = "qemu-system-x86_64";
/// Memory of the machine, in MiB: packet memory of two workers, what the kernel takes for it per queue, and the archive.
const MEMORY_MIB: u32 = 1024;
/// Memory on top of that, in MiB: half of it the kernel leaves alone (see [`KERNEL_LINE`]), and at the end QEMU puts the archive.
const SPARE_MIB: u32 = 192;
/// Cores of the machine, each a NUMA node with half of the memory; the NIC is at the second.
const CORES: u32 = 2;
/// What a NIC that may be told to pause may have sent that has not left the rack, for each queue: some dozens of packets with what
/// the kernel takes for each. A queue that has more waits. In bytes.
const TAP_BUFFER: u32 = 1 << 16;
/// How long a start may take on a busy machine, without hardware's help.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a command inside may take if nothing else is said.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(90);
/// Kernel command line: a console that is read as a file, an end instead of a hang, and no work for attacks that an emulated
/// processor is not open to.
///
/// The rest is for a fault of the driver (seen with 7.3). virtio-net gives the device a header of zeros with every packet of
/// a zero-copy queue, always the same one, a variable of its own. It has it mapped as if it were the kernel's, and where the
/// driver is a module, as Debian's is, the device gets an address that has nothing to do with it. What stands there goes out as
/// the header; where that is no header, the packet is lost, or worse. The address is where a module would be if it were
/// the kernel: from 1 GiB on, if neither is placed at random. So there is memory there that nobody writes to.
const KERNEL_LINE: &str = "console=ttyS0 panic=-1 quiet mitigations=off nokaslr memmap=96M$1024M";

/// A virtual machine on a lab's rack. Dropping it ends it.
#[derive(Debug)]
pub struct Machine {
    // The order of the fields is the order in which it ends: the guest first, by losing its port.
    channel: Mutex<Channel>,
    qemu: Process,
    console: PathBuf,
    monitor: PathBuf,
}

impl Machine {
    /// Starts a machine whose NIC has the plan's MAC and this many queue pairs, and waits until its guest answers. One that
    /// `pauses` waits where the rack takes nothing (see `Switch::hold`).
    ///
    /// # Errors
    /// [`LabError::NoKernel`] where there is none to start, [`LabError::Ended`] with QEMU's words, and
    /// [`LabError::Machine`] with the end of the console if the guest does not come up. Nothing is left running then.
    pub fn boot(lab: &Lab, plan: NodePlan, queues: u32, pauses: bool) -> Result<Self, LabError> {
        let tap = format!("tap-{}", plan.letter());
        lab.switch().add_tap(&tap)?;
        let nic = Nic {
            tap: &tap,
            queues,
            pauses,
            offloads: true,
        };
        let machine = Self::start(lab, plan, lab.switch().namespace(), &nic)?;
        machine.await_guest()?;
        Ok(machine)
    }

    /// Starts a machine whose NIC has the plan's MAC and is a tap device of one queue that is there, in a namespace of the lab's: a
    /// guest of a node's. It computes its own checksums and cuts its own segments unless `offloads` leaves them to others.
    ///
    /// # Errors
    /// As [`Self::boot`].
    pub fn boot_on(
        lab: &Lab,
        plan: NodePlan,
        namespace: &Namespace,
        tap: &str,
        offloads: bool,
    ) -> Result<Self, LabError> {
        let machine = Self::start_on(lab, plan, namespace, tap, offloads)?;
        machine.await_guest()?;
        Ok(machine)
    }

    /// As [`Self::boot_on`], for who has something else to do while the machine starts: nothing may be asked of it before
    /// [`Self::await_guest`].
    ///
    /// # Errors
    /// As [`Self::boot`], but for what is about the guest.
    pub fn start_on(
        lab: &Lab,
        plan: NodePlan,
        namespace: &Namespace,
        tap: &str,
        offloads: bool,
    ) -> Result<Self, LabError> {
        let nic = Nic {
            tap,
            queues: 1,
            pauses: false,
            offloads,
        };
        Self::start(lab, plan, namespace, &nic)
    }

    fn start(lab: &Lab, plan: NodePlan, namespace: &Namespace, nic: &Nic<'_>) -> Result<Self, LabError> {
        let kernel = Kernel::find()?;
        let folder = lab.folder().join(format!("machine-{}", plan.letter()));
        std::fs::create_dir_all(&folder).map_err(LabError::io(format!("make {}", folder.display())))?;
        let archive = folder.join("initramfs");
        image::build(&kernel, &folder, &archive)?;
        let files = Files {
            kernel: &kernel.image(),
            archive: &archive,
            console: &folder.join("console"),
            socket: &folder.join("control"),
            monitor: &folder.join("monitor"),
        };
        let mut line = namespace.command("setpriv");
        line.args(["--pdeathsig", "KILL", QEMU])
            .args(arguments(plan, nic, &files));
        let mut qemu = Process::spawn(line, &folder.join("qemu.log"))?;
        let channel = Channel::connect(files.socket, || qemu.check_running())?;
        Ok(Self {
            channel: Mutex::new(channel),
            qemu,
            console: files.console.to_owned(),
            monitor: files.monitor.to_owned(),
        })
    }

    /// Waits until the guest of a machine that was started answers: once, and before anything else.
    ///
    /// # Errors
    /// [`LabError::Machine`] with the end of the console if it does not come up.
    pub fn await_guest(&self) -> Result<(), LabError> {
        let answer = self.channel().answer(BOOT_TIMEOUT);
        match answer {
            Ok(Answer::Ready) => Ok(()),
            other => Err(self.broken("start", other)),
        }
    }

    /// Runs a short command inside; its failure is an error, its standard output the answer.
    pub fn run(&self, words: &[&str]) -> Result<String, LabError> {
        self.complete(words, COMMAND_TIMEOUT)?.success()
    }

    /// Runs a command inside that may take up to `timeout`, and returns how it ended, well or not.
    pub fn complete(&self, words: &[&str], timeout: Duration) -> Result<Finished, LabError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let order = Order::Run {
            words: owned(words),
            timeout_ms,
        };
        let doing = format!("run `{}`", words.join(" "));
        match self.ask(&doing, &order)? {
            Answer::Ended {
                status,
                stdout,
                stderr,
            } => Ok(Finished {
                command: format!("machine: {}", words.join(" ")),
                status: ExitStatus::from_raw(status),
                stdout,
                stderr,
            }),
            other => Err(self.broken(&doing, Ok(other))),
        }
    }

    /// Starts a program inside that runs on, its output appended to the file `log` there, and returns its process id.
    pub fn spawn(&self, words: &[&str], log: &str) -> Result<u32, LabError> {
        let order = Order::Spawn {
            words: owned(words),
            log: log.to_owned(),
        };
        let doing = format!("start `{}`", words.join(" "));
        match self.ask(&doing, &order)? {
            Answer::Started { pid } => Ok(pid),
            other => Err(self.broken(&doing, Ok(other))),
        }
    }

    /// A file inside, if it is there.
    pub fn read(&self, path: &str) -> Result<Option<String>, LabError> {
        let order = Order::Read {
            path: path.to_owned(),
        };
        let doing = format!("read {path}");
        match self.ask(&doing, &order)? {
            Answer::Text { text } => Ok(text),
            other => Err(self.broken(&doing, Ok(other))),
        }
    }

    /// Writes a file inside, whole or not at all, and the folders above it.
    pub fn write(&self, path: &str, text: &str) -> Result<(), LabError> {
        let order = Order::Write {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let doing = format!("write {path}");
        match self.ask(&doing, &order)? {
            Answer::Written => Ok(()),
            other => Err(self.broken(&doing, Ok(other))),
        }
    }

    /// Pulls the cable out of the NIC, or plugs it in again: the machine sees the link go, and come.
    ///
    /// # Errors
    /// [`LabError::Io`] with QEMU's words.
    pub fn set_cable(&self, plugged: bool) -> Result<(), LabError> {
        let what = if plugged { "plug in" } else { "pull" };
        monitor::set_cable(&self.monitor, plugged)
            .map_err(LabError::io(format!("{what} the cable of a virtual machine")))
    }

    /// Has QEMU look again at what came for the machine, which halts for that moment.
    ///
    /// QEMU that spreads packets over queues in software (RSS where its BPF program cannot be loaded, as that of Debian's 7.2
    /// cannot: its maps are declared in a way that libbpf has given up with 1.0) keeps a packet for which its queue has no
    /// buffer, and reads no more from the tap's queue it came by. It is reminded by a call of that other queue's number, which
    /// never comes while that one has buffers: everything the rack puts into that queue of the tap is lost from then on, while
    /// the machine and its rings are well. So who floods a machine, or misses an answer of it, calls this. Nothing in the
    /// machine is told of it: a driver or a switch that stands still goes on doing so.
    ///
    /// # Errors
    /// [`LabError::Io`] with QEMU's words.
    pub fn rouse(&self) -> Result<(), LabError> {
        monitor::pause(&self.monitor).map_err(LabError::io("pause a virtual machine".to_owned()))
    }

    /// The last lines of the machine's console.
    #[must_use]
    pub fn console_end(&self) -> String {
        log_end(&self.console)
    }

    /// QEMU's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.qemu.pid()
    }

    fn channel(&self) -> std::sync::MutexGuard<'_, Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, doing: &str, order: &Order) -> Result<Answer, LabError> {
        let answer = self.channel().ask(order);
        answer.map_err(|silence| self.broken(doing, Err(silence)))
    }

    /// What an answer other than the one expected means.
    fn broken(&self, doing: &str, answer: Result<Answer, Silence>) -> LabError {
        let problem = match answer {
            Err(Silence::Interrupted) => return LabError::Interrupted,
            Err(Silence::Broken(problem)) | Ok(Answer::Failed { problem }) => problem,
            Ok(other) => format!("the guest answered {other:?}"),
        };
        LabError::Machine {
            doing: doing.to_owned(),
            problem,
            console: self.console_end(),
        }
    }
}

/// The files of a machine's start.
struct Files<'a> {
    kernel: &'a Path,
    archive: &'a Path,
    console: &'a Path,
    socket: &'a Path,
    monitor: &'a Path,
}

/// The machine's NIC.
struct Nic<'a> {
    /// The tap device that it is.
    tap: &'a str,
    queues: u32,
    /// Whether it waits where the rack takes nothing.
    pauses: bool,
    /// Whether the machine may leave checksums and the cutting of segments to others.
    offloads: bool,
}

impl Nic<'_> {
    /// What QEMU is told of the device that it opens.
    fn backend(&self) -> String {
        let Self { tap, queues, .. } = self;
        let buffer = if self.pauses {
            format!(",sndbuf={TAP_BUFFER}")
        } else {
            String::new()
        };
        let header = if self.offloads { "" } else { ",vnet_hdr=off" };
        format!("tap,id=nic,ifname={tap},queues={queues},script=no,downscript=no,vhost=off{buffer}{header}")
    }
}

/// QEMU's arguments.
///
/// A NIC that is told to use the platform's IOMMU interface lets the kernel map its memory, and without that virtio-net
/// refuses zero-copy; no IOMMU is needed for it. Two vectors a queue pair and two more are what the driver asks for.
fn arguments(plan: NodePlan, nic: &Nic<'_>, files: &Files<'_>) -> Vec<String> {
    let shown = |path: &Path| path.display().to_string();
    let memory = |name: &str, mib: u32| format!("memory-backend-ram,id={name}-memory,size={mib}M");
    let words = [
        // Emulated wherever it runs: within a virtual machine hardware's help is too often there in name only. On one thread:
        // before QEMU 8.1 two processors of a machine may meet over an instruction that the kernel is patching, and
        // that ends in a panic (seen in one start of five).
        ("-accel", "tcg,thread=single".to_owned()),
        ("-cpu", "max".to_owned()),
        ("-smp", CORES.to_string()),
        ("-m", (MEMORY_MIB + SPARE_MIB).to_string()),
        ("-object", memory("near", MEMORY_MIB / 2)),
        ("-object", memory("far", MEMORY_MIB / 2 + SPARE_MIB)),
        ("-numa", "node,nodeid=0,cpus=0,memdev=near-memory".to_owned()),
        ("-numa", "node,nodeid=1,cpus=1,memdev=far-memory".to_owned()),
        ("-display", "none".to_owned()),
        ("-kernel", shown(files.kernel)),
        ("-initrd", shown(files.archive)),
        ("-append", KERNEL_LINE.to_owned()),
        ("-serial", format!("file:{}", files.console.display())),
        (
            "-qmp",
            format!("unix:{},server=on,wait=off", files.monitor.display()),
        ),
        ("-device", "virtio-serial-pci,bus=pci.0".to_owned()),
        ("-device", "pxb,id=far-bus,bus_nr=128,numa_node=1".to_owned()),
        (
            "-chardev",
            format!(
                "socket,id=control,path={},server=on,wait=off",
                files.socket.display()
            ),
        ),
        ("-device", format!("virtserialport,chardev=control,name={PORT}")),
        ("-netdev", nic.backend()),
        (
            "-device",
            format!(
                "virtio-net-pci,id={},bus=far-bus,addr=1,netdev=nic,mac={},mq=on,rss=on,vectors={},iommu_platform=on,disable-legacy=on",
                monitor::NIC,
                plan.uplink_mac(),
                2 * nic.queues + 2
            ),
        ),
    ];
    let pairs = words.into_iter().flat_map(|(key, value)| [key.to_owned(), value]);
    let alone = ["-nodefaults", "-no-reboot"].map(str::to_owned);
    alone.into_iter().chain(pairs).collect()
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_nic_has_the_queues_and_the_mac_of_its_plan() {
        let files = Files {
            kernel: Path::new("/k"),
            archive: Path::new("/a"),
            console: Path::new("/c"),
            socket: Path::new("/s"),
            monitor: Path::new("/m"),
        };
        let nic = Nic {
            tap: "tap-b",
            queues: 4,
            pauses: true,
            offloads: true,
        };
        let words = arguments(NodePlan::of(1).unwrap(), &nic, &files);
        let nic = words
            .iter()
            .find(|word| word.starts_with("virtio-net-pci"))
            .unwrap();
        assert!(
            nic.contains("vectors=10,") && nic.contains("mac=02:00:00:00:00:02"),
            "{nic}"
        );
        let tap = words.iter().find(|word| word.starts_with("tap,")).unwrap();
        assert!(tap.contains("ifname=tap-b,queues=4,"), "{tap}");
    }
}
