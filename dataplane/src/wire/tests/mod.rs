//! Tests of the views: rows per header, cross-checks against `etherparse`, random and mutated bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails may panic"
)]

use super::*;
use frames::{built, tcp_v4_frame, tcp_v6_frame, udp_v4_frame, udp_v6_frame};

mod alike;
mod checksums;
mod frames;
mod icmp_messages;
mod ipv4_packets;
mod ipv6_packets;
mod link;
mod partial;
mod random;
mod transport;
mod tunnel;

/// What a buffer holds before something is emitted into it, so that a byte left unwritten shows.
const DIRT: u8 = 0xa5;

const HERE: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
const THERE: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x02]);
const CLIENT_V4: [u8; 4] = [10, 244, 1, 2];
const SERVER_V4: [u8; 4] = [10, 244, 2, 3];
const CLIENT_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
const SERVER_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3];
const PAYLOAD: &[u8] = b"an odd payload!";

/// Cuts `bytes` at every length below its own and checks what `parse` says of the rest.
fn cut_everywhere<'a, T>(
    bytes: &'a [u8],
    parse: impl Fn(&'a [u8]) -> Result<T, Malformed>,
    expected: impl Fn(usize) -> Malformed,
) {
    assert!(parse(bytes).is_ok(), "the whole must parse");
    for len in 0..bytes.len() {
        assert_eq!(
            parse(&bytes[..len]).err(),
            Some(expected(len)),
            "cut to {len} bytes"
        );
    }
}

#[test]
fn every_lie_has_its_own_name_and_message() {
    for (place, lie) in Malformed::ALL.into_iter().enumerate() {
        assert_eq!(lie.index(), place);
        assert!(!lie.message().is_empty() && lie.to_string() == lie.message());
        for other in &Malformed::ALL[..place] {
            assert_ne!(lie.name(), other.name());
            assert_ne!(lie.message(), other.message());
        }
        // The counter's name is the variant's, in the other spelling.
        let squeezed: String = lie.name().split('_').collect();
        assert_eq!(squeezed, format!("{lie:?}").to_lowercase());
    }
}
