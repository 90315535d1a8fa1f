use super::*;
use crate::table::flow::tuple::Direction::{self, Original, Reply};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const FIN: TcpFlags = TcpFlags::FIN;
const RST: TcpFlags = TcpFlags::RST;
const SYN_ACK: TcpFlags = SYN.with(ACK);
const FIN_ACK: TcpFlags = FIN.with(ACK);
const RST_ACK: TcpFlags = RST.with(ACK);

/// First number of the client, and of the server.
const CLIENT: u32 = 0xffff_ff00; // so that it wraps soon
const SERVER: u32 = 5000;
/// Both sides' window, as it stands in a header, and its shift count.
const WINDOW: u16 = 1000;
const SCALE: u8 = 3;

/// A connection, and what is done to it.
struct Dialogue(Connection);

fn segment(flags: TcpFlags, sequence: u32, acknowledgment: u32, payload_len: u32) -> TcpSegment {
    TcpSegment {
        sequence,
        acknowledgment,
        window: WINDOW,
        flags,
        payload_len,
        window_scale: flags.contains(SYN).then_some(SCALE),
    }
}

/// A segment of the client: both numbers count from the first of either side.
fn client(flags: TcpFlags, sequence: u32, acknowledgment: u32, payload_len: u32) -> (Direction, TcpSegment) {
    let (sequence, acknowledgment) = (CLIENT.wrapping_add(sequence), SERVER.wrapping_add(acknowledgment));
    (Original, segment(flags, sequence, acknowledgment, payload_len))
}

/// A segment of the server.
fn server(flags: TcpFlags, sequence: u32, acknowledgment: u32, payload_len: u32) -> (Direction, TcpSegment) {
    let (sequence, acknowledgment) = (SERVER.wrapping_add(sequence), CLIENT.wrapping_add(acknowledgment));
    (Reply, segment(flags, sequence, acknowledgment, payload_len))
}

impl Dialogue {
    fn begin() -> Self {
        Self(Connection::open(&client(SYN, 0, 0, 0).1, false).unwrap())
    }

    fn established() -> Self {
        let mut dialogue = Self::begin();
        dialogue.passes(server(SYN_ACK, 0, 1, 0), TcpState::SynReceived);
        dialogue.passes(client(ACK, 1, 1, 0), TcpState::Established);
        dialogue
    }

    /// Data has gone both ways: 100 bytes from the client, 300 from the server, all acknowledged.
    fn talking() -> Self {
        let mut dialogue = Self::established();
        dialogue.passes(client(ACK, 1, 1, 100), TcpState::Established);
        dialogue.passes(server(ACK, 1, 101, 300), TcpState::Established);
        dialogue.passes(client(ACK, 101, 301, 0), TcpState::Established);
        dialogue
    }

    fn judge(&mut self, (direction, segment): (Direction, TcpSegment)) -> TcpVerdict {
        // Every step goes through the packed form, as it does in the table.
        let (bits, words) = self.0.pack();
        self.0 = Connection::unpack(bits, &words).unwrap();
        self.0.track(direction, &segment)
    }

    #[track_caller]
    fn passes(&mut self, segment: (Direction, TcpSegment), state: TcpState) {
        assert_eq!(self.judge(segment), TcpVerdict::Accept, "{segment:?}");
        assert_eq!(self.0.state, state, "{segment:?}");
    }

    /// The segment is judged so, and nothing changes by it.
    #[track_caller]
    fn keeps(&mut self, segment: (Direction, TcpSegment), verdict: TcpVerdict) {
        let before = self.0;
        assert_eq!(self.judge(segment), verdict, "{segment:?}");
        assert_eq!(self.0, before, "{segment:?} changed it");
    }
}

#[test]
fn a_connection_opens_talks_and_closes() {
    let mut dialogue = Dialogue::talking();
    dialogue.passes(client(FIN_ACK, 101, 301, 0), TcpState::HalfClosed);
    dialogue.passes(server(ACK, 301, 102, 0), TcpState::HalfClosed);
    dialogue.passes(server(ACK, 301, 102, 500), TcpState::HalfClosed);
    dialogue.passes(client(ACK, 102, 801, 0), TcpState::HalfClosed);
    dialogue.passes(server(FIN_ACK, 801, 102, 0), TcpState::Closing);
    dialogue.passes(client(ACK, 102, 802, 0), TcpState::TimeWait);
    dialogue.passes(server(FIN_ACK, 801, 102, 0), TcpState::TimeWait);
    assert_eq!(dialogue.judge(client(SYN, 70_000, 0, 0)), TcpVerdict::Reopen);
}

