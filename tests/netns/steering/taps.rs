//! A tap device as a port: what its program writes reaches the socket, and the other way round, with and without a virtio-net
//! header, in both modes, and also where nobody had the device open when it was attached.

use std::fs::File;
use std::io::{Read, Write};
use std::time::Instant;

use millrace_dataplane::frame::{Frame, Holder, Pool};
use millrace_dataplane::port::tun::{make_tap, open_tap};
use millrace_dataplane::port::umem::Umem;
use millrace_dataplane::port::xsk::{FillPolicy, XskPort};
use millrace_dataplane::port::{Port, QueueId};
use millrace_dataplane::xdp::{ProgramKind, SteeringProgram, interface_index};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::lab::*;

const TAP: &str = "vm0";
/// Frames of the socket's memory.
const FRAMES: u32 = 256;
/// Lengths of a virtio-net header (`linux/virtio_net.h`), of an Ethernet header, and of a frame of a full-size packet, in bytes.
const VNET_HEADER: usize = 10;
const ETHERNET: usize = 14;
const FULL_SIZE: usize = ETHERNET + 1500;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`, `VIRTIO_NET_HDR_GSO_TCPV4`.
const NEEDS_CHECKSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;

/// A frame of so many bytes: IPv4, TCP, otherwise of no meaning.
fn frame(len: usize) -> Vec<u8> {
    let mut bytes = vec![0x5a; len];
    bytes[..ETHERNET].copy_from_slice(&[2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 8, 8, 0]);
    let total = u16::try_from(len - ETHERNET).unwrap().to_be_bytes();
    bytes[ETHERNET..ETHERNET + 20].copy_from_slice(&[
        0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 7, 10, 9, 0, 8,
    ]);
    // TCP's data offset.
    bytes[ETHERNET + 32] = 0x50;
    bytes
}

/// A header that says nothing, or what a machine says that leaves checksums and cutting to others.
fn header(flags: u8, gso: u8) -> [u8; VNET_HEADER] {
    let [length, segment, start, offset] = [54_u16, 1446, 34, 16].map(u16::to_ne_bytes);
    let mut header = [0; VNET_HEADER];
    if flags != 0 {
        let fields = [
            flags, gso, length[0], length[1], segment[0], segment[1], start[0], start[1], offset[0],
            offset[1],
        ];
        header.copy_from_slice(&fields);
    }
    header
}

/// The device's program on the one side, the socket on the other.
struct Machine {
    file: File,
    with_header: bool,
}

impl Machine {
    fn open(lab: &Lab, with_header: bool) -> Self {
        let file = lab.on_node(|| open_tap(TAP, with_header)).unwrap();
        Self {
            file: File::from(file),
            with_header,
        }
    }

    fn send(&mut self, flags: u8, gso: u8, frame: &[u8]) {
        let before = if self.with_header {
            header(flags, gso).to_vec()
        } else {
            Vec::new()
        };
        self.file.write_all(&[&before, frame].concat()).unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        let deadline = Timespec::try_from(PATIENCE).unwrap();
        let mut wanted = [PollFd::new(&self.file, PollFlags::IN)];
        assert_eq!(
            poll(&mut wanted, Some(&deadline)).unwrap(),
            1,
            "nothing came out of the tap"
        );
        let mut bytes = vec![0; 1 << 17];
        let count = self.file.read(&mut bytes).unwrap();
        let begin = if self.with_header { VNET_HEADER } else { 0 };
        bytes[begin..count].to_vec()
    }
}

/// What reaches the socket next; nothing for a while is none.
fn received(port: &mut XskPort, pool: &mut Pool, patience: std::time::Duration) -> Option<Vec<u8>> {
    let deadline = Instant::now() + patience;
    let mut frames: Vec<Frame> = Vec::new();
    while Instant::now() < deadline {
        port.settle(pool);
        if port.receive(pool, &mut frames, 1) > 0 {
            let frame = frames.remove(0);
            let bytes = frame.bytes().to_vec();
            pool.give(frame);
            return Some(bytes);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    None
}

#[test]
fn a_tap_is_a_port_whoever_has_it_open_and_however() {
    for (wanted, mode) in MODES {
        let lab = Lab::new();
        lab.on_node(|| make_tap(TAP, None, None)).unwrap();
        ip(&format!("-n {} link set {TAP} up", lab.node));
        let ifindex = lab.on_node(|| interface_index(TAP).unwrap());
        let mut program = SteeringProgram::load(ProgramKind::Port, 1).unwrap();
        let attachment = lab.on_node(|| program.attach(ifindex, wanted)).unwrap();
        assert_eq!(attachment.mode, mode, "{attachment:?}");
        // Its first socket is made with it, and has to be in the namespace too.
        let (umem, mut pool) = lab.on_node(|| Umem::new(FRAMES)).unwrap();
        let bound = lab.on_node(|| XskPort::bind(&umem, TAP, QueueId(0), Holder::port(0), FillPolicy::POD));
        let mut port = bound.unwrap();
        program.register_socket(0, port.socket()).unwrap();
        port.settle(&mut pool);
        for with_header in [false, true] {
            let mut machine = Machine::open(&lab, with_header);
            for len in [60, FULL_SIZE] {
                machine.send(0, 0, &frame(len));
                let came = received(&mut port, &mut pool, PATIENCE);
                assert!(
                    came == Some(frame(len)),
                    "{mode}, header {with_header}, {len} bytes: {came:?}; {:?} {:?}",
                    port.device_statistics(),
                    program.counters()
                );
                let packet = pool.take_with(&frame(len)).unwrap();
                port.send(&mut pool, packet).unwrap();
                port.flush();
                assert!(
                    machine.receive() == frame(len),
                    "{mode}, header {with_header}, {len} bytes"
                );
                port.settle(&mut pool);
            }
            if with_header {
                // A checksum that is left to others comes as it was written, for the switch to finish.
                machine.send(NEEDS_CHECKSUM, 0, &frame(FULL_SIZE));
                assert!(
                    received(&mut port, &mut pool, PATIENCE) == Some(frame(FULL_SIZE)),
                    "{mode}"
                );
                // What is to be cut by others is longer than a frame, and lost.
                machine.send(NEEDS_CHECKSUM, GSO_TCPV4, &frame(20_000));
                let came = received(&mut port, &mut pool, SILENCE);
                assert_eq!(came.map(|bytes| bytes.len()), None, "{mode}");
                // The kernel counts it at the socket.
                assert_eq!(port.device_statistics().unwrap().rx_dropped, 1, "{mode}");
            }
        }
    }
}
