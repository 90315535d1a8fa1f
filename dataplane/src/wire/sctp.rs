//! The checksum of the Stream Control Transmission Protocol (RFC 9260): CRC32c over the whole packet, its own field
//! taken as zero. It covers no addresses, so only a change of ports touches it.

use super::ports::{self, Ports};
use super::{Malformed, PortsMut};

/// Length of the common header, in bytes.
pub const HEADER_LEN: usize = 12;

/// Where the checksum stands in the header.
pub const CHECKSUM_OFFSET: usize = 8;

/// The generator polynomial of CRC32c, bits reversed (RFC 9260 appendix A).
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What eight further bits do to a remainder, by its low byte.
const STEPS: [u32; 256] = steps();

const fn steps() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte: u32 = 0;
    while byte < 256 {
        let (mut remainder, mut bit) = (byte, 0);
        while bit < 8 {
            remainder = remainder >> 1 ^ if remainder & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[byte as usize] = remainder;
        byte += 1;
    }
    table
}

/// The remainder after one more byte.
#[inline]
const fn step(remainder: u32, byte: u8) -> u32 {
    remainder >> 8 ^ STEPS[((remainder ^ byte as u32) & 0xff) as usize]
}

/// The checksum of `packet`, a whole SCTP packet, as its field holds it; whatever the field holds counts as zero.
#[must_use]
pub fn checksum(packet: &[u8]) -> [u8; 4] {
    let field = CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4;
    let bytes = packet.iter().enumerate();
    let remainder = bytes.fold(u32::MAX, |remainder, (place, byte)| {
        step(remainder, if field.contains(&place) { 0 } else { *byte })
    });
    (!remainder).to_le_bytes()
}

/// Writes both ports of a whole SCTP packet, and carries the change into the checksum: a packet that was damaged on its
/// way stays recognisably so.
///
/// # Errors
/// [`Malformed::PortsTruncated`] if the common header is not whole; nothing is changed.
pub fn replace_ports(packet: &mut [u8], new: Ports) -> Result<(), Malformed> {
    if packet.len() < HEADER_LEN {
        return Err(Malformed::PortsTruncated);
    }
    let mut header = PortsMut::parse(packet)?;
    let old = header.view();
    header.replace(new);
    // The checksum is linear: the change's own remainder is the change of the checksum.
    let change = [old.source ^ new.source, old.destination ^ new.destination];
    let mut remainder = change.into_iter().flat_map(u16::to_be_bytes).fold(0, step);
    if remainder == 0 {
        return Ok(());
    }
    for _ in ports::LEN..packet.len() {
        remainder = step(remainder, 0);
    }
    if let Some(field) = packet
        .get_mut(CHECKSUM_OFFSET..)
        .and_then(<[u8]>::first_chunk_mut::<4>)
    {
        *field = (u32::from_le_bytes(*field) ^ remainder).to_le_bytes();
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// "123456789" has the known remainder e3069283 (RFC 3720 appendix B.4 uses the same polynomial).
    #[test]
    fn the_polynomial_is_the_right_one() {
        let remainder = b"123456789".iter().fold(u32::MAX, |r, byte| step(r, *byte));
        assert_eq!(!remainder, 0xe306_9283);
        // RFC 3720 appendix B.4: 32 bytes of zeros.
        let zeros = [0; 32].iter().fold(u32::MAX, |r, byte| step(r, *byte));
        assert_eq!((!zeros).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
    }

    #[test]
    fn new_ports_keep_a_right_checksum_right_and_a_wrong_one_wrong() {
        for len in [HEADER_LEN, 13, 64, 1400] {
            let mut packet: Vec<u8> = (0..=250).cycle().take(len).collect();
            let sum = checksum(&packet);
            packet[CHECKSUM_OFFSET..HEADER_LEN].copy_from_slice(&sum);
            let new = Ports {
                source: 38_412,
                destination: 2905,
            };
            let mut damaged = packet.clone();
            damaged[CHECKSUM_OFFSET] ^= 1;
            replace_ports(&mut packet, new).unwrap();
            assert_eq!(Ports::parse(&packet).unwrap(), new);
            assert_eq!(packet[CHECKSUM_OFFSET..HEADER_LEN], checksum(&packet), "{len}");
            replace_ports(&mut damaged, new).unwrap();
            assert_ne!(damaged[CHECKSUM_OFFSET..HEADER_LEN], checksum(&damaged), "{len}");
        }
        let mut short = [7; HEADER_LEN - 1];
        let new = Ports {
            source: 1,
            destination: 2,
        };
        assert_eq!(replace_ports(&mut short, new), Err(Malformed::PortsTruncated));
        assert_eq!(short, [7; HEADER_LEN - 1]);
    }
}
