//! What the node itself listens on.
//!
//! Read from the tables under `/proc/self/net` (proc(5), `/proc/net/tcp`), which show the network namespace of the
//! process. Their lines are the same for all four: a number, the local address and port in hexadecimal, the remote
//! ones, and the state.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use millrace_dataplane::wire::IpProtocol;

/// The tables, each with its protocol and the state of a socket that takes what is sent to it: `TCP_LISTEN`, and for
/// UDP `TCP_CLOSE`, which is that of a socket without a peer.
const TABLES: [(&str, IpProtocol, u8); 4] = [
    ("/proc/self/net/tcp", IpProtocol::TCP, 0x0a),
    ("/proc/self/net/tcp6", IpProtocol::TCP, 0x0a),
    ("/proc/self/net/udp", IpProtocol::UDP, 0x07),
    ("/proc/self/net/udp6", IpProtocol::UDP, 0x07),
];
/// The table of SCTP, on kernels that have it; its third-last columns differ, so only the port is taken from it.
const SCTP_TABLE: &str = "/proc/self/net/sctp/eps";
/// The place of the local port in a line of [`SCTP_TABLE`].
const SCTP_PORT_COLUMN: usize = 5;

/// The sockets of the node that take connections or packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listening {
    /// Protocol, address (unspecified for any), port.
    sockets: Vec<(IpProtocol, IpAddr, u16)>,
}

impl Listening {
    /// Reads what there is now.
    ///
    /// # Errors
    /// The system's, if a table cannot be read; one that the kernel does not have holds nothing.
    pub fn read() -> io::Result<Self> {
        let mut sockets = Vec::new();
        for (path, protocol, state) in TABLES {
            let text = read_table(path)?;
            let lines = text.lines().skip(1).filter_map(parse_line);
            let listening = lines.filter(|(_, _, found)| *found == state);
            sockets.extend(listening.map(|(address, port, _)| (protocol, address, port)));
        }
        let sctp = read_table(SCTP_TABLE)?;
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let ports = sctp.lines().skip(1).filter_map(|line| {
            let port = line.split_whitespace().nth(SCTP_PORT_COLUMN)?;
            port.parse().ok()
        });
        sockets.extend(ports.map(|port| (IpProtocol::SCTP, any, port)));
        Ok(Self { sockets })
    }

    /// Whether a socket takes what is sent to this address and port. One for any IPv6 address takes IPv4 too, since
    /// nothing here says whether it is for IPv6 only.
    #[must_use]
    pub fn is_taken(&self, address: IpAddr, protocol: IpProtocol, port: u16) -> bool {
        self.sockets.iter().any(|(of, bound, number)| {
            let covers =
                *bound == address || bound.is_unspecified() && (bound.is_ipv6() || address.is_ipv4());
            *of == protocol && *number == port && covers
        })
    }
}

fn read_table(path: &str) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// The local address and port of a line, and the state.
fn parse_line(line: &str) -> Option<(IpAddr, u16, u8)> {
    let mut columns = line.split_whitespace().skip(1);
    let (address, port) = columns.next()?.split_once(':')?;
    let state = columns.nth(1)?;
    Some((
        parse_address(address)?,
        u16::from_str_radix(port, 16).ok()?,
        u8::from_str_radix(state, 16).ok()?,
    ))
}

/// An address as words of 32 bits, each written as a number of the machine's own byte order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = text.get(8 * at..8 * at + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match text.len() {
        8 => word(0).map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
        32 => {
            let mut octets = [0; 16];
            for (at, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            // A socket for IPv6 that is bound to an IPv4 address in its mapped form takes that one's packets.
            Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let v4 =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1";
        let v6 = "   1: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 0";
        let mapped =
            "   2: 0000000000000000FFFF00000A02000A:0035 00000000000000000000000000000000:0000 07 0:0 0";
        let little_endian = cfg!(target_endian = "little");
        assert!(little_endian, "the lines are those of a little-endian machine");
        let read = |line| parse_line(line).unwrap();
        assert_eq!(read(v4), ("127.0.0.1".parse().unwrap(), 8080, 0x0a));
        assert_eq!(read(v6), ("::".parse().unwrap(), 80, 0x0a));
        assert_eq!(read(mapped), ("10.0.2.10".parse().unwrap(), 53, 0x07));
        for bad in ["", "0:", "0: zz:1 0:0 0A", "0: 0100007F:1F90 0:0"] {
            assert_eq!(parse_line(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_socket_of_this_process_is_found_while_it_listens() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let (tcp_port, udp_port) = (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
        let (loopback, other) = ("127.0.0.1".parse().unwrap(), "192.0.2.7".parse().unwrap());
        let listening = Listening::read().unwrap();
        assert!(listening.is_taken(loopback, IpProtocol::TCP, tcp_port));
        assert!(
            !listening.is_taken(other, IpProtocol::TCP, tcp_port),
            "bound elsewhere"
        );
        assert!(!listening.is_taken(loopback, IpProtocol::UDP, tcp_port) || tcp_port == udp_port);
        assert!(
            listening.is_taken(other, IpProtocol::UDP, udp_port),
            "bound to any"
        );
        drop((tcp, udp));
        assert!(
            !Listening::read()
                .unwrap()
                .is_taken(loopback, IpProtocol::TCP, tcp_port)
        );
    }
}