#[test]
fn both_sides_close_at_once() {
    let mut dialogue = Dialogue::talking();
    dialogue.passes(client(FIN_ACK, 101, 301, 0), TcpState::HalfClosed);
    dialogue.passes(server(FIN_ACK, 301, 101, 0), TcpState::Closing);
    dialogue.passes(client(ACK, 102, 302, 0), TcpState::Closing);
    dialogue.passes(server(ACK, 302, 102, 0), TcpState::TimeWait);
}

#[test]
fn both_sides_open_at_once() {
    let mut dialogue = Dialogue::begin();
    dialogue.passes(server(SYN, 0, 0, 0), TcpState::SynReceived);
    dialogue.passes(server(SYN_ACK, 0, 1, 0), TcpState::SynReceived);
    dialogue.passes(client(SYN_ACK, 0, 1, 0), TcpState::Established);
    dialogue.passes(client(ACK, 1, 1, 100), TcpState::Established);
    dialogue.passes(server(ACK, 1, 101, 100), TcpState::Established);
}

#[test]
fn a_client_may_close_with_the_last_step_of_its_handshake() {
    let mut dialogue = Dialogue::begin();
    dialogue.passes(server(SYN_ACK, 0, 1, 0), TcpState::SynReceived);
    dialogue.passes(client(FIN_ACK, 1, 1, 10), TcpState::HalfClosed);
}

#[test]
fn only_the_clients_last_step_establishes() {
    let mut dialogue = Dialogue::begin();
    dialogue.keeps(client(ACK, 1, 1, 0), TcpVerdict::OutOfWindow);
    dialogue.passes(server(SYN_ACK, 0, 1, 0), TcpState::SynReceived);
    dialogue.keeps(server(SYN_ACK, 0, 1, 0), TcpVerdict::Accept); // sent again
    dialogue.passes(client(SYN, 0, 0, 0), TcpState::SynReceived); // so is the SYN
    // Who guesses the server's number does not open a connection in another's name.
    for guess in [0, 2, 1000, 0x8000_0000, u32::MAX] {
        let _ = dialogue.judge(client(ACK, 1, guess, 0));
        assert_eq!(dialogue.0.state, TcpState::SynReceived, "by {guess}");
    }
    dialogue.passes(client(ACK, 1, 1, 0), TcpState::Established);
}

#[test]
fn what_makes_no_sense_is_invalid_and_begins_nothing() {
    let mut dialogue = Dialogue::talking();
    for flags in [
        SYN.with(FIN),
        SYN.with(RST),
        FIN.with(RST),
        SYN_ACK.with(FIN),
        FIN,
        TcpFlags(0),
        TcpFlags::PSH,
    ] {
        dialogue.keeps(client(flags, 101, 301, 0), TcpVerdict::Invalid);
        assert_eq!(
            Connection::open(&client(flags, 0, 0, 0).1, true),
            None,
            "{flags:?}"
        );
    }
    for flags in [SYN_ACK, RST, RST_ACK] {
        assert_eq!(
            Connection::open(&client(flags, 0, 0, 0).1, true),
            None,
            "{flags:?}"
        );
    }
    let sensible = [SYN, ACK, FIN_ACK, ACK.with(TcpFlags::PSH).with(TcpFlags::URG)];
    for flags in sensible {
        assert!(
            Connection::open(&client(flags, 0, 0, 0).1, true).is_some(),
            "{flags:?}"
        );
    }
    let congestion = SYN.with(TcpFlags::ECE).with(TcpFlags::CWR);
    assert!(Connection::open(&client(congestion, 0, 0, 0).1, false).is_some());
    assert_eq!(
        Connection::open(&client(ACK, 0, 0, 0).1, false),
        None,
        "not its middle"
    );
}

