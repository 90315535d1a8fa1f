//! How long a connection is remembered after its last packet.

use super::TcpState;

/// Seconds without a packet after which a connection is forgotten, by its protocol and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, both ends heard, nothing closed.
    pub tcp_established_s: u32,
    /// TCP whose handshake is not done, or picked up in its middle and not answered yet.
    pub tcp_half_open_s: u32,
    /// TCP, one end has said that it is done. The other may take its time: kube-proxy, too, gives it an hour.
    pub tcp_half_closed_s: u32,
    /// TCP, both ends have said that they are done, the last word not acknowledged.
    pub tcp_closing_s: u32,
    /// TCP, everything acknowledged (RFC 9293's TIME-WAIT).
    pub tcp_time_wait_s: u32,
    /// TCP, reset.
    pub tcp_reset_s: u32,
    /// UDP that only one side has spoken.
    pub udp_s: u32,
    /// UDP that both sides have spoken.
    pub udp_replied_s: u32,
    /// ICMP echo.
    pub icmp_s: u32,
    /// SCTP that only one side has spoken.
    pub sctp_s: u32,
    /// SCTP that both sides have spoken; its heartbeat goes every 30 seconds (RFC 9260 section 8.3).
    pub sctp_replied_s: u32,
    /// A protocol without ports: long, as tunnels may be silent; the same as the kernel's `nf_conntrack_generic_timeout`.
    pub portless_s: u32,
}

impl Timeouts {
    /// The one of a TCP connection in this state.
    pub(super) const fn tcp(&self, state: TcpState) -> u32 {
        match state {
            TcpState::SynSent | TcpState::SynReceived | TcpState::PickedUp => self.tcp_half_open_s,
            TcpState::Established => self.tcp_established_s,
            TcpState::HalfClosed => self.tcp_half_closed_s,
            TcpState::Closing => self.tcp_closing_s,
            TcpState::TimeWait => self.tcp_time_wait_s,
            TcpState::Reset => self.tcp_reset_s,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established_s: 86_400,
            tcp_half_open_s: 60,
            tcp_half_closed_s: 3_600,
            tcp_closing_s: 60,
            tcp_time_wait_s: 120,
            tcp_reset_s: 10,
            udp_s: 30,
            udp_replied_s: 120,
            icmp_s: 30,
            sctp_s: 60,
            sctp_replied_s: 210,
            portless_s: 600,
        }
    }
}