/// What an attacker who sees nothing can send: it tears nothing down, and windows stay as they are.
#[test]
fn blind_segments_change_nothing() {
    let mut dialogue = Dialogue::talking();
    let allowed = u32::from(WINDOW) << SCALE;
    for far in [allowed + 1000, 1 << 20, 1 << 31, 0x9000_0000] {
        dialogue.keeps(client(RST, 101 + far, 0, 0), TcpVerdict::OutOfWindow);
        dialogue.keeps(server(RST_ACK, 301 + far, 101, 0), TcpVerdict::OutOfWindow);
    }
    for far in [2 * allowed + 1000, 1 << 20, 1 << 31] {
        dialogue.keeps(client(ACK, 101 + far, 301, 10), TcpVerdict::OutOfWindow);
        dialogue.keeps(server(FIN_ACK, 301 + far, 101, 0), TcpVerdict::OutOfWindow);
    }
    for far in [allowed + 1000, 1 << 20, (1 << 31) - 1] {
        dialogue.keeps(client(ACK, 101, 301 + far, 0), TcpVerdict::OutOfWindow);
    }
    // What lies behind comes late, as far as anyone can tell.
    let behind = 0x9000_0000;
    dialogue.keeps(client(ACK, 101 + behind, 301, 10), TcpVerdict::Accept);
    dialogue.keeps(server(FIN_ACK, 301 + behind, 101, 0), TcpVerdict::Accept);
    dialogue.keeps(client(ACK, 101, 301 + behind, 0), TcpVerdict::Accept);
    // Within the window, and not the number that is expected: its receiver challenges it (RFC 5961 section 3).
    dialogue.keeps(client(RST, 101 + 50, 0, 0), TcpVerdict::Accept);
    dialogue.keeps(server(RST, 301 + 50, 0, 0), TcpVerdict::Accept);
    // A SYN and a SYN-ACK do nothing either, before or behind (RFC 5961 section 4).
    for sequence in [0, 101, 50_000_000, 0x9000_0000] {
        dialogue.passes(client(SYN, sequence, 0, 0), TcpState::Established);
        dialogue.passes(server(SYN_ACK, sequence, 17, 0), TcpState::Established);
        dialogue.passes(server(SYN, sequence, 0, 0), TcpState::Established);
    }
    dialogue.passes(client(ACK, 101, 301, 40), TcpState::Established);
    dialogue.passes(server(ACK, 301, 141, 40), TcpState::Established);
}

#[test]
fn the_expected_reset_ends_a_connection() {
    for reset in [
        client(RST, 101, 0, 0),
        client(RST_ACK, 101, 301, 0),
        server(RST, 301, 0, 0),
    ] {
        let mut dialogue = Dialogue::talking();
        dialogue.passes(reset, TcpState::Reset);
        dialogue.passes(server(ACK, 301, 101, 10), TcpState::Reset);
        assert_eq!(dialogue.judge(client(SYN, 9_000, 0, 0)), TcpVerdict::Reopen);
    }
    // To data that the client's socket is no longer there for: the number that the data asked for.
    let mut dialogue = Dialogue::talking();
    dialogue.passes(client(ACK, 101, 301, 50), TcpState::Established);
    dialogue.passes(client(RST, 101, 0, 0), TcpState::Reset);
}

#[test]
fn a_refused_connection_is_over_and_a_forged_refusal_is_not() {
    let mut dialogue = Dialogue::begin();
    dialogue.keeps(server(RST_ACK, 0, 77, 0), TcpVerdict::OutOfWindow);
    dialogue.keeps(server(RST, 0, 1, 0), TcpVerdict::OutOfWindow);
    dialogue.passes(server(RST_ACK, 0, 1, 0), TcpState::Reset);
    let mut dialogue = Dialogue::begin();
    dialogue.passes(server(SYN_ACK, 0, 1, 0), TcpState::SynReceived);
    dialogue.keeps(server(RST, 9, 0, 0), TcpVerdict::Accept); // for the client to challenge
    dialogue.keeps(
        server(RST, 0_u32.wrapping_sub(SERVER), 0, 0),
        TcpVerdict::OutOfWindow,
    );
    dialogue.passes(server(RST, 1, 0, 0), TcpState::Reset);
}

/// A client that was restarted uses its port again, and the server still knows the old connection.
#[test]
fn a_half_open_connection_is_found_out_and_begun_again() {
    let mut dialogue = Dialogue::talking();
    dialogue.passes(client(SYN, 700_000, 0, 0), TcpState::Established);
    dialogue.passes(server(ACK, 301, 101, 0), TcpState::Established); // the challenge
    dialogue.passes(client(RST, 101, 0, 0), TcpState::Reset); // as its acknowledgment asks for
    assert_eq!(dialogue.judge(client(SYN, 700_000, 0, 0)), TcpVerdict::Reopen);
}

/// Both ends were restarted: a SYN in the middle is answered by a SYN-ACK.
#[test]
fn both_ends_begin_anew_in_the_middle() {
    for (number, answer) in [(700_000, 900_000), (700_000, 0x9000_0000), (0x9000_0000, 900_000)] {
        let mut dialogue = Dialogue::talking();
        dialogue.passes(client(SYN, number, 0, 0), TcpState::Established);
        dialogue.passes(server(SYN_ACK, answer, number + 1, 0), TcpState::SynReceived);
        dialogue.passes(client(ACK, number + 1, answer + 1, 0), TcpState::Established);
        dialogue.passes(client(ACK, number + 1, answer + 1, 100), TcpState::Established);
        dialogue.passes(server(ACK, answer + 1, number + 101, 8000), TcpState::Established);
    }
    // Late copies of the first SYN and SYN-ACK are no new beginning.
    let mut dialogue = Dialogue::talking();
    dialogue.passes(client(SYN, 0, 0, 0), TcpState::Established);
    dialogue.passes(server(SYN_ACK, 0, 1, 0), TcpState::Established);
    dialogue.passes(client(ACK, 101, 301, 100), TcpState::Established);
}

#[test]
fn an_old_syn_ack_is_left_to_the_client() {
    let mut dialogue = Dialogue::begin();
    dialogue.keeps(server(SYN_ACK, 800, 90_000, 0), TcpVerdict::Accept);
    dialogue.keeps(server(ACK, 800, 90_000, 0), TcpVerdict::Accept); // or a challenge to it
    dialogue.keeps(client(RST, 90_000, 0, 0), TcpVerdict::Accept); // the client's answer to either
    dialogue.passes(server(SYN_ACK, 0, 1, 0), TcpState::SynReceived);
}

#[test]
fn a_syn_is_sent_again_and_replaced() {
    let mut dialogue = Dialogue::begin();
    dialogue.passes(client(SYN, 0, 0, 0), TcpState::SynSent);
    dialogue.passes(client(SYN, 40_000, 0, 0), TcpState::SynSent);
    dialogue.keeps(server(SYN_ACK, 0, 1, 0), TcpVerdict::Accept); // to the older
    dialogue.passes(server(SYN_ACK, 0, 40_001, 0), TcpState::SynReceived);
}

#[test]
fn data_in_a_syn_may_be_acknowledged_or_not() {
    for acknowledged in [1, 101] {
        let mut dialogue = Dialogue(Connection::open(&client(SYN, 0, 0, 100).1, false).unwrap());
        dialogue.keeps(server(SYN_ACK, 0, 102, 0), TcpVerdict::Accept);
        dialogue.passes(server(SYN_ACK, 0, acknowledged, 0), TcpState::SynReceived);
        dialogue.passes(server(ACK, 1, acknowledged, 500), TcpState::SynReceived);
        dialogue.passes(client(ACK, 101, 501, 0), TcpState::Established);
    }
}

#[test]
fn windows_are_scaled_only_if_both_sides_say_so() {
    let far = 2 * u32::from(WINDOW) + 500; // one more window is tolerated
    let mut unscaled = Dialogue::begin();
    let (direction, mut syn_ack) = server(SYN_ACK, 0, 1, 0);
    syn_ack.window_scale = None;
    unscaled.passes((direction, syn_ack), TcpState::SynReceived);
    unscaled.passes(client(ACK, 1, 1, 0), TcpState::Established);
    unscaled.keeps(server(ACK, 1 + far, 1, 10), TcpVerdict::OutOfWindow);
    let mut scaled = Dialogue::established();
    scaled.passes(server(ACK, 1 + far, 1, 10), TcpState::Established);
}

#[test]
fn a_window_of_zero_can_be_probed_and_opens_again() {
    let mut dialogue = Dialogue::talking();
    let closed = |sequence, acknowledgment| {
        let (direction, mut segment) = client(ACK, sequence, acknowledgment, 0);
        segment.window = 0;
        (direction, segment)
    };
    let allowed = u32::from(WINDOW) << SCALE;
    dialogue.passes(server(ACK, 301, 101, allowed), TcpState::Established);
    dialogue.passes(closed(101, 301 + allowed), TcpState::Established);
    dialogue.passes(server(ACK, 301 + allowed, 101, 1), TcpState::Established);
    dialogue.passes(client(ACK, 101, 301 + allowed + 1, 0), TcpState::Established);
    dialogue.passes(server(ACK, 301 + allowed + 1, 101, 1000), TcpState::Established);
}

#[test]
fn what_is_sent_again_and_kept_alive_passes() {
    let mut dialogue = Dialogue::talking();
    dialogue.passes(client(ACK, 1, 301, 100), TcpState::Established); // sent again
    dialogue.passes(client(ACK, 100, 301, 0), TcpState::Established); // a keep-alive (RFC 9293 section 3.8.4)
    dialogue.passes(client(ACK, 100, 301, 1), TcpState::Established); // one with a byte
    dialogue.passes(server(ACK, 301, 1, 0), TcpState::Established); // an acknowledgment overtaken by later ones
    let old = 0_u32.wrapping_sub((u32::from(WINDOW) << SCALE) + 200);
    // Nobody can want that any more; whoever gets it acknowledges again what its sender has not heard of.
    dialogue.keeps(client(ACK, old, 301, 100), TcpVerdict::Accept);
    dialogue.keeps(
        client(ACK, 101, 301_u32.wrapping_sub(70_000), 0),
        TcpVerdict::Accept,
    );
}

/// Segments that pass without being noted, because another worker is at the connection's record: what follows on them.
#[test]
fn what_was_not_noted_is_made_up_for() {
    let allowed = u32::from(WINDOW) << SCALE;
    // Data of the client's; the server's acknowledgment of it.
    let mut dialogue = Dialogue::talking();
    for missed in [1, 100, allowed] {
        dialogue.keeps(server(ACK, 301, 101 + missed, 0), TcpVerdict::Accept);
    }
    dialogue.keeps(server(ACK, 301, 101 + allowed + 1, 0), TcpVerdict::OutOfWindow);
    // The server's windows; data that fills them.
    dialogue.passes(client(ACK, 101, 301, allowed), TcpState::Established);
    dialogue.passes(client(ACK, 101 + allowed, 301, 100), TcpState::Established);
    dialogue.passes(
        client(ACK, 201 + allowed, 301, allowed - 100),
        TcpState::Established,
    );
    dialogue.keeps(client(ACK, 101 + 2 * allowed, 301, 1), TcpVerdict::OutOfWindow);
    dialogue.passes(server(ACK, 301, 101 + 2 * allowed, 0), TcpState::Established);
    dialogue.passes(
        client(ACK, 101 + 2 * allowed, 301, allowed),
        TcpState::Established,
    );
    // Data of both, each of which goes on with acknowledging the other's: what is known follows, however long.
    let mut dialogue = Dialogue::talking();
    for number in 0..1000 {
        let (sent, answered) = (601 + 500 * number, 901 + 500 * number);
        dialogue.passes(client(ACK, sent, answered, 500), TcpState::Established);
        dialogue.passes(server(ACK, answered, sent, 500), TcpState::Established);
    }
    // A FIN that follows is one.
    let mut dialogue = Dialogue::talking();
    dialogue.passes(server(FIN_ACK, 301, 201, 0), TcpState::HalfClosed);
    // A connection that is not yet one is not made up.
    let mut dialogue = Dialogue::begin();
    dialogue.passes(server(SYN_ACK, 0, 1, 0), TcpState::SynReceived);
    dialogue.keeps(client(ACK, 1, 2, 0), TcpVerdict::OutOfWindow);
}

#[test]
fn a_connection_is_picked_up_in_its_middle() {
    let mut dialogue = Dialogue(Connection::open(&client(ACK, 9000, 4000, 100).1, true).unwrap());
    assert_eq!(dialogue.0.state, TcpState::PickedUp);
    dialogue.passes(client(ACK, 9100, 4000, 100), TcpState::PickedUp);
    assert_eq!(
        dialogue.judge(server(ACK, 4000, 9300, 0)),
        TcpVerdict::OutOfWindow,
        "acknowledges what was never sent"
    );
    assert_eq!(dialogue.0.state, TcpState::PickedUp);
    dialogue.passes(server(ACK, 4000, 9200, 700), TcpState::Established);
    dialogue.passes(client(ACK, 9200, 4700, 100), TcpState::Established);
    dialogue.passes(server(ACK, 4700, 9300, 60_000), TcpState::Established);
    dialogue.keeps(client(RST, 9_000_000, 0, 0), TcpVerdict::Accept); // its windows may be as wide as that
    dialogue.keeps(client(RST, 0x8000_0000, 0, 0), TcpVerdict::OutOfWindow);
    dialogue.passes(client(FIN_ACK, 9300, 4700, 0), TcpState::HalfClosed);
    dialogue.passes(server(RST, 64_700, 0, 0), TcpState::Reset);
}

#[test]
fn a_picked_up_connection_that_was_none_gives_way_to_a_real_one() {
    let mut dialogue = Dialogue(Connection::open(&client(ACK, 9000, 4000, 0).1, true).unwrap());
    dialogue.passes(client(SYN, 0, 0, 0), TcpState::SynSent);
    dialogue.passes(server(SYN_ACK, 0, 1, 0), TcpState::SynReceived);
}

#[test]
fn windows_are_learnt_anew_when_they_were_lost() {
    let mut dialogue = Dialogue::talking();
    dialogue.0.forget_windows();
    dialogue.passes(server(ACK, 301, 101, 100), TcpState::Established);
    dialogue.passes(client(ACK, 101, 401, 100), TcpState::Established);
    dialogue.passes(server(ACK, 401, 201, 100), TcpState::Established);
    dialogue.keeps(client(RST, 0x8000_0000, 0, 0), TcpVerdict::OutOfWindow);
    dialogue.passes(client(RST, 201, 0, 0), TcpState::Reset);
}

#[test]
fn the_scale_is_found_among_other_options() {
    let rows: [(&[u8], Option<u8>); 9] = [
        (&[], None),
        (&[3, 3, 7, 0], Some(7)),
        (&[2, 4, 5, 180, 1, 3, 3, 9], Some(9)),
        (&[1, 1, 1, 0, 3, 3, 9, 0], None), // behind the end
        (&[3, 3, 200, 0], Some(SCALE_MAX)),
        (&[3, 3], None),
        (&[3, 4, 7, 7], None), // of a wrong length
        (&[8, 0, 3, 3, 9, 0, 0, 0], None),
        (&[8, 99, 3, 3], None),
    ];
    for (options, scale) in rows {
        assert_eq!(window_scale(options), scale, "{options:?}");
    }
}

#[test]
fn segments_are_read_from_the_wire() {
    let mut header = etherparse::TcpHeader::new(1, 2, 77, 999);
    header.syn = true;
    header
        .set_options(&[
            etherparse::TcpOptionElement::MaximumSegmentSize(1460),
            etherparse::TcpOptionElement::WindowScale(5),
        ])
        .unwrap();
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend([0; 11]);
    let read = TcpSegment::new(&Tcp::parse(&bytes).unwrap());
    assert_eq!((read.sequence, read.window, read.payload_len), (77, 999, 11));
    assert_eq!((read.flags, read.window_scale), (SYN, Some(5)));
    assert_eq!(read.end(), 77 + 12);
}

proptest::proptest! {
    /// Whatever comes: nothing panics, and what is packed is what is unpacked.
    #[test]
    fn any_segments_leave_a_connection_that_can_be_packed(
        segments in proptest::collection::vec(proptest::prelude::any::<(bool, u8, u32, u32, u16, u16, Option<u8>)>(), 1..40)
    ) {
        let mut connection: Option<Connection> = None;
        for (is_reply, flags, sequence, acknowledgment, window, payload_len, scale) in segments {
            let segment = TcpSegment {
                // Few numbers, so that some fit.
                sequence: sequence % 8 * 0x1fff_ffff,
                acknowledgment: acknowledgment % 8 * 0x1fff_ffff,
                window,
                flags: TcpFlags(flags),
                payload_len: u32::from(payload_len),
                window_scale: scale.map(|scale| scale.min(SCALE_MAX)),
            };
            let direction = if is_reply { Reply } else { Original };
            match &mut connection {
                None => connection = Connection::open(&segment, true),
                Some(connection) => {
                    connection.track(direction, &segment);
                    let (bits, words) = connection.pack();
                    proptest::prop_assert!(bits < 1 << Connection::BITS);
                    proptest::prop_assert_eq!(Connection::unpack(bits, &words), Some(*connection));
                }
            }
        }
    }
}
